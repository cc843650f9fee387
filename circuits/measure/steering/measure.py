"""Run every dose: the metric by one exact sweep, completions side by side in one batch, then the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine import generate_cells, sweep
from circuits.errors import CircuitError
from circuits.judges import Judge, SubstringJudge
from circuits.measure.steering.dose import Dose
from circuits.measure.steering.result import Steering
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.refusal import is_refusal
from circuits.tables import of_instructions, provenance


def steer(
    model: Model,
    prompts: InstructionTokens | TokenPairs,
    metric: Metric,
    doses: Sequence[Dose],
    *,
    on: Literal["clean", "corrupt"] = "clean",
    judge: Judge | None = None,
    max_new_tokens: int = 32,
) -> Steering:
    """Metric, completion and scores of every prompt without an edit and under each dose.

    The metric is in its own units, at the last position of the prompt; completions are greedy, all doses in one batch.
    `judge` scores them (default: by refusal phrases); a score it cannot give is missing and counted. `on` names the
    prompt of each pair. Raises CircuitError for no doses or two of one name, before anything is run.
    """
    names = [dose.name for dose in doses]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise CircuitError(f"doses named {', '.join(twice) or 'nothing'}\ngive at least one, each with its own name")
    tokens = prompts if isinstance(prompts, TokenPairs) else prompts.beside_themselves()
    cells = [dose.cell for dose in doses]
    swept = sweep(model, tokens, metric, cells, direction="noise" if on == "clean" else "denoise")
    said = generate_cells(model, tokens, [(), *cells], on=on, max_new_tokens=max_new_tokens)
    asked = [pair.clean if on == "clean" else pair.corrupt for pair in tokens.pairs]
    judged = (judge or SubstringJudge())([*asked] * len(said), [text for texts in said for text in texts])
    shape = (len(said), tokens.n_pairs)
    by_score = {name: torch.from_numpy(np.asarray(v, float).reshape(shape)) for name, v in judged.scores.items()}
    return Steering(
        provenance=provenance(model, prompts, metric, swept.certificate.line) if isinstance(prompts, TokenPairs) else
        of_instructions(model, prompts, metric, swept.certificate.line),
        metric=swept.value.T.contiguous(), base=swept.base,
        completions=tuple(map(tuple, said)), prompts=tuple(asked),
        labels=_labels(prompts, on),
        refused=torch.tensor([[is_refusal(text) for text in texts] for texts in said]),
        score=_stacked(by_score), scores=tuple(by_score),
        missing={i: judged.missing[i] for i in sorted(judged.missing)}, cost=judged.cost,
        doses=tuple(names), layers=tuple(dose.layer for dose in doses),
        coefficients=tuple(dose.coefficient for dose in doses), series=tuple(dose.series for dose in doses),
    )  # fmt: skip


def _labels(prompts: InstructionTokens | TokenPairs, on: str) -> tuple[str, ...]:
    if isinstance(prompts, TokenPairs):
        return (on,) * prompts.n_pairs
    return tuple(i.label for i in prompts.instructions)


def _stacked(scores: dict[str, Float[Tensor, "setting pair"]]) -> Float[Tensor, "setting pair score"]:
    return torch.stack(list(scores.values()), dim=-1)


