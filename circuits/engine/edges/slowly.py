"""A sample of edges for the audit, whose receivers are read in whole forward passes, nothing resumed.

The cells that it gives patch each receiver with what it was seen to make of the stream with the sender's change in it. So
the audit's oracle finds an edge off if a receiver was recomputed wrongly, or if what follows from it was.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.edges.carried import MLP, Carrier
from circuits.engine.edges.names import METRIC, Edge, Step, parallel, read_at, written_at
from circuits.engine.edits import Bound, bind, columns_of
from circuits.engine.oracle import cell_logits
from circuits.engine.replay import Replay, Rows
from circuits.engine.sample import Sample
from circuits.interventions import Cell, Patch, Where
from circuits.model.hooks import Edit
from circuits.prompts.align import TokenPairs
from circuits.sites import Site, parse


def slow_sample(
    replay: Replay, tokens: TokenPairs, carrier: Carrier, edges: Sequence[Edge], positions: Where,
    value: Float[Tensor, "cell pair"],
) -> tuple[list[int], Sample]:  # fmt: skip
    """Which edges, and these, each on one random pair: one in 400 but at least two (at most eight), and one of every kind."""
    rng = random.Random(0)  # noqa: S311  not for secrets
    chosen = _chosen(edges, rng)
    asked = columns_of(tokens, positions).any(1).nonzero()[:, 0].tolist() or list(range(tokens.n_pairs))
    order = rng.sample(asked, len(asked))
    on = [order[i % len(order)] for i, _ in enumerate(chosen)]
    streams = _streams(carrier, [edges[i] for i in chosen])
    seen = _received(replay, tokens, [edges[i] for i in chosen], streams, on)
    cells: list[Cell] = []
    for i, stream, made in zip(chosen, streams, seen, strict=True):
        if edges[i].receiver == METRIC:
            cells.append((Patch(Site("resid_post", replay.n_layers - 1), "last", stream),))
        else:
            cells.append((Patch(parse(edges[i].receiver), positions, made),))
    return chosen, Sample(cells, on, value[chosen, on])


def _chosen(edges: Sequence[Edge], rng: random.Random) -> list[int]:
    kinds: dict[str, list[int]] = {}
    for i, edge in enumerate(edges):
        kinds.setdefault(edge.kind, []).append(i)
    drawn = [rng.choice(kinds[kind]) for kind in sorted(kinds)]
    left = sorted(set(range(len(edges))) - set(drawn))
    missing = min(len(edges), max(2, min(8, len(edges) // 400))) - len(drawn)
    return drawn + rng.sample(left, max(0, missing))


def _streams(carrier: Carrier, edges: Sequence[Edge]) -> list[Float[Tensor, "pair pos d_model"]]:
    """The whole stream that every edge's receiver reads."""
    senders = sorted({edge.sender for edge in edges}, key=written_at)
    found: dict[int, Tensor] = {}

    def read(step: Step, rows: Rows) -> None:
        for i, edge in enumerate(edges):
            if read_at(edge.receiver) == step:
                row = senders.index(edge.sender)
                base = carrier.stream(step, whole=True)[0]
                found[i] = torch.cat([base[:, : carrier.first], base[:, carrier.first :] + rows[row]], 1)

    carrier.carry(senders, max(read_at(edge.receiver) for edge in edges), read)
    return [found[i] for i in range(len(edges))]


def _received(
    replay: Replay, tokens: TokenPairs, edges: Sequence[Edge], streams: Sequence[Float[Tensor, "pair pos d_model"]],
    on: Sequence[int],
) -> list[Float[Tensor, "pos size"]]:  # fmt: skip
    """What every receiver makes of its stream, in one whole forward pass with the stream in its place; row i on pair on[i]."""
    n = len(edges)
    base = replay.base
    bound: list[Bound] = []
    reads: dict[Site, Edit] = {}
    seen: dict[Site, Tensor] = {}

    def keep(site: Site) -> Edit:
        def look(activation: Tensor) -> None:
            seen[site] = activation.clone()

        return look

    for i, (edge, stream) in enumerate(zip(edges, streams, strict=True)):
        if edge.receiver == METRIC:
            continue
        receiver = parse(edge.receiver)
        reads[receiver.whole] = keep(receiver.whole)
        before = "resid_mid" if read_at(edge.receiver)[1] == MLP and not parallel(replay.model) else "resid_pre"
        cell = (Patch(Site(before, receiver.layer), "all", stream),)
        bound += [b.at_row(i, on[i], n) for b in bind(replay.model, tokens, cell, None)]
    if reads:
        cell_logits(replay.model, base.tokens[list(on)], base.mask[list(on)], tuple(bound), reads)
    found: list[Tensor] = []
    for i, edge in enumerate(edges):
        if edge.receiver == METRIC:
            found.append(streams[i][on[i]])
            continue
        receiver = parse(edge.receiver)
        made = seen[receiver.whole][i]
        found.append(made if receiver.index is None else made[:, receiver.index])
    return found
