"""Names for how two components act together, each a list of conditions on intervals.

Write n(a), n(b), n(ab) for what noising takes and d(a), d(b), d(ab) for what denoising gives back, as fractions. Then

    AND          n(a) = n(b) = n(ab) ≠ 0           and d(a) = d(b) = 0 ≠ d(ab)      both are needed
    OR           n(a) = n(b) = 0 ≠ n(ab)           and d(a) = d(b) = d(ab) ≠ 0      either is enough
    chain        n(a) = n(b) = n(ab) ≠ 0           and d(b) = d(ab) ≠ 0             a acts through b
    backup       n(b) = 0 < n(ab) − n(a)           and d(b) = 0 < d(a)              b acts only where a does not
    negative     n(b) < 0 = n(ab) − n(a)                                            b opposes a, and only a
    independent  n(ab) = n(a) + n(b)               and d(ab) = d(a) + d(b)

`x = 0`: the interval lies within ±threshold; `x ≠ 0`: it lies outside, on one side. An interval across the border decides
nothing. All but `independent` also need n(ab) − n(a) − n(b) ≠ 0, with a p value. The first rule that holds is taken.
Source: Heimersheim and Nanda, "How to use and interpret activation patching" (AND and OR under both directions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import numpy as np
from numpy.typing import NDArray

from circuits.stats import Interval

Label = Literal["AND", "OR", "chain", "backup", "negative", "independent", "undecided"]
Test = Literal["zero", "not zero", "above", "below"]
DIRECTIONS: Final = ("noise", "denoise")
TERMS: Final = ("a", "b", "both", "interaction", "b_after_a", "a_after_b")
"""Of one direction: each alone, both, both − a − b, both − a (what b does once a is done), both − b."""
COLUMNS: Final = tuple(f"{direction}_{term}" for direction in DIRECTIONS for term in TERMS)

RULES: Final[Mapping[Label, Mapping[str, Test]]] = {
    "AND": {
        "noise_interaction": "not zero", "noise_both": "not zero", "noise_b_after_a": "zero", "noise_a_after_b": "zero",
        "denoise_both": "not zero", "denoise_a": "zero", "denoise_b": "zero",
    },
    "OR": {
        "noise_interaction": "not zero", "noise_both": "not zero", "noise_a": "zero", "noise_b": "zero",
        "denoise_both": "not zero", "denoise_b_after_a": "zero", "denoise_a_after_b": "zero",
    },
    "chain": {
        "noise_interaction": "not zero", "noise_both": "not zero", "noise_b_after_a": "zero", "noise_a_after_b": "zero",
        "denoise_both": "not zero", "denoise_a_after_b": "zero",
    },
    "backup": {
        "noise_interaction": "not zero", "noise_b": "zero", "noise_b_after_a": "above",
        "denoise_a": "above", "denoise_b": "zero",
    },
    "negative": {"noise_interaction": "not zero", "noise_b": "below", "noise_b_after_a": "zero"},
    "independent": {"noise_interaction": "zero", "denoise_interaction": "zero"},
}  # fmt: skip
"""In the order in which they are tried."""
ORDERED: Final = frozenset(("chain", "backup", "negative"))
"""Labels in which b comes after a in the forward pass."""


@final
@dataclass(frozen=True)
class Verdict:
    """A label, whether it holds of (b, a) rather than (a, b), and the numbers that decided it."""

    label: Label
    swapped: bool
    reason: str


def terms(a: NDArray[Any], b: NDArray[Any], both: NDArray[Any]) -> list[NDArray[Any]]:
    """The columns of one direction, in the order of TERMS, from fractions per pair."""
    return [a, b, both, both - a - b, both - a, both - b]


_EXCHANGED: Final = {"a": "b", "b": "a", "b_after_a": "a_after_b", "a_after_b": "b_after_a"}


def _other(column: str) -> str:
    """The column that says of (b, a) what this one says of (a, b)."""
    direction, _, term = column.partition("_")
    return f"{direction}_{_EXCHANGED.get(term, term)}"


def swapped(found: Mapping[str, Interval]) -> dict[str, Interval]:
    """The same numbers with a and b exchanged."""
    return {column: found[_other(column)] for column in COLUMNS}


def holds(interval: Interval, test: Test, threshold: float) -> bool:
    """Whether an interval decides a test; one without limits decides nothing."""
    match test:
        case "zero":
            return bool(-threshold < interval.low and interval.high < threshold)
        case "above":
            return bool(interval.low > threshold)
        case "below":
            return bool(interval.high < -threshold)
        case "not zero":
            return bool(interval.low > threshold or interval.high < -threshold)


def name(found: Mapping[str, Interval], *, p: float, later: int, threshold: float, alpha: float) -> Verdict:
    """The rule that holds of a pair, else `undecided` with what the nearest rule lacks.

    `later`: +1 where b comes after a, −1 where a comes after b, 0 where neither reads the other. `p`: adjusted p of the
    noising interaction; any label but `independent` needs it to be at most `alpha`.
    """
    interact = any(holds(found[f"{direction}_interaction"], "not zero", threshold) for direction in DIRECTIONS)
    nearest: tuple[int, str] = (len(COLUMNS), "")
    for label, conditions in RULES.items():
        for numbers, turned in ((found, False), (swapped(found), True)):
            if label in ORDERED and later != (-1 if turned else 1):
                continue
            failed = [c for c, test in conditions.items() if not holds(numbers[c], test, threshold)]
            too_likely = label != "independent" and not p <= alpha
            if not failed and not too_likely:
                why = "; ".join(f"{c} {numbers[c]} {test}" for c, test in conditions.items())
                return Verdict(label, turned, why)
            lacking = [f"{_other(c) if turned else c} {numbers[c]} {conditions[c]}" for c in failed]
            lacking += [f"p of the interaction {p:.2g}, at most {alpha:g}"] * too_likely
            if len(lacking) < nearest[0] and not (interact and label == "independent"):
                nearest = len(lacking), f"nearest is {label}, which lacks {'; '.join(lacking)}"
    prefix = "they interact; " if interact else ""
    return Verdict("undecided", swapped=False, reason=prefix + nearest[1])


def share_beyond(value: float, null: NDArray[Any]) -> float:
    """Of random pairs, the share whose interaction is at least as large, this one counted in; NaN without any."""
    if not len(null):
        return float("nan")
    return float((1 + np.count_nonzero(np.abs(null) >= abs(value))) / (1 + len(null)))
