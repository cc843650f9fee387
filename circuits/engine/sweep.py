"""sweep(): the metric under every cell of a list, exactly, with a certificate.

Cells that patch one site at one position take the fast path (single); all others are replayed from their first layer
and first position with their edits in place (several). Both resume the same kept run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.audit import audit
from circuits.engine.batches import groups_of
from circuits.engine.capture import Run, capture
from circuits.engine.certificate import Certificate
from circuits.engine.edits import Bound, bind, check, sites_of
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay
from circuits.engine.sample import Sample, sampled
from circuits.engine.several import Several, run_several
from circuits.engine.single import Single, run_singles
from circuits.engine.source import source_of
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Cell, Patch
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs

Direction = Literal["denoise", "noise"]
"""denoise: base corrupt, source clean. noise: base clean, source corrupt."""


@final
@dataclass(frozen=True, eq=False)
class Swept:
    """The metric of every cell, of the run patched into (base) and of the run patched from (source)."""

    value: Float[Tensor, "cell pair"]
    base: Float[Tensor, " pair"]
    source: Float[Tensor, " pair"]
    certificate: Certificate


def sweep(
    model: Model,
    tokens: TokenPairs,
    metric: Metric,
    cells: Sequence[Cell],
    *,
    direction: Direction = "denoise",
    audited: bool = True,
    max_memory: int | None = None,
) -> Swept:
    """Measure every cell on every pair. Values are fp32, on the CPU.

    Rows of a batch follow the free memory, or `max_memory` bytes where that is given. Raises SiteError (nothing run yet)
    for a cell that names what does not exist, ModelError for a model that is not finite or not on one device,
    AuditError if a check of the result fails. Columns before the first token that differs are the base value by
    causality and are not run.
    """
    if not cells:
        raise SiteError("a sweep needs at least one cell")
    bound_metric = metric.bind(tokens)
    for cell in cells:  # everything that can be wrong with a cell is said before the first forward pass
        check(model, tokens, cell)
    runs = _Runs(model, tokens, direction, max_memory)
    readout = Readout(model, bound_metric)
    value = torch.empty(0)
    groups = groups_of(model, tokens, cells, max_memory)
    for group in groups:
        mine = [cells[i] for i in group]
        part = runs.measured(mine, readout)  # nothing here holds on to what the next part replaces
        value = part.new_empty(len(cells), tokens.n_pairs) if value.numel() == 0 else value
        value[group] = part
    _require_numbers(model, cells, value)
    certificate = Certificate(cells=len(cells), token_layers=runs.token_layers, fired=runs.fired)
    if audited:
        chosen, on = sampled(tokens, cells)
        sample = Sample([cells[i] for i in chosen], on, value[chosen, on])
        replay, source = runs.last if len(groups) == 1 else runs.keeping(sample.cells)
        certificate = audit(replay, source, tokens, readout, metric, sample, values, certificate)
    base_value, source_value = (readout(run.resid[-1][None, :, -1])[0] for run in (runs.last[0].base, runs.last[1]))
    return Swept(value.cpu(), base_value.cpu(), source_value.cpu(), certificate)


def _require_numbers(model: Model, cells: Sequence[Cell], value: Float[Tensor, "cell pair"]) -> None:
    bad = value.isnan().nonzero()
    if len(bad):
        cell, pair = bad[0].tolist()
        what = ", ".join(i.site.label for i in cells[cell])
        raise UndefinedError(
            f"{model.name}: cell {cell} ({what}) gives not-a-number on pair {pair} ({len(bad)} such values in all); "
            f"the edit overflows in {model.dtype}: make it smaller, or load the model in float32"
        )


@final
class _Runs:
    """The two runs of a sweep, keeping what some cells need; the work done with all of them so far."""

    def __init__(self, model: Model, tokens: TokenPairs, direction: Direction, max_memory: int | None) -> None:
        self._model, self._tokens, self._max_memory = model, tokens, max_memory
        both = (tokens.corrupt, tokens.clean)
        self._base, self._source = both if direction == "denoise" else both[::-1]
        self._kept: list[tuple[Replay, Run]] = []
        self._done = (0, 0)

    def keeping(self, cells: Sequence[Cell]) -> tuple[Replay, Run]:
        """Both runs with the sites that these cells take from them; what earlier cells needed is let go."""
        self._done = (self.token_layers, self.fired)
        self._kept.clear()
        sites = sites_of(list(cells))
        base = capture(self._model, self._base, self._tokens.mask, sites)
        replay = Replay(self._model, base, max_memory=self._max_memory)
        self._kept.append((replay, source_of(replay, self._source, sites, self._tokens.first_difference)))
        return self.last

    def measured(self, cells: list[Cell], readout: Readout) -> Float[Tensor, "cell pair"]:
        """The metric under cells, whose sites are kept for it."""
        replay, source = self.keeping(cells)
        return values(replay, self._tokens, readout, cells, source)

    @property
    def last(self) -> tuple[Replay, Run]:
        """The two runs kept now."""
        return self._kept[-1]

    @property
    def token_layers(self) -> int:
        """Tokens × blocks run."""
        return self._done[0] + sum(replay.token_layers for replay, _ in self._kept)

    @property
    def fired(self) -> int:
        """How often a hook of an edit fired."""
        return self._done[1] + sum(replay.fired for replay, _ in self._kept)


def values(
    replay: Replay, tokens: TokenPairs, readout: Readout, cells: list[Cell], source: Run
) -> Float[Tensor, "cell pair"]:
    """The metric under every cell, resuming `replay.base` and patching from `source`."""
    base = replay.base
    start = tokens.first_difference
    value = readout(base.resid[-1][None, :, -1]).repeat(len(cells), 1)
    singles: list[Single] = []
    several: list[Several] = []
    for i, cell in enumerate(cells):
        # only where nothing else acts are the two runs the same before the first difference
        pure = all(isinstance(i, Patch) and i.value is None for i in cell)
        bound = bind(replay.model, tokens, cell, source, skip_before=start if pure else 0)
        bound = tuple(b for b in bound if b.first is not None)
        if not bound:
            continue  # nothing after the first difference: the base value, exactly
        if len(bound) == 1 and _is_single(bound[0]):
            columns = bound[0].mask.any(0).nonzero()[:, 0].tolist()
            singles += [Single(i, bound[0], column) for column in columns]
        else:
            several.append(Several(i, bound))
    run_singles(replay, singles, readout, source, value)
    run_several(replay, several, readout, value)
    return value


def _is_single(b: Bound) -> bool:
    """Whether a bound edit is one patch of one column of each pair, made within the blocks."""
    return isinstance(b.intervention, Patch) and b.site.kind != "embed" and int(b.mask.sum(-1).max()) == 1
