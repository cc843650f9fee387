"""Edges: what would change if one receiver alone read the source run's write of one sender? To first order.

    score(u → v) = ⟨what u writes in the source run − in the base run, gradient at what v reads⟩

    eap                 gradients at the base run
    eap-ig-inputs       averaged over inputs on the way from base to source; one step is eap
    eap-ig-activations  … over what the sender's part of its block writes on that way, attention as a whole; a run for
                        each of them

Whatever the number of steps, the edges out of a sender add up to its node's score (the gradient at its own write, with
the same averaging), and those into a receiver, over all senders, to ⟨change of the stream it reads, its gradient⟩: into
the metric, what the final stream's change explains at that gradient. With many steps of `eap-ig-inputs` the edges out
of the embedding add up to metric of source − metric of base; so do, of `eap-ig-activations`, those out of a part of a
block to the effect of patching it.

Sources: Syed et al., arXiv 2310.10348 (EAP); Hanna et al., arXiv 2403.17806 (EAP-IG: k/m of the way, k = 1 … m, counted
from the source run, so that the base run is in the sum). There every activation interpolated adds to every edge's
gradient in `eap-ig-activations`; here only what the sender writes does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.edges import Edge, Written, all_edges, all_receivers, all_senders, check_edges
from circuits.engine.edges.names import written_at
from circuits.engine.edges.written import SITES
from circuits.engine.receiver_gradients import ReceiverGradients, final_stream, sites
from circuits.engine.sweep import Direction
from circuits.measure.screens.passes import Runs, only, require, screened, shares
from circuits.measure.screens.result import Screen
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.sites import Site, SiteKind, parse
from circuits.tables import provenance

EdgeMethod = Literal["eap", "eap-ig-inputs", "eap-ig-activations"]
EDGE_METHODS: Final[tuple[EdgeMethod, ...]] = get_args(EdgeMethod)
_KEPT: Final[tuple[SiteKind, ...]] = SITES
Flat = Float[Tensor, "pair cell size"]
"""Vectors over all positions, one per sender or receiver."""


def screen_edges(
    model: Model, tokens: TokenPairs, metric: Metric, *, method: EdgeMethod = "eap-ig-inputs",
    edges: Sequence[Edge] | None = None, direction: Direction = "noise", steps: int = 5,
) -> Screen:  # fmt: skip
    """Estimate the effect of every edge (`all_edges`), at all positions together. Units of the metric.

    Passes over all prompts: two forward, and `steps` forward and backward (eap: one; on activations: `steps` for the
    embedding, every attention and every MLP). Raises, before anything is run, UndefinedError for an unknown method, fewer
    than one step or a metric without a gradient, SiteError for fewer than two edges or one that does not exist.
    """
    chosen = all_edges(model) if edges is None else list(edges)
    require(model, tokens, metric, method, EDGE_METHODS, steps, chosen)
    check_edges(model, chosen)
    for kind in ("q", "k", "v"):
        model.parts.locate(Site(kind, 0))
    plan = _Plan(model, chosen)
    groups = plan.groups if method == "eap-ig-activations" else [plan.senders]
    many = [0.0] if method == "eap" else shares(steps)

    def score(runs: Runs) -> Float[Tensor, "pair cell"]:
        reading = _Reading(model, runs, plan)
        scores = torch.zeros(len(runs.pairs), len(chosen), dtype=runs.base.resid[0].dtype, device=model.device)
        for senders in groups:
            between = {"eap": None, "eap-ig-inputs": Site("resid_pre", 0), "eap-ig-activations": _written(senders[0])}
            reading.score(senders, between[method], many, scores)
        return scores

    kept = [Site(kind, layer) for layer in range(model.shape.n_layers) for kind in _KEPT]
    floats = (len(plan.senders) + len(plan.receivers)) * tokens.n_pos * model.shape.d_model
    value, base, source = screened(model, tokens, metric, direction, kept, len(chosen), score, floats)
    passes = len(many) * len(groups)
    return Screen(
        provenance=provenance(model, tokens, metric), score=value, base=base, source=source,
        names=tuple(edge.label for edge in chosen), senders=tuple(edge.sender for edge in chosen),
        receivers=tuple(edge.receiver for edge in chosen), method=method, direction=direction, positions="all",
        steps=len(many), forward_passes=passes + 2, backward_passes=passes,
    )  # fmt: skip


@final
@dataclass(frozen=True)
class _Entry:
    """Edges into the receivers of one block (or into the metric), as places in tables."""

    layer: int
    """n_layers: the metric."""
    receivers: tuple[int, ...]
    """Among all receivers of the block."""
    edges: tuple[tuple[int, str, int], ...]
    """(edge, sender, place in `receivers`)"""


@final
class _Plan:
    """Edges sorted by the block that reads, and their senders in the order in which they write."""

    def __init__(self, model: Model, edges: Sequence[Edge]) -> None:
        used = {edge.sender for edge in edges}
        order = all_senders(model)
        self.senders = sorted(used, key=lambda s: (written_at(s), order.index(s) if s in order else -1))
        self.receivers = {edge.receiver for edge in edges}
        groups: dict[object, list[str]] = {}
        for sender in self.senders:
            groups.setdefault(written_at(sender), []).append(sender)
        self.groups = list(groups.values())
        rows = {name: i for i, name in enumerate(all_receivers(model))}
        a_block = (len(rows) - 1) // model.shape.n_layers
        by_layer: dict[int, list[tuple[int, Edge]]] = {}
        for i, edge in enumerate(edges):
            by_layer.setdefault(rows[edge.receiver] // a_block, []).append((i, edge))
        self.entries: list[_Entry] = []
        for layer, here in sorted(by_layer.items()):
            places = sorted({rows[edge.receiver] % a_block for _, edge in here})
            found = tuple((i, edge.sender, places.index(rows[edge.receiver] % a_block)) for i, edge in here)
            self.entries.append(_Entry(layer, tuple(places), found))


@final
class _Reading:
    """Gradients at receivers, averaged over runs between the two of some pairs, against what senders write."""

    def __init__(self, model: Model, runs: Runs, plan: _Plan) -> None:
        self._model, self._runs, self._plan = model, runs, plan
        self._pulled = ReceiverGradients(model)
        self._changes = _changes(model, runs, plan.senders)

    def score(
        self, senders: Sequence[str], where: Site | None, many: Sequence[float], scores: Float[Tensor, "pair cell"]
    ) -> None:
        """Fill the scores of all edges out of `senders`: `where` is what stands between the runs."""
        mine = {sender: place for place, sender in enumerate(senders)}
        entries = [e for e in self._plan.entries if any(sender in mine for _, sender, _ in e.edges)]
        gradients = self._averaged(entries, where, many)
        changes = torch.stack([self._changes[sender] for sender in senders], 1)
        for entry in entries:
            edges = [(i, mine[sender], row) for i, sender, row in entry.edges if sender in mine]
            reach = 1 + max(place for _, place, _ in edges)
            products = changes[:, :reach] @ gradients[entry.layer].transpose(1, 2)
            at, rows, columns = (torch.tensor(each, device=scores.device) for each in zip(*edges, strict=True))
            scores[:, at] = products[:, rows, columns]

    def _averaged(self, entries: Sequence[_Entry], where: Site | None, many: Sequence[float]) -> dict[int, Flat]:
        n_layers = self._model.shape.n_layers
        layers = [entry.layer for entry in entries if entry.layer < n_layers]
        wanted = list(dict.fromkeys([*sites(layers), Site("mlp_out", n_layers - 1)]))
        summed: dict[int, Tensor] = {}
        for share in many:
            given = {} if where is None else {where: self._runs.between(where, share)}
            found = self._runs.gradients(wanted, given)
            for entry in entries:
                if entry.layer < n_layers:
                    every = self._pulled.block(entry.layer, found)
                    rows = every if len(every) == len(entry.receivers) else every[list(entry.receivers)]
                else:
                    rows = final_stream(self._model, found)[None]
                summed[entry.layer] = rows if entry.layer not in summed else summed[entry.layer] + rows
        return {layer: (rows / len(many)).transpose(0, 1).flatten(2) for layer, rows in summed.items()}


def _written(sender: str) -> Site:
    """What a sender's part of its block writes, the sender among it."""
    layer, part = written_at(sender)
    return Site("resid_pre", 0) if layer < 0 else Site("mlp_out" if part else "attn_out", layer)


def _changes(model: Model, runs: Runs, senders: Sequence[str]) -> dict[str, Float[Tensor, "pair size"]]:
    """Source minus base of what every sender writes, over all positions; 0 at padding."""
    written = Written(model, runs.base)
    found: dict[str, Tensor] = {}
    for layer in sorted({written_at(sender)[0] for sender in senders} - {-1}):
        z, out = Site("z", layer), Site("attn_out", layer)
        base, source = (written.heads(layer, runs.value(run, z)[None])[0] for run in (runs.base, runs.source))
        for sender in senders:
            if written_at(sender) == (layer, 0):
                if sender.endswith("post-norm"):
                    after, before = (
                        written.post_norm(layer, heads[None], runs.value(run, out)[None])[0]
                        for run, heads in ((runs.source, source), (runs.base, base))
                    )
                    found[sender] = after - before
                else:
                    index = parse(sender).index
                    found[sender] = runs.difference(out) if index is None else source[:, :, index] - base[:, :, index]
    for sender in senders:
        if sender not in found:
            layer, _ = written_at(sender)
            found[sender] = runs.difference(Site("resid_pre", 0) if layer < 0 else Site("mlp_out", layer))
    return {sender: only(runs.real, change).flatten(1) for sender, change in found.items()}
