"""What a judge is, and what it says of each completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Float

from circuits.errors import CircuitError, UndefinedError

if TYPE_CHECKING:
    import pandas as pd

EMPTY = "empty completion"
"""Why a completion without text has no score: nothing was said, neither well nor badly."""


@final
@dataclass(frozen=True, eq=False)
class Judged:
    """Scores of completions, one per prompt, in the prompts' order."""

    scores: Mapping[str, Float[np.ndarray, " prompt"]]
    """Score name -> its values; NaN where there is none."""
    missing: Mapping[int, str] = field(default_factory=dict[int, str])
    """Prompt -> why one of its scores is missing."""
    cost: str = ""
    """One line: what the judging cost; empty for judges that run here."""

    def __post_init__(self) -> None:
        """Raise UndefinedError where NaNs and reasons do not match: a missing score is never silent."""
        sizes = {len(values) for values in self.scores.values()}
        if len(sizes) != 1:
            raise UndefinedError(f"scores of {', '.join(map(str, sorted(sizes))) or 'no'} prompts; give one per prompt")
        holes = {int(i) for values in self.scores.values() for i in np.flatnonzero(np.isnan(values))}
        if holes != set(self.missing):
            odd = min(holes ^ set(self.missing))
            raise UndefinedError(
                f"prompt {odd}: a score is missing if and only if there is a reason; give both or neither"
            )

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt: its scores, and `missing`, the reason (empty where nothing is missing)."""
        import pandas as pd

        frame = pd.DataFrame({name: np.asarray(values) for name, values in self.scores.items()})
        return frame.assign(missing=[self.missing.get(i, "") for i in range(len(frame))])


@runtime_checkable
class Judge(Protocol):
    """Scores completions. Calling it raises CircuitError only for what was asked wrongly; the rest is `missing`."""

    @property
    def name(self) -> str:
        """What stands before its scores where several judges are asked."""
        ...

    @property
    def scores(self) -> tuple[str, ...]:
        """What it scores."""
        ...

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Judged:
        """Scores of every completion of its prompt (the bare instruction, without template)."""
        ...


def require_one_each(prompts: Sequence[str], completions: Sequence[str]) -> None:
    """Raise CircuitError unless there is one completion for every prompt, and at least one."""
    if len(prompts) != len(completions) or not prompts:
        raise CircuitError(
            f"{len(completions)} completions of {len(prompts)} prompts to judge\ngive one completion for every prompt"
        )


def blank(completion: str) -> bool:
    """Whether nothing was said."""
    return not completion.strip()
