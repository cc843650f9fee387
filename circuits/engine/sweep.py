"""sweep(): the metric under every cell of a list, exactly, with a certificate.

1. What can be wrong with a cell is said before anything is run.
2. The sweep is cut into parts of its pairs and blocks of its cells (task).
3. Blocks that are kept from before are read back (kept); a worker computes the others, here or elsewhere (worker).
4. A random sample of cells is recomputed the slow way (audit).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits import display
from circuits.engine.certificate import Certificate, joined
from circuits.engine.edits import check
from circuits.engine.perform import Perform
from circuits.engine.sample import Sample, sampled
from circuits.engine.task import Block, Task, blocks_of, on_pairs, parts_of
from circuits.engine.worker import Closed, Closing, Measured
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Cell
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

    def _repr_html_(self) -> str:
        runs = [("mean metric, base run", float(self.base.mean())), ("source run", float(self.source.mean()))]
        cells = [(i, float(v.mean()), float(v.min()), float(v.max())) for i, v in enumerate(self.value[: display.ROWS])]
        return display.card(
            f"Swept: {len(self.value)} cells on {len(self.base)} pairs",
            display.lines(self.certificate.line), display.facts(runs),
            display.rows(("cell", "mean metric", "lowest", "highest"), cells, total=len(self.value)),
        )  # fmt: skip


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
    metric.bind(tokens)
    for cell in cells:  # everything that can be wrong with a cell is said before the first forward pass
        check(model, tokens, cell)
    whole = Task(tokens, metric, tuple(cells), direction, max_memory)
    parts = [on_pairs(model, whole, pairs) for pairs in parts_of(model, whole)]
    perform = Perform(model, parts)
    blocks = [(i, block) for i, part in enumerate(parts) for block in blocks_of(model, part)]
    measured: list[list[tuple[Block, Measured]]] = [[] for _ in parts]
    for (i, block), answer in zip(blocks, perform.measure(blocks), strict=True):
        measured[i].append((block, answer))
    values: list[Tensor] = []
    closings: list[tuple[int, Closing]] = []
    for i, part in enumerate(parts):
        value = measured[i][0][1].value.new_empty(len(cells), part.tokens.n_pairs)  # double, of a model in double precision
        for block, answer in measured[i]:
            value[list(block.cells)] = answer.value
        _require_numbers(model, cells, value)
        values.append(value)
        closings.append((i, Closing(_sample(part, value) if audited else None, _unaudited(model, part, measured[i]))))
    return _joined(values, perform.close(closings))


def _unaudited(model: Model, part: Task, blocks: Sequence[tuple[Block, Measured]]) -> Certificate:
    """What was run; the run patched from is counted once for every group of cells."""
    tokens = part.tokens
    of_source = tokens.n_pairs * (tokens.n_pos - tokens.first_difference) * model.shape.n_layers
    groups = len({block.sites for block, _ in blocks})
    run = sum(measured.token_layers for _, measured in blocks)
    fired = sum(measured.fired for _, measured in blocks)
    return Certificate(cells=len(part.cells), token_layers=run + groups * of_source, fired=fired)


def _sample(part: Task, value: Float[Tensor, "cell pair"]) -> Sample:
    chosen, on = sampled(part.tokens, part.cells)
    return Sample([part.cells[i] for i in chosen], on, value[chosen, on])


def _joined(values: Sequence[Float[Tensor, "cell _"]], ends: Sequence[Closed]) -> Swept:
    certificate = joined([(end.certificate, len(end.base)) for end in ends])
    base, source = torch.cat([end.base for end in ends]), torch.cat([end.source for end in ends])
    return Swept(torch.cat(list(values), 1), base, source, certificate)


def _require_numbers(model: Model, cells: Sequence[Cell], value: Float[Tensor, "cell pair"]) -> None:
    bad = value.isnan().nonzero()
    if len(bad):
        cell, pair = bad[0].tolist()
        what = ", ".join(i.site.label for i in cells[cell])
        raise UndefinedError(
            f"{model.name}: cell {cell} ({what}) gives not-a-number on pair {pair} ({len(bad)} such values in all); "
            f"the edit overflows in {model.dtype}: make it smaller, or load the model in float32"
        )
