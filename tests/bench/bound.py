"""The least that an exact sweep has to run.

An activation has to be computed where it can differ from the kept run and the metric can still read it; nothing else.
A cell is followed block by block as the sets of columns for which that holds:

    queries        where the residual entering the block changed and somebody reads the row
    keys, values   where it changed
    attention      rows with a changed query, or a changed key or value in their reach
    W_O, MLP       where their input changed
    last block     the last column alone is read: one query, and keys and values for it

and every matrix product whose input changed is counted whole, for that token. A column before the first difference
needs nothing, neither does a patch that nothing reads, or that is known to be one of the two runs: where tokens are the
same, so are the residuals, queries, keys and values of block 0. Each cell stands alone: nothing is shared among cells
but the two kept runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from circuits.interventions import Cell, Columns, Patch
from circuits.model import Model
from circuits.prompts import TokenPairs

_FROM_THE_TOKEN = ("embed", "resid_pre", "q", "k", "v")
"""Sites that in block 0 are functions of their own token alone."""
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Work:
    """Floating-point operations of matrix products; tokens × blocks in which one is run; positions read out."""

    flops: int = 0
    token_layers: int = 0
    readouts: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops, self.token_layers + other.token_layers, self.readouts + other.readouts
        )  # fmt: skip

    def __mul__(self, n: int) -> Work:
        return Work(self.flops * n, self.token_layers * n, self.readouts * n)


@dataclass(frozen=True)
class Costs:
    """Operations per token of every part of a model."""

    q: int
    kv: int
    o: int
    up: int
    """Gate included."""
    down: int
    per_key: int
    """Of one query with one key: the product and its part in the mixture of values."""
    unembed: int
    readout: int
    """The pullback's inner product where the metric has one, or else the unembedding."""
    reach: tuple[int | None, ...]
    """Of every block: how many keys a query reaches back, itself included; None: all."""

    @property
    def n_layers(self) -> int:
        return len(self.reach)


def costs_of(model: Model, *, linear: bool) -> Costs:
    """Read off the weights; `linear` says whether the metric has a pullback."""
    sizes = {name: 2 * p.numel() for name, p in model.parts.blocks[0].whole.named_parameters() if p.ndim == 2}
    parts = ("q", "k", "v", "o", "up", "gate", "down")
    found = {part: sum(n for name, n in sizes.items() if f"{part}_proj" in name) for part in parts}
    if sum(found.values()) != sum(sizes.values()):
        raise ValueError(f"a block has matrices other than {', '.join(found)}: {', '.join(sizes)}")
    shape, config = model.shape, model.hf.config
    unembed = 2 * shape.d_vocab * shape.d_model
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * shape.n_layers
    return Costs(
        q=found["q"], kv=found["k"] + found["v"], o=found["o"], up=found["up"] + found["gate"], down=found["down"],
        per_key=4 * shape.n_heads * shape.d_head, unembed=unembed, readout=2 * shape.d_model if linear else unembed,
        reach=tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds),
    )  # fmt: skip


def loop(costs: Costs, cells: int, pairs: int, n_pos: int) -> Work:
    """What one whole forward pass per cell runs: every column of every block, and logits at every column."""
    block = costs.q + costs.kv + costs.o + costs.up + costs.down
    once = costs.n_layers * (n_pos * block + n_pos * n_pos * costs.per_key) + n_pos * costs.unembed
    return Work(once, n_pos * costs.n_layers, n_pos) * (cells * pairs)


def bound(costs: Costs, cells: Sequence[Cell], tokens: TokenPairs) -> Work:
    """The least for a sweep: the two runs of every pair, then every cell."""
    total = Work()
    for pair, subject in enumerate(tokens.subject.tolist()):
        every = frozenset(tokens.mask[pair].nonzero()[:, 0].tolist())
        runs = (
            _follow(costs, "embed", 0, every, tokens.last),
            _follow(costs, "embed", 0, frozenset([subject]), tokens.last),
        )
        total = total + runs[0] + runs[1]
        for (kind, layer, columns), n in Counter(_changed(costs, c, tokens, pair, subject) for c in cells).items():
            total = total + _follow(costs, kind, layer, columns, tokens.last) * n
    return total


def kept_run(costs: Costs, tokens: TokenPairs) -> Work:
    """The run patched into, alone: the sweep's own count of token-layers begins after it."""
    rows = (frozenset(row.nonzero()[:, 0].tolist()) for row in tokens.mask)
    return _sum(_follow(costs, "embed", 0, row, tokens.last) for row in rows)


def _sum(works: Iterable[Work]) -> Work:
    total = Work()
    for work in works:
        total = total + work
    return total


def _changed(
    costs: Costs, cell: Cell, tokens: TokenPairs, pair: int, subject: int
) -> tuple[str, int, frozenset[int]]:  # fmt: skip
    """Site, block and columns of a cell at which something changes; no columns where nothing has to be run."""
    (patch,) = cell
    if not isinstance(patch, Patch) or patch.value is not None:
        raise TypeError("the bound is worked out for patches from the other run, one to a cell")
    kind, layer = patch.site.kind, patch.site.layer
    if kind == "resid_post":
        kind, layer = "resid_pre", layer + 1
    columns = {c for c in _columns(patch.positions, tokens, pair) if c >= subject}
    if kind == "pattern" and patch.keys is not None:
        keys, reach = _columns(patch.keys, tokens, pair), costs.reach[layer] or tokens.n_pos
        columns = {c for c in columns if any(c - reach < key <= c for key in keys)}
    if layer == 0 and kind in _FROM_THE_TOKEN:
        columns &= {subject}
        if kind in ("embed", "resid_pre"):
            columns = set()  # the one column that differs, replaced: the other run
    return kind, layer, frozenset(columns)


def _columns(where: object, tokens: TokenPairs, pair: int) -> list[int]:
    if isinstance(where, Columns):
        chosen = torch.zeros(tokens.n_pos, dtype=torch.bool)
        chosen[list(where.columns)] = True
        return (tokens.mask[pair] & chosen).nonzero()[:, 0].tolist()
    return tokens.position_mask(where)[pair].nonzero()[:, 0].tolist()


@cache
def _follow(costs: Costs, kind: str, layer: int, columns: frozenset[int], last: int) -> Work:
    """One cell, from the block of its site to the readout."""
    if not columns:
        return Work()
    total, resid = Work(), columns if kind in ("embed", "resid_pre") else _NONE
    for block in range(layer, costs.n_layers):
        inside = (kind, columns) if block == layer else ("", _NONE)
        work, resid = _block(costs, block, resid, *inside, last)
        total = total + work
    return total + (Work(costs.readout, 0, 1) if last in resid else Work())


def _block(
    costs: Costs, layer: int, entered: frozenset[int], kind: str, columns: frozenset[int], last: int
) -> tuple[Work, frozenset[int]]:  # fmt: skip
    """What a block has to run, and the columns at which what leaves it has changed."""
    read = frozenset(range(last + 1)) if layer < costs.n_layers - 1 else frozenset([last])
    reach = costs.reach[layer] or last + 1

    def at(*kinds: str) -> frozenset[int]:
        return columns & read if kind in kinds else _NONE

    queries = entered & read
    values = entered | (columns if kind in ("k", "v") else _NONE)
    rows = queries | at("q") | {c for c in read if any(c - reach < v <= c for v in values)}
    mixed = rows | at("pattern")
    z = mixed | at("z")
    mid = queries | z | at("result", "attn_out", "resid_mid")
    left = mid | at("post", "mlp_out")
    keys = sum(min(c + 1, reach) * (2 if c in rows else 1) for c in mixed)
    flops = (
        costs.q * len(queries) + costs.kv * len(entered) + costs.per_key * keys // 2 + costs.o * len(z)
        + costs.up * len(mid) + costs.down * len(mid | at("post"))
    )  # fmt: skip
    return Work(flops, len(entered | mid | at("post"))), left
