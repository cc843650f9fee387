"""Frames made by hand for the rules: so many pairs around a mean, spread so that the interval is a few hundredths wide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from circuits.case.condition import Rows

N = 20
_SPREAD = np.linspace(-0.1, 0.1, N)
"""Standard error .014: a 95 % interval of ± .03."""


def cell(mean: float, value: str = "fraction", **where: Any) -> pd.DataFrame:
    """One cell: N pairs whose mean is `mean`."""
    return pd.DataFrame({"pair": range(N), value: mean + _SPREAD}).assign(**where)


def rows(*frames: pd.DataFrame) -> Rows:
    """Several cells as one result's rows."""
    return Rows(pd.concat(frames, ignore_index=True))
