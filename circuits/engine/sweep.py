"""sweep(): the metric under every cell of a list, exactly, with a certificate.

Cells that patch one site at one position take the fast path (single); all others are replayed from their first layer
and first position with their edits in place (several). Both resume the same kept run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from circuits.engine.audit import audit
from circuits.engine.capture import Run, capture
from circuits.engine.certificate import Certificate
from circuits.engine.edits import Bound, bind, check, sites_of
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay
from circuits.engine.several import Several, run_several
from circuits.engine.single import Single, run_singles
from circuits.engine.source import source_of
from circuits.errors import SiteError
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
    wanted, bound_metric = sites_of(list(cells)), metric.bind(tokens)
    for cell in cells:  # everything that can be wrong with a cell is said before the first forward pass
        check(model, tokens, cell)
    ids = (tokens.corrupt, tokens.clean) if direction == "denoise" else (tokens.clean, tokens.corrupt)
    readout = Readout(model, bound_metric)
    replay = Replay(model, capture(model, ids[0], tokens.mask, wanted), max_memory=max_memory)
    source = source_of(replay, ids[1], wanted, tokens.first_difference)
    value = values(replay, tokens, readout, list(cells), source)
    base_value, source_value = (readout(run.resid[-1][None, :, -1])[0] for run in (replay.base, source))
    certificate = (
        audit(replay, tokens, readout, list(cells), source, value, values)
        if audited
        else Certificate(cells=len(cells), token_layers=replay.token_layers, fired=replay.fired)
    )
    return Swept(value.cpu(), base_value.cpu(), source_value.cpu(), certificate)


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
