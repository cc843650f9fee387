"""Choosing by numbers: a candidate by scores and filters, and the layers that share a direction by their cosines.

    found = select(refusal, published_filters(…), axes={"layer": range(24), "position": (-2, -1)})
    found.at, found.survivors, found.rejected, found.ties
    stable_block(cosines).layers

A filter counts what it rejects twice: alone, and in order, after those before it. A candidate whose score or any
filtered value is not finite is rejected first. What the scores mean is the caller's.
Source: Arditi et al., arXiv 2406.11717, section 2.3 and appendix C.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from circuits.errors import CircuitError, UndefinedError

THRESHOLD: Final = 0.8
"""Cosine from which the directions of two layers count as one."""
Array = npt.NDArray[np.float64]
Rule = Literal["at least", "more than", "at most", "less than"]
_KEEPS: Final[dict[Rule, Callable[[Any, Any], Any]]] = {
    "at least": operator.ge, "more than": operator.gt, "at most": operator.le, "less than": operator.lt,
}  # fmt: skip
_REJECTED: Final[dict[Rule, str]] = {
    "at least": "below", "more than": "not above", "at most": "above", "less than": "not below",
}  # fmt: skip


@final
@dataclass(frozen=True, eq=False)
class Filter:
    """Keep candidates whose `values` are `rule` the `bound`; a value that is not finite never passes."""

    name: str
    values: Array
    """One per candidate, in the shape of the score."""
    rule: Rule
    bound: float
    argument: str = ""
    """What a caller changes to move the bound, where it is not called like the filter."""
    remedy: str = ""
    """What to do instead, where no caller can move the bound."""

    @property
    def passes(self) -> npt.NDArray[np.bool_]:
        """Which candidates this filter alone keeps."""
        return np.isfinite(self.values) & _KEEPS[self.rule](self.values, self.bound)

    @property
    def wants_more(self) -> bool:
        """Whether larger values pass."""
        return self.rule in ("at least", "more than")

    def nearest(self, among: npt.NDArray[np.bool_]) -> float:
        """The rejected value closest to passing; NaN where none of `among` is rejected with a finite value."""
        left = self.values[among & ~self.passes & np.isfinite(self.values)]
        return float(np.nan if not len(left) else left.max() if self.wants_more else left.min())

    def advice(self, value: float) -> str:
        """What to do so that `value` passes: move the bound, to three digits, or the remedy."""
        bound = _outwards(value, down=self.wants_more, past=self.rule in ("more than", "less than"))
        return self.remedy or f"relax {self.argument or self.name} to {bound:g}"


@final
@dataclass(frozen=True)
class Rejected:
    """How many candidates a filter rejects: alone, and in order, of those that all earlier filters kept."""

    filter: str
    rule: str
    """`kl at most 0.1`."""
    alone: int
    in_order: int


@final
@dataclass(frozen=True, eq=False)
class Selection:
    """The candidate chosen, those that passed, and what rejected the others."""

    score: Array
    passed: npt.NDArray[np.bool_]
    index: tuple[int, ...]
    """Of the chosen candidate, along the score's axes."""
    ties: tuple[tuple[int, ...], ...]
    """Other survivors with exactly the chosen one's score; the first by index was taken."""
    rejected: tuple[Rejected, ...]
    """Not finite first, then the filters in order."""
    axes: dict[str, tuple[Any, ...]]

    @property
    def at(self) -> dict[str, Any]:
        """Where the chosen candidate stands: axis -> value."""
        return _at(self.axes, self.index)

    @property
    def survivors(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the candidates that passed, by rising score."""
        found = np.argwhere(self.passed)
        order = np.argsort(self.score[self.passed], kind="stable")
        return tuple(tuple(int(i) for i in found[k]) for k in order)

    @property
    def line(self) -> str:
        """One line: the choice, how many survived, what rejected the others, and ties."""
        gone = ", ".join(f"{r.rule} rejects {r.alone} ({r.in_order} in order)" for r in self.rejected)
        tied = f"; tied with {'; '.join(_named(self.axes, t) for t in self.ties)}" if self.ties else ""
        return f"{_named(self.axes, self.index)}{tied}; {int(self.passed.sum())} of {self.score.size} survive: {gone}"


def published_filters(
    steering: Array, kl: Array, layer: Array, *, n_layers: int, min_steering: float = 0.0, max_kl: float = 0.1,
    max_depth: float = 0.8,
) -> tuple[Filter, ...]:  # fmt: skip
    """The three filters of the published choice: layer < ⌊max_depth · n_layers⌋, kl ≤ max_kl, steering ≥ min_steering.

    All arrays have the score's shape. The depth is cut to a whole layer, as there: 19 of 24 at 0.8, not 19.2.
    """
    return (
        Filter(
            "layer", np.asarray(layer, float), "less than", float(int(max_depth * n_layers)), "max_depth · n_layers"
        ),
        Filter("kl", np.asarray(kl, float), "at most", max_kl, "max_kl"),
        Filter("steering", np.asarray(steering, float), "at least", min_steering, "min_steering"),
    )


def select(
    score: Array, filters: Sequence[Filter], *, axes: Mapping[str, Sequence[Any]], what: str = "candidates"
) -> Selection:
    """The candidate of lowest `score` among those that every filter keeps. `axes` name the score's axes and entries.

    Raises UndefinedError for arrays of unequal shape, and where nothing passes: it says which filter rejected how many,
    the values nearest to passing, and which bounds to relax to what.
    """
    score = np.asarray(score, np.float64)
    named = {name: tuple(values) for name, values in axes.items()}
    shapes = {"axes": tuple(len(v) for v in named.values()), **{f.name: f.values.shape for f in filters}}
    wrong = [f"{name} {shape}" for name, shape in shapes.items() if shape != score.shape]
    if wrong:
        raise UndefinedError(f"the score has shape {score.shape}, but {', '.join(wrong)}; give one value per candidate")
    finite = np.isfinite(score)
    for f in filters:
        finite &= np.isfinite(f.values)
    passed, rejected = finite.copy(), [Rejected("finite", "not finite", *[int((~finite).sum())] * 2)]
    for f in filters:
        alone = int((finite & ~f.passes).sum())
        rejected.append(Rejected(f.name, f"{f.name} {f.rule} {f.bound:g}", alone, int((passed & ~f.passes).sum())))
        passed &= f.passes
    if not passed.any():
        raise UndefinedError(_nothing(score, filters, finite, named, what))
    index = _index(np.where(passed, score, np.inf).argmin(), score.shape)
    equal = np.argwhere(passed & (score == score[index]))
    ties = tuple(t for t in (tuple(int(i) for i in row) for row in equal) if t != index)
    return Selection(score, passed, index, ties, tuple(rejected), named)


@final
@dataclass(frozen=True)
class StableBlock:
    """The largest runs of neighbouring layers whose directions all agree pairwise; several where they tie, none below two."""

    blocks: tuple[tuple[int, ...], ...]
    threshold: float

    @property
    def layers(self) -> tuple[int, ...]:
        """The first of the largest; empty where no two neighbours agree."""
        return self.blocks[0] if self.blocks else ()

    def __str__(self) -> str:
        """`layers 19–23 (all cosines ≥ 0.8)`."""
        if not self.blocks:
            return f"no stable block: no two neighbouring layers have a cosine ≥ {self.threshold:g}"
        return "layers " + " or ".join(f"{b[0]}–{b[-1]}" for b in self.blocks) + f" (all cosines ≥ {self.threshold:g})"


def stable_block(
    cosines: Float[Tensor, "layer layer"], threshold: float = THRESHOLD, *, containing: int | None = None
) -> StableBlock:
    """The largest contiguous block of layers with all pairwise cosines ≥ `threshold`; undefined layers are in none.

    With `containing`, the largest around that layer. Raises CircuitError for a layer that is not there.
    """
    n = len(cosines)
    if containing is not None and not 0 <= containing < n:
        raise CircuitError(f"no layer {containing}; there are 0 to {n - 1}")
    agree = (cosines >= threshold).numpy()
    found: list[tuple[int, ...]] = []
    for first in range(n):
        last = first
        while last + 1 < n and agree[first : last + 1, last + 1].all():
            last += 1
        if last > first and (containing is None or first <= containing <= last):
            found.append(tuple(range(first, last + 1)))
    most = max((len(b) for b in found), default=0)
    return StableBlock(tuple(b for b in found if len(b) == most), threshold)


def _nothing(
    score: Array, filters: Sequence[Filter], finite: npt.NDArray[np.bool_], axes: dict[str, tuple[Any, ...]], what: str
) -> str:
    """What to say where no candidate passes: counts, nearest values, and the least that must be relaxed."""
    known, unknown = int(finite.sum()), int((~finite).sum())
    if not known:
        return f"none of {score.size} {what} has finite scores; look at how they were scored"
    said = [
        f"{(finite & ~f.passes).sum()} have {f.name} {_REJECTED[f.rule]} {round(f.bound, 6)} (nearest {f.nearest(finite):.3g})"
        for f in filters
        if (finite & ~f.passes).any()
    ]
    more = [f"{unknown} more are not finite"] if unknown else []
    alone: list[str] = []
    for f in filters:
        others = finite.copy()
        for g in filters:
            others &= g.passes if g is not f else True
        if others.any():
            value = f.nearest(others)
            where = _index(np.flatnonzero(others & (f.values == value))[0], score.shape)
            alone.append(f"{f.advice(value)} (keeps {_named(axes, where)})")
    if alone:
        advice = ", or ".join(alone)
    else:
        failed = sum((~f.passes).astype(int) for f in filters) + np.where(finite, 0, len(filters) + 1)
        few = failed == failed.min()
        where = _index(np.where(few, score, np.inf).argmin(), score.shape)
        both = " and ".join(f.advice(float(f.values[where])) for f in filters if not f.passes[where])
        advice = f"no filter alone is the reason; {both} together (keeps {_named(axes, where)})"
    return f"none of {known} {what} passes: {', '.join(said + more)}\n{advice}"


def _outwards(value: float, *, down: bool, past: bool) -> float:
    """`value` rounded to three digits, never inwards; `past` it where the bound itself does not pass."""
    if value == 0:
        return (-1e-9 if down else 1e-9) if past else 0.0
    step = 10.0 ** (floor(log10(abs(value))) - 2)
    found = (floor if down else ceil)(value / step) * step
    found = float(f"{found:.6g}")  # 13 · 0.001 is not 0.013
    beyond = found < value if down else found > value
    if beyond or (found == value and not past):
        return found
    return float(f"{found + (-step if down else step):.6g}")


def _index(flat: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(flat), shape))


def _at(axes: dict[str, tuple[Any, ...]], index: tuple[int, ...]) -> dict[str, Any]:
    return {name: values[i] for (name, values), i in zip(axes.items(), index, strict=True)}


def _named(axes: dict[str, tuple[Any, ...]], index: tuple[int, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in _at(axes, index).items())
