"""What a node, an edge or a graph may carry: str, int, float and bool, the types that every format keeps.

GraphML has no None, no list and no empty string; JSON has no NaN and no infinity. So a value that is not
known is left out, not written as something else, and a value of another type is refused where it enters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from circuits.errors import CircuitError

Scalar = str | int | float | bool


def scalar(value: Any, where: str) -> Scalar | None:
    """`value` as a plain Python scalar; None where it is missing (None, NaN, NA, an empty string).

    Raises CircuitError for anything else, infinity included; `where` says whose attribute it is.
    """
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if plain is None or plain is pd.NA or plain is pd.NaT or plain == "":
        return None
    if isinstance(plain, float):
        if math.isinf(plain):
            raise CircuitError(f"{where} is infinite; give a finite number, or NaN to leave it out")
        return None if math.isnan(plain) else plain
    if isinstance(plain, str | int):  # a bool is an int
        return plain
    raise CircuitError(f"{where} is a {type(value).__name__}; attributes are str, int, float or bool")


def scalars(values: Mapping[str, Any], owner: str) -> dict[str, Scalar]:
    """The known values of `values`, in their order. Raises CircuitError as `scalar` does."""
    found = {str(name): scalar(value, f"{owner}: {name!r}") for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}
