"""Several judges as one: every score keeps the name of the judge that gave it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from circuits.errors import CircuitError
from circuits.judges.judged import Judge, Judged, require_one_each


@final
@dataclass(frozen=True)
class _Several:
    judges: tuple[Judge, ...]

    @property
    def name(self) -> str:
        return "+".join(judge.name for judge in self.judges)

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(f"{judge.name}.{score}" for judge in self.judges for score in judge.scores)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Judged:
        require_one_each(prompts, completions)
        found = {judge.name: judge(prompts, completions) for judge in self.judges}
        scores: Mapping[str, Float[np.ndarray, " prompt"]] = {
            f"{name}.{score}": values for name, judged in found.items() for score, values in judged.scores.items()
        }
        missing = {
            i: "; ".join(f"{name}: {judged.missing[i]}" for name, judged in found.items() if i in judged.missing)
            for i in sorted({i for judged in found.values() for i in judged.missing})
        }
        cost = "; ".join(f"{name}: {judged.cost}" for name, judged in found.items() if judged.cost)
        return Judged(scores, missing, cost)


def several(*judges: Judge) -> Judge:
    """One judge that asks all of these; its scores are named `substring.compliance`, `endpoint.compliance`, ….

    Raises CircuitError for no judges, and for two of one name.
    """
    names = [judge.name for judge in judges]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not judges or twice:
        raise CircuitError(
            f"judges named {', '.join(twice) or 'nothing'}\ngive at least one judge, each with its own name"
        )
    return _Several(judges)
