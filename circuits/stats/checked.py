"""What counts as numbers: finite, of the right number of axes, and not a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from circuits.errors import UndefinedError

Array = npt.NDArray[np.float64]


def numbers(values: Any, what: str, *, axes: int = 1, least: int = 1) -> Array:
    """`values` as finite float64 with `axes` axes, at least `least` along the first.

    Raises UndefinedError where values are missing, infinite or NaN, and TypeError for a tensor: the pair
    axis of a tensor is known only to the frame made from it.
    """
    if hasattr(values, "detach"):
        raise TypeError(f"{what}: statistics take numbers, not tensors; pass a column of the result's frame")
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != axes:
        raise UndefinedError(f"{what}: {axes} axis/axes expected, got shape {array.shape}")
    if len(array) < least:
        raise UndefinedError(f"{what}: at least {least} needed, got {len(array)}")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise UndefinedError(
            f"{what}: {bad} of {array.size} are NaN or infinite; drop those pairs and say so"
        )
    return array


def proper_level(level: float) -> float:
    """`level` if it is a confidence level. Raises UndefinedError where it is not between 0 and 1."""
    if not 0 < level < 1:
        raise UndefinedError(f"confidence level {level}: write a share such as 0.95")
    return level
