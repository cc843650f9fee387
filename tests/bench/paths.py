"""Edges of the residual stream, beside a loop of one whole forward pass for each with what the receiver becomes given.

The loop is spared all that leads to a receiver: its time is that of its passes alone, unembedded at the last position. Ours
is that of everything: both runs, what senders change, receivers computed again, every edge, the certificate.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from measure import in_turn, timed
from models import Size, random_model, random_pairs
from page import Table, section, times
from torch import Tensor

from circuits.engine.capture import Run, capture
from circuits.engine.edges import METRIC, Edge, all_edges, all_senders
from circuits.engine.edges.carried import Carrier
from circuits.engine.edges.differences import Differences, sites_of_senders
from circuits.engine.edges.names import read_at
from circuits.engine.edges.paths import along_paths
from circuits.engine.edges.received import received
from circuits.engine.edits import bind
from circuits.engine.oracle import cell_logits
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay
from circuits.engine.source import source_of
from circuits.interventions import Cell, Patch
from circuits.metrics import RefusalMetric
from circuits.model import Model, load
from circuits.prompts import TokenPairs, toy_refusal_pairs
from circuits.sites import Site, parse

COLUMNS = ("edges, receivers changed at", "edges", "per second", "loop", "ratio", "largest effect", "difference")
_EVERY = 11
"""Of the senders in order, one in so many; they are prime to the senders of a block, so that all kinds are among them."""


def measure(size: Size, *, sample: int, repeats: int) -> dict[str, Any]:
    """A part of the whole graph, kind by kind, and all edges of the bundled model."""
    model = random_model(size)
    tokens, metric = random_pairs(size, model), RefusalMetric(model, "w9")
    some = all_edges(model, all_senders(model)[::_EVERY])
    sides = _Sides(model, tokens, metric)
    table = Table(COLUMNS).head()
    for where in ("all", "last"):
        kinds = dict.fromkeys(edge.kind for edge in some)
        _add(table, sides, f"of the whole graph, {where}", some, where, sample, repeats)
        for kind in kinds:
            of_kind = [edge for edge in some if edge.kind == kind]
            _add(table, sides, f"into {kind}, {where}", of_kind, where, sample, repeats)
    whole = _bundled()
    print(whole)
    return section(size.line, table=table.text, sample=sample, graph=len(all_edges(model)), bundled=whole)


def _bundled() -> str:
    model = load()
    tokens, edges = toy_refusal_pairs().tokenize(model), all_edges(model)
    swept, seconds = timed(lambda: along_paths(model, tokens, RefusalMetric(model, "I"), edges))
    return (
        f"{len(edges):,} edges of {model.name}, {tokens.n_pairs} pairs of up to {tokens.n_pos} tokens, "
        f"{seconds:.1f} s; {swept.certificate.line}"
    )


def _add(table: Table, sides: _Sides, title: str, edges: Sequence[Edge], where: Any, sample: int, repeats: int) -> None:
    chosen = sorted(random.Random(0).sample(range(len(edges)), min(sample or len(edges), len(edges))))
    cells = sides.cells([edges[i] for i in chosen], where)
    ours: list[Any] = []
    theirs: list[Tensor] = []
    ours_s, theirs_s = in_turn(
        lambda: ours.append(along_paths(sides.model, sides.tokens, sides.metric, edges, positions=where)),
        lambda: theirs.append(sides.loop(cells)), repeats=repeats,
    )  # fmt: skip
    difference = (theirs[0] - ours[0].value[chosen]).abs().max().item()
    if difference > 1e-4 * max(1.0, theirs[0].abs().max().item()):
        raise ValueError(f"{title}: the two sides differ by {difference:.1e}; their times cannot be compared")
    per_second = len(edges) / ours_s, len(chosen) / theirs_s
    table.add(
        title, f"{len(edges)}", *(f"{rate:.1f}" for rate in per_second), times(per_second[0] / per_second[1]),
        f"{(ours[0].value - ours[0].base).abs().max():.1e}", f"{difference:.1e}",
    )  # fmt: skip


class _Sides:
    """What a loop of forward passes is given."""

    def __init__(self, model: Model, tokens: TokenPairs, metric: RefusalMetric) -> None:
        self.model, self.tokens, self.metric = model, tokens, metric
        kept = sites_of_senders(all_senders(model))
        self._base = capture(model, tokens.clean, tokens.mask, kept)
        self._replay = Replay(model, self._base)
        self._start = tokens.first_difference
        source: Run = source_of(self._replay, tokens.corrupt, kept, self._start)
        self._differences = Differences(model, self._base, source, self._start)
        self._readout = Readout(model, metric.bind(tokens))

    def cells(self, edges: Sequence[Edge], where: Any) -> list[Cell]:
        """Every edge as a patch of its receiver with the value that it takes."""
        return [(self._patch(edge, where),) for edge in edges]

    def _patch(self, edge: Edge, where: Any) -> Patch:
        step = read_at(edge.receiver)
        stream = Carrier(self._replay, self._differences).stream(step) + self._differences.of(edge.sender)
        if edge.receiver == METRIC:
            return Patch(Site("resid_post", self.model.shape.n_layers - 1), "last", self._padded(stream[0]))
        site = parse(edge.receiver)
        part = "mlp" if site.kind == "mlp_out" else "attention"
        made = received(self._replay, step[0], part, stream, self._start)[site.kind][0]
        return Patch(site, where, self._padded(made if site.index is None else made[:, :, site.index]))

    def _padded(self, value: Tensor) -> Tensor:
        """On all columns; those before the first difference are never taken."""
        base = value.new_zeros(value.shape[0], self._start, value.shape[-1])
        return torch.cat([base, value], 1)

    def loop(self, cells: Sequence[Cell]) -> Tensor:
        """One whole forward pass per edge."""
        found: list[Tensor] = []
        for cell in cells:
            bound = bind(self.model, self.tokens, cell, None)
            for b in bound:
                b.mask[:, : self._start] = False
            logits = cell_logits(self.model, self._base.tokens, self._base.mask, bound)
            found.append(self._readout.of_logits(logits[None])[0])
        return torch.stack(found)
