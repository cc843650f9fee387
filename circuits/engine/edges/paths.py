"""Path patching, exactly: the metric where one receiver alone reads what one sender gives in the source run.

1. What senders change in the stream is carried to the block of every receiver, directly or through named components
   (carried); everything else is frozen at the base run.
2. A receiver makes of the base run's stream plus that change whatever its block makes of it: the norm in front of it has
   its own new scale (received).
3. The receiver alone is patched with this, and everything after it runs on freely (receivers). Of the receiver `metric`
   only the final norm, the unembedding and the metric are computed again.

Senders go in parts that fit into memory; the rows of all their edges share wavefronts.
Source: Wang et al., "Interpretability in the Wild", and Goldowsky-Dill et al., "Localizing Model Behavior with Path
Patching".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.audit import audit
from circuits.engine.batches import rows_at_once
from circuits.engine.capture import capture
from circuits.engine.certificate import Certificate
from circuits.engine.edges.carried import ATTENTION, MLP, Carrier
from circuits.engine.edges.differences import TOLERANCE, Differences, sites_of_senders
from circuits.engine.edges.names import METRIC, Edge, Step, check_edges, check_mediators, parallel, read_at, written_at
from circuits.engine.edges.received import received
from circuits.engine.edges.receivers import Given, Receivers
from circuits.engine.edges.slowly import slow_sample
from circuits.engine.edits import columns_of
from circuits.engine.kept import recall
from circuits.engine.progress import advance, listening, part_of_it
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay, Rows
from circuits.engine.source import source_of
from circuits.engine.sweep import Direction, Swept
from circuits.engine.task import block_work, work_of_token
from circuits.engine.values import values
from circuits.errors import AuditError, SiteError, UndefinedError
from circuits.interventions import Where
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.sites import Site, parse


def along_paths(  # noqa: PLR0913  what is measured, along what, and how
    model: Model, tokens: TokenPairs, metric: Metric, edges: Sequence[Edge], *, through: Sequence[str] = (),
    positions: Where = "all", direction: Direction = "noise", audited: bool = True, max_memory: int | None = None,
) -> Swept:  # fmt: skip
    """Measure every edge on every pair; a cell is an edge. Values are fp32, on the CPU.

    `positions` are those of the receiver that are changed (the metric reads the last one whatever they are); a sender's
    change counts at all of them. Raises SiteError (nothing run yet) without edges, for ends or components of `through` that
    the model lacks, that come in the wrong order or twice, and for positions that some prompt lacks; AuditError if a check
    of the result fails.
    """
    if not edges:
        raise SiteError("no edges to patch along; give at least one")
    check_edges(model, edges)
    check_mediators(model, through)
    where = columns_of(tokens, positions)
    bound = metric.bind(tokens)
    ends = (tokens.clean, tokens.corrupt)
    base_ids, source_ids = ends if direction == "noise" else ends[::-1]
    senders = {edge.sender for edge in edges} | set(through)
    sites = sites_of_senders(senders) | _sites_of_receivers(model, edges, through)
    replay = Replay(model, capture(model, base_ids, tokens.mask, sites), max_memory=max_memory)
    source = source_of(replay, source_ids, sites, tokens.first_difference)
    of_source = replay.token_layers
    readout = Readout(model, bound)
    differences = Differences(model, replay.base, source, tokens.first_difference)
    carrier = Carrier(replay, differences, through)
    base_value, source_value = (readout(run.resid[-1][None, :, -1])[0] for run in (replay.base, source))
    value = base_value.repeat(len(edges), 1)
    counts = torch.zeros(2, dtype=torch.long)
    for mine in _blocks(model, tokens, edges):
        some = [edges[i] for i in mine]

        def measured(some: list[Edge] = some) -> dict[str, Tensor]:
            before = replay.token_layers, replay.fired
            found = base_value.repeat(len(some), 1)
            _Effects(replay, readout, carrier, some, where, found).run()
            return {"value": found, "counts": torch.tensor([replay.token_layers - before[0], replay.fired - before[1]])}

        asked = (model, tokens, metric, bound, direction, max_memory, list(through), positions, some)
        with part_of_it(len(some) / len(edges)):
            part = recall("paths", asked, measured)
        value[mine] = part["value"].to(value)
        counts += part["counts"]
    if not value.isfinite().all():
        cell = int((~value.isfinite()).any(1).nonzero()[0])
        raise UndefinedError(f"{model.name}: {edges[cell].label} gives a metric that is not finite in {model.dtype}")
    certificate = Certificate(cells=len(edges), token_layers=of_source + int(counts[0]), fired=int(counts[1]))
    if audited:
        differences.check(sorted({written_at(s)[0] for s in senders if Site("z", written_at(s)[0]) in sites}))
        chosen, sample = slow_sample(replay, tokens, carrier, edges, positions, value)
        certificate = audit(replay, source, tokens, readout, metric, sample, values, certificate)
        unchanged = Carrier(replay, Differences(model, replay.base, replay.base, tokens.first_difference), through)
        own = _self_patch(replay, readout, unchanged, [edges[i] for i in chosen], where)
        certificate = dataclasses.replace(certificate, self_patch=own)
    return Swept(value.cpu(), base_value.cpu(), source_value.cpu(), certificate)


def _blocks(model: Model, tokens: TokenPairs, edges: Sequence[Edge]) -> list[list[int]]:
    """The edges of some senders each, in blocks of about the same work: an edge runs half of the blocks, as a rule."""
    by_sender: dict[str, list[int]] = {}
    for i, edge in enumerate(edges):
        by_sender.setdefault(edge.sender, []).append(i)
    first = tokens.first_difference
    of_one = work_of_token(model) * tokens.n_pairs * (tokens.n_pos - first) * model.shape.n_layers / 2
    blocks: list[list[int]] = [[]]
    for sender in sorted(by_sender, key=written_at):
        if blocks[-1] and of_one * (len(blocks[-1]) + len(by_sender[sender])) > block_work():
            blocks.append([])
        blocks[-1] += by_sender[sender]
    return blocks


def _sites_of_receivers(model: Model, edges: Sequence[Edge], through: Sequence[str]) -> set[Site]:
    """What the base run has to keep so that MLPs among receivers and components can be recomputed."""
    steps = [read_at(edge.receiver) for edge in edges if edge.receiver != METRIC] + [written_at(m) for m in through]
    mlps = {layer for layer, part in steps if part == MLP}
    sites = {Site("mlp_out", layer) for layer in mlps}
    return sites if parallel(model) else sites | {Site("attn_out", layer) for layer in mlps}


def _self_patch(
    replay: Replay, readout: Readout, unchanged: Carrier, edges: Sequence[Edge], where: Bool[Tensor, "pair pos"]
) -> float:
    """How far edges are from the base run's metric when their senders give what they give in it: rounding alone.

    Raises AuditError where it is more.
    """
    base = readout(replay.base.resid[-1][None, :, -1])[0]
    found = base.repeat(len(edges), 1)
    if where[:, unchanged.first :].any():
        found.fill_(torch.nan)  # so that an edge which is not run is seen
    with listening(lambda _: None):
        _Effects(replay, readout, unchanged, edges, where, found).run()
    deviation = (found - base).abs().nan_to_num(torch.inf).max().item()
    allowed = TOLERANCE.get(replay.model.dtype, 5e-2) * max(1.0, base.abs().max().item())
    if not deviation <= allowed:
        raise AuditError(
            f"{replay.model.name}: edges that carry no change move the metric by {deviation:.1e} (at most {allowed:.1e}); "
            "do not use these numbers"
        )
    return deviation


@final
class _Effects:
    """Fills in the metric of every edge."""

    def __init__(
        self, replay: Replay, readout: Readout, carrier: Carrier, edges: Sequence[Edge], where: Bool[Tensor, "pair pos"],
        value: Float[Tensor, "cell pair"],
    ) -> None:  # fmt: skip
        self._replay, self._readout, self._carrier, self._value = replay, readout, carrier, value
        self._first = carrier.first
        changed = where[:, self._first :].any(0).nonzero()
        self._start = self._first + int(changed[0]) if len(changed) else None
        self._receivers = Receivers(replay, readout, where, self._start or self._first, value)
        self._wanted: dict[str, dict[Step, list[tuple[int, Site | None]]]] = {}
        for i, edge in enumerate(edges):
            site = None if edge.receiver == METRIC else parse(edge.receiver)
            self._wanted.setdefault(edge.sender, {}).setdefault(read_at(edge.receiver), []).append((i, site))

    def run(self) -> None:
        """Every edge, senders in parts."""
        senders = sorted(self._wanted, key=written_at)
        n_pairs, n_pos = self._replay.base.tokens.shape
        width = n_pos - self._first
        together = rows_at_once(self._replay.model, n_pairs, n_pos, width, self._replay.max_memory)
        for first in range(0, len(senders), together):
            part = senders[first : first + together]
            until = max(step for sender in part for step in self._wanted[sender])

            def read(step: Step, rows: Rows, part: list[str] = part) -> None:
                self._read(step, rows, part)

            self._carrier.carry(part, until, read)
        self._receivers.finish()

    def _read(self, step: Step, rows: Rows, senders: list[str]) -> None:
        """Give every receiver of a step what it makes of the rows it is asked about."""
        asked = [(row, self._wanted[sender].get(step)) for row, sender in enumerate(senders[: len(rows)])]
        chosen = [(row, edges) for row, edges in asked if edges]
        if not chosen:
            return
        x = self._carrier.stream(step) + rows[[row for row, _ in chosen]]
        layer, part = step
        if layer >= self._replay.n_layers:
            for (_, edges), measured in zip(chosen, self._readout(x[:, :, -1]), strict=True):
                for edge, _ in edges:
                    self._value[edge] = measured
                advance(len(edges) / len(self._value))
        elif self._start is not None:
            kind = "mlp" if part == MLP else "attention"
            made = received(self._replay, layer, kind, x[:, :, self._start - self._first :], self._start)
            given = [
                Given(edge, site, made[site.kind][row] if part != ATTENTION else made[site.kind][row, :, :, site.index])
                for row, (_, edges) in enumerate(chosen) for edge, site in edges if site is not None
            ]  # fmt: skip
            self._receivers.add(given)
