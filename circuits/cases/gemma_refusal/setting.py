"""What every chapter of the study works with: a model, prompts, a metric, and what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, final

from circuits.case import Progress
from circuits.case.measured import Missing, Recorder
from circuits.engine.sweep import Direction
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts import TokenPairs
from circuits.report import Completion, Section, Verdict

__all__ = ["DIRECTIONS", "Chapter", "Missing", "Setting"]

R = TypeVar("R")

DIRECTIONS: tuple[Direction, Direction] = ("denoise", "noise")


@final
@dataclass(frozen=True)
class Chapter:
    """What one chapter adds to the report."""

    sections: Sequence[Section]
    verdicts: Sequence[Verdict] = ()
    completions: Sequence[Completion] = field(default_factory=list[Completion])


@final
@dataclass(frozen=True, eq=False)
class Setting:
    """A model, prompts and a metric, all of them checked, and what was asked for."""

    model: Model
    tokens: TokenPairs
    metric: Metric
    groups: Mapping[str, tuple[int, ...]]
    threshold: float
    max_kl: float
    max_new_tokens: int
    seed: int
    data: Path
    """Where results are written as soon as they exist."""
    progress: Progress

    @property
    def recorder(self) -> Recorder:
        """What writes down what is measured."""
        return Recorder(self.model, self.tokens, self.data, self.progress)

    def measure(self, name: str, work: Callable[[], R], note: Callable[[R], str] = lambda _: "") -> R:
        """See `Recorder.measure`."""
        return self.recorder.measure(name, work, note)

    def attempt(self, name: str, work: Callable[[], R], note: Callable[[R], str] = lambda _: "") -> R | Missing:
        """See `Recorder.attempt`."""
        return self.recorder.attempt(name, work, note)

    def both(self, measure: Callable[..., R]) -> dict[Direction, R]:
        """A patching measurement in both directions."""
        return {d: measure(self.model, self.tokens, self.metric, direction=d) for d in DIRECTIONS}

