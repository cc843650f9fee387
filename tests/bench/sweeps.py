"""The sweeps that are measured: our cells, and the function and the rows with which transformer_lens makes the same."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import Tensor
from transformer_lens import patching

from circuits.engine import sweep
from circuits.interventions import Cell, Columns, Patch
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts import TokenPairs
from circuits.sites import Site, SiteKind

Theirs = Callable[..., Tensor]


@dataclass(frozen=True)
class Sweep:
    """A list of cells and, in the same order, the rows of the other library's index."""

    name: str
    title: str
    cells: list[Cell]
    rows: list[tuple[int, ...]]
    function: Theirs
    needs_result: bool = False
    """Whether the other library has to be told to keep each head's own product with W_O."""

    def part(self, chosen: Sequence[int]) -> Sweep:
        """The same sweep with these cells alone."""
        return replace(self, cells=[self.cells[i] for i in chosen], rows=[self.rows[i] for i in chosen])

    def of_layers(self, n: int) -> Sweep:
        """All cells of `n` layers spread over the model."""
        depth = 1 + max(row[0] for row in self.rows)
        kept = {(2 * i + 1) * depth // (2 * n) for i in range(n)} if n < depth else set(range(depth))
        part = self.part([i for i, row in enumerate(self.rows) if row[0] in kept])
        return part if n >= depth else replace(part, title=f"{self.title} ({n} layers)")

    def sampled(self, n: int, seed: int = 0) -> Sweep:
        """`n` random cells of it, in order."""
        return self.part(sorted(random.Random(seed).sample(range(len(self.cells)), min(n, len(self.cells)))))


def sweeps(model: Model, tokens: TokenPairs) -> dict[str, Sweep]:
    """One for every function of `transformer_lens.patching` and for the sites its generic one can name."""
    shape, n_pos = model.shape, tokens.n_pos
    layers, columns, heads, kv = range(shape.n_layers), range(n_pos), range(shape.n_heads), range(shape.n_kv_heads)
    generic = patching.generic_activation_patch

    def columnwise(name: str, title: str, kind: SiteKind, function: Theirs, **more: Any) -> Sweep:
        rows = list(itertools.product(layers, columns))
        return Sweep(name, title, [(Patch(Site(kind, r[0]), r[1] - n_pos),) for r in rows], rows, function, **more)

    def by_position(name: str, title: str, kind: SiteKind, index: range, function: Theirs, **more: Any) -> Sweep:
        rows = list(itertools.product(layers, columns, index))
        cells: list[Cell] = [(Patch(Site(kind, r[0], r[2]), r[1] - n_pos),) for r in rows]
        return Sweep(name, title, cells, rows, function, **more)

    def everywhere(name: str, title: str, kind: SiteKind, index: range, function: Theirs) -> Sweep:
        rows = list(itertools.product(layers, index))
        return Sweep(name, title, [(Patch(Site(kind, r[0], r[1])),) for r in rows], rows, function)

    vector = partial(generic, patch_setter=patching.layer_pos_head_vector_patch_setter, activation_name="result")
    column = partial(generic, patch_setter=patching.layer_pos_patch_setter)
    rows = list(itertools.product(layers, heads, columns))
    by_row: list[Cell] = [(Patch(Site("pattern", r[0], r[1]), r[2] - n_pos),) for r in rows]
    squares = list(itertools.product(layers, heads, columns, columns))
    by_key: list[Cell] = [(Patch(Site("pattern", r[0], r[1]), r[2] - n_pos, keys=Columns((r[3],))),) for r in squares]
    cell = Sweep(
        "pattern-cell", "pattern, layer × head × row × key", by_key, squares,
        patching.get_act_patch_attn_head_pattern_dest_src_pos,
    )  # fmt: skip
    few = cell.part([i for i, row in enumerate(squares) if row[1] < 2]).of_layers(3)
    few = replace(few, title="pattern, 3 layers × 2 heads × row × key")
    by_pos, all_pos = "layer × pos × head", "all positions"
    found = [
        columnwise("resid_pre", "residual entering, layer × pos", "resid_pre", patching.get_act_patch_resid_pre),
        columnwise("attn_out", "attention out, layer × pos", "attn_out", patching.get_act_patch_attn_out),
        columnwise(
            "resid_mid", "residual between, layer × pos", "resid_mid", partial(column, activation_name="resid_mid")
        ),
        columnwise("mlp_out", "MLP out, layer × pos", "mlp_out", patching.get_act_patch_mlp_out),
        columnwise("post", "MLP neurons, layer × pos", "post", partial(column, activation_name="post")),
        by_position("z", f"heads, {by_pos}", "z", heads, patching.get_act_patch_attn_head_out_by_pos),
        by_position("result", f"heads' products, {by_pos}", "result", heads, vector, needs_result=True).of_layers(6),
        by_position("q", f"queries, {by_pos}", "q", heads, patching.get_act_patch_attn_head_q_by_pos).of_layers(6),
        by_position("k", f"keys, {by_pos}", "k", kv, patching.get_act_patch_attn_head_k_by_pos),
        by_position("v", f"values, {by_pos}", "v", kv, patching.get_act_patch_attn_head_v_by_pos),
        Sweep(
            "pattern-row", "pattern, layer × head × row", by_row, rows, patching.get_act_patch_attn_head_pattern_by_pos
        ).of_layers(6),
        few,
        everywhere("z-all", f"heads, {all_pos}", "z", heads, patching.get_act_patch_attn_head_out_all_pos),
        everywhere("q-all", f"queries, {all_pos}", "q", heads, patching.get_act_patch_attn_head_q_all_pos),
        everywhere("k-all", f"keys, {all_pos}", "k", kv, patching.get_act_patch_attn_head_k_all_pos),
        everywhere("v-all", f"values, {all_pos}", "v", kv, patching.get_act_patch_attn_head_v_all_pos),
        everywhere(
            "pattern-all", f"pattern, {all_pos}", "pattern", heads, patching.get_act_patch_attn_head_pattern_all_pos
        ),
    ]  # fmt: skip
    return {s.name: s for s in found}


class Sides:
    """Ours and theirs, on one model, the same pairs and the same metric."""

    def __init__(self, model: Model, tokens: TokenPairs, metric: Metric) -> None:
        self.model, self.tokens, self.metric = model, tokens, metric
        self._bound = metric.bind(tokens)
        self._cache: dict[bool, Any] = {}
        self.ours([(Patch(Site("mlp_out", 1), "subject"),)])  # whatever is done only once is done now

    def ours(self, cells: Sequence[Cell], *, audited: bool = True) -> Any:
        """Our sweep: both runs, every cell, the certificate."""
        return sweep(self.model, self.tokens, self.metric, cells, audited=audited)

    def theirs(self, s: Sweep) -> Tensor:
        """Their loop, metric averaged over pairs; the clean run that it patches from is there already."""
        cache = self.kept(s)
        with self._told(s), torch.no_grad(), mock.patch.object(patching, "tqdm", list):  # it draws a bar per sweep
            return s.function(
                self.model.bridge, self.tokens.corrupt, cache, lambda logits: self._bound(logits[None, :, -1])[0].mean(),
                index_axis_names=None, index_df=pd.DataFrame(s.rows),
            )  # fmt: skip

    def kept(self, s: Sweep) -> Any:
        """Their clean run, made once."""
        if s.needs_result not in self._cache:
            with self._told(s), torch.no_grad():
                self._cache[s.needs_result] = self.model.bridge.run_with_cache(self.tokens.clean)[1]
        return self._cache[s.needs_result]

    @contextmanager
    def _told(self, s: Sweep) -> Iterator[None]:
        self.model.bridge.set_use_attn_result(s.needs_result)
        try:
            yield
        finally:
            self.model.bridge.set_use_attn_result(use_attn_result=False)
