"""What is attested of a sweep: which checks were made while computing it, and by how much each was off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, final

from circuits import display

_CHECKS: Final = {
    "self_patch": "self-patch",
    "patch_all": "patch-all",
    "before": "columns before the first difference",
    "additivity": "residual additivity",
    "readout": "readout",
}
"""Field -> what the line calls it; those that were not made are left out."""


@final
@dataclass(frozen=True)
class Certificate:
    """Largest absolute deviations; NaN where a check was not made (see `audit` for what each is)."""

    cells: int
    token_layers: int
    """Tokens × blocks that the sweep ran; a loop of forward passes runs cells × pairs × pos × n_layers."""
    fired: int = 0
    """How often an edit's hook was seen to fire; one that stays silent is an error."""
    readout: float = float("nan")
    self_patch: float = float("nan")
    patch_all: float = float("nan")
    before: float = float("nan")
    """In units of the residual stream's largest entry, as `additivity`; all others in units of the metric."""
    additivity: float = float("nan")
    oracle: float = float("nan")
    from_fp32: float = float("nan")
    """Of a model in reduced precision: the audited cells against the same weights computed in fp32."""
    slow_from_fp32: float = float("nan")
    """The same of the slow way in the same dtype: of these cells, and of some prompts of both runs."""
    allowed: float = float("nan")
    """What `from_fp32` may be; where it was not measured, what `oracle` may be."""
    gap: float = float("nan")
    """Mean over pairs of how far the metric of the source run is from that of the base run: the unit of every effect."""
    dtype: str = "float32"
    sampled: int = 0
    looped_token_layers: int = 0

    @property
    def line(self) -> str:
        """One line for under a figure."""
        if not self.sampled:
            return f"{self.cells} cells, not audited"
        found = {name: getattr(self, field) for field, name in _CHECKS.items()}
        made = ", ".join(f"{name} {value:.0e}" for name, value in found.items() if not math.isnan(value))
        saved = self.looped_token_layers / max(1, self.token_layers)
        fired = f"all hooks fired ({self.fired}); " if self.fired else ""  # edits of the residual stream need none
        return (
            f"certificate ok: {self.cells} cells; {fired}largest deviation of: {made}, slow oracle on "
            f"{self.sampled} cell{'s' * (self.sampled > 1)} {self.oracle:.0e}{self._precision}; "
            f"{saved:.1f}× fewer token-layers than a loop"
        )

    def _repr_html_(self) -> str:
        found = [*((name, getattr(self, field)) for field, name in _CHECKS.items()), ("slow oracle", self.oracle)]
        made = [(name, f"{value:.0e}") for name, value in found if not math.isnan(value)]
        return display.card("Certificate", display.lines(self.line), display.facts([("cells", self.cells), *made]))

    @property
    def _precision(self) -> str:
        if self.dtype in ("float32", "float64"):
            return ""
        unit = "of the gap" if self.gap else "in the metric"
        if math.isnan(self.from_fp32):
            return (
                f" (all in {self.dtype}, memory did not allow a comparison with fp32: effects below "
                f"{self._share(self.allowed)} {unit} are not certified)"
            )
        return (
            f", {self.dtype}: rounding moves audited cells by up to {self._share(self.from_fp32)} {unit} "
            f"(the slow way by {self._share(self.slow_from_fp32)}, allowed {self._share(self.allowed)})"
        )

    def _share(self, x: float) -> str:
        """A distance as effects are compared: as a share of the gap between the two runs, where there is one."""
        if not self.gap:
            return f"{x:.0e}"
        percent = 100 * x / self.gap
        return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def joined(parts: Sequence[tuple[Certificate, int]]) -> Certificate:
    """One certificate for a sweep whose pairs were measured in parts, each with its number of pairs.

    Deviations are the largest of any part, work is added up, the gap is the mean over all pairs.
    """
    first, _ = parts[0]
    if len(parts) == 1:
        return first
    found: dict[str, float] = {}
    for name, value in asdict(first).items():
        every = [getattr(part, name) for part, _ in parts]
        if name in ("cells", "dtype"):
            continue
        if isinstance(value, int):
            found[name] = sum(every)
        elif name in ("from_fp32", "slow_from_fp32"):  # of all pairs, or not measured
            found[name] = math.nan if any(map(math.isnan, every)) else max(every)
        elif name == "gap":
            found[name] = sum(gap * n for gap, (_, n) in zip(every, parts, strict=True)) / sum(n for _, n in parts)
        else:
            found[name] = max((x for x in every if not math.isnan(x)), default=math.nan)
    return replace(first, **found)  # pyright: ignore[reportArgumentType]
