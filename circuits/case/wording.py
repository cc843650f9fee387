"""Numbers as a sentence says them: three digits, with their interval where there is one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def number(value: float) -> str:
    """Three digits, whole numbers in full: `9.61`, `0.0123`, `1234`; `undefined` for what is."""
    if not math.isfinite(value):
        return "undefined"
    if not value:
        return "0"
    size = math.floor(math.log10(abs(value)))
    return f"{value:.2e}" if size < -4 else f"{value:.{max(0, 2 - size)}f}"


def told(row: Mapping[str, Any]) -> str:
    """`mean` with `low` and `high`: `9.61 [9.22, 10.0]`, or `9.61 (no interval)`."""
    mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{number(mean)} (no interval)"
    return f"{number(mean)} [{number(low)}, {number(high)}]"


def percent(mean: float, low: float, high: float) -> str:
    """A share with its interval: `79 % [76, 82]`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{100 * mean:.0f} % (no interval)"
    return f"{100 * mean:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def span(row: Mapping[str, Any], name: str) -> str:
    """`told` of the columns `name`, `name_low` and `name_high`."""
    return told({"mean": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})
