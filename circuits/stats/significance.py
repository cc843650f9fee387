"""A p-value that knows what it could have been: with few pairs no data at all is significant.

Flipping the signs of n pairs gives at most 2ⁿ⁻¹ different sizes of a sum, so no p is smaller than 2¹⁻ⁿ: .0625 for five
pairs. A p of 1 from three pairs says nothing, and must not read as evidence of nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

ALPHA: Final = 0.05
"""The threshold that is meant where none is named."""


@final
@dataclass(frozen=True)
class PValue:
    """A p-value, the least that this test could have given, and what it was computed from."""

    p: float
    least: float
    """No values, however clear, would have given less with these many that differ from zero and these draws."""
    n: int
    """Pairs (or clusters of them, or values of two groups)."""
    zeros: int
    """Those among them that are exactly zero and so can speak for neither side."""
    constant: bool
    """All n are the same number."""
    unit: str = "pair"

    def reachable(self, alpha: float = ALPHA) -> bool:
        """Whether any data of this size could have been significant."""
        return self.least <= alpha

    def significant(self, alpha: float = ALPHA) -> bool:
        """Whether p ≤ alpha."""
        return self.p <= alpha

    def note(self, alpha: float = ALPHA) -> str:
        """What a reader of p must know besides it; empty where there is nothing."""
        moving = self.n - self.zeros
        if self.n and not moving:
            return f"zero in every {self.unit}"
        kept = f" ({self.zeros} of {self.n} are zero)" if self.zeros else ""
        if not self.reachable(alpha):
            return f"cannot reach significance with {_count(moving, self.unit)}{kept}: p ≥ {self.least:.3g}"
        same = f"the same in every {self.unit}" if self.constant and self.n > 1 else ""
        return same or kept.strip(" ()")

    def __str__(self) -> str:
        """`p = 0.012`, or why there is none to print."""
        if self.n == self.zeros or not self.reachable():
            return self.note()
        return f"p = {self.p:.2g}" if self.p > self.least else f"p = {self.p:.2g} (the least possible)"


def _count(n: int, unit: str) -> str:
    return f"{n} {unit}" if n == 1 else f"{n} {unit}s"

