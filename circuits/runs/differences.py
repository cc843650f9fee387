"""What two runs were made from, and what they found, side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from circuits.runs.found import Found
from circuits.runs.record import Record


@final
@dataclass(frozen=True)
class Differences:
    """Of two runs: inputs that differ, verdicts that differ, and how far their numbers are apart."""

    inputs: Mapping[str, tuple[str, str]]
    verdicts: Mapping[str, tuple[str, str]]
    """Hypothesis -> what each run says of it; "–" where it says nothing."""
    results: pd.DataFrame
    """One row per result: rows, largest absolute difference of any number, or why they cannot be compared."""

    @property
    def same(self) -> bool:
        """Whether all numbers of both are equal to the last digit."""
        return len(self.results) > 0 and bool((self.results["difference"] == 0).all())


def compare(a: Found, b: Found) -> Differences:
    """Compare two runs by their records, verdicts and the tables in `data/`."""
    return Differences(_inputs(a.record, b.record), _verdicts(a.folder, b.folder), _results(a.folder, b.folder))


def _inputs(a: Record | None, b: Record | None) -> dict[str, tuple[str, str]]:
    left = dict(_flat("", a.identity)) if a is not None else {}
    right = dict(_flat("", b.identity)) if b is not None else {}
    names = [*left, *(name for name in right if name not in left)]
    both = {name: (left.get(name, "–"), right.get(name, "–")) for name in names}
    return {name: (x, y) for name, (x, y) in both.items() if x != y}


def _flat(prefix: str, told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield f"{prefix}{name}", str(value)


def _verdicts(a: Path, b: Path) -> dict[str, tuple[str, str]]:
    left, right = _told(a), _told(b)
    names = [*left, *(name for name in right if name not in left)]
    both = {name: (left.get(name, "–"), right.get(name, "–")) for name in names}
    return {name: (x, y) for name, (x, y) in both.items() if x != y}


def _told(folder: Path) -> dict[str, str]:
    try:
        told: Any = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return {str(v["hypothesis"]): f"{v['verdict']}: {v['numbers']}" for v in told["verdicts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a run that never came to its report


def _results(a: Path, b: Path) -> pd.DataFrame:
    names = sorted({p.stem for folder in (a, b) for p in (folder / "data").glob("*.csv")})
    rows = [{"result": name, **_one(a / "data" / f"{name}.csv", b / "data" / f"{name}.csv")} for name in names]
    return pd.DataFrame(rows, columns=["result", "rows", "difference", "note"])


def _one(a: Path, b: Path) -> dict[str, Any]:
    missing = [str(path) for path in (a, b) if not path.is_file()]
    if missing:
        return {"rows": 0, "difference": np.nan, "note": f"not there: {', '.join(missing)}"}
    left, right = pd.read_csv(a), pd.read_csv(b)
    if list(left.columns) != list(right.columns) or len(left) != len(right):
        return {"rows": len(left), "difference": np.nan, "note": f"{left.shape} and {right.shape} cells"}
    numbers = left.select_dtypes("number").columns
    words = [c for c in left.columns if c not in numbers and not left[c].equals(right[c])]
    if words:
        return {"rows": len(left), "difference": np.nan, "note": f"other {', '.join(words)}"}
    x, y = left[numbers].to_numpy(float), right[numbers].to_numpy(float)
    if (np.isnan(x) != np.isnan(y)).any():
        return {"rows": len(left), "difference": np.nan, "note": "undefined in one where the other has a number"}
    gap = np.abs(np.where(x == y, 0.0, x - y))
    return {"rows": len(left), "difference": float(np.nanmax(gap, initial=0.0)), "note": ""}
