"""What a node, an edge or a graph may carry: str, int, float and bool that every format and every reader keeps.

GraphML has no None and no list, JSON has no NaN and no infinity, XML has no control characters, and a reader written
in JavaScript rounds integers beyond 2^53. So a value that is not known is left out, not written as something else, and
a value that some reader would change is refused where it enters, by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from circuits.errors import CircuitError

Scalar = str | int | float | bool

EXACT: Final = 1 << 53
"""Integers up to here are exact in every reader."""
_UNWRITABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML cannot hold, and the carriage return, which it turns into a newline."""


def scalar(value: Any, where: str) -> Scalar | None:
    """`value` as a plain Python scalar; None where it is missing (None, NaN, NA, an empty string).

    Raises CircuitError for anything else that files cannot hold; `where` says whose attribute it is.
    """
    plain = value.item() if isinstance(value, np.bool_ | np.integer | np.floating | np.str_) else value
    if plain is None or plain is pd.NA or plain is pd.NaT:
        return None
    # exactly these types: an enumeration or another subclass would come back as something else
    if type(plain) not in {str, int, float, bool}:
        raise CircuitError(f"{where} is a {type(value).__name__}; attributes are str, int, float or bool")
    if isinstance(plain, str):
        return writable(plain, where) if plain else None
    if isinstance(plain, float):
        if math.isinf(plain):
            raise CircuitError(f"{where} is infinite; give a finite number, or NaN to leave it out")
        return None if math.isnan(plain) else plain
    if abs(plain) > EXACT:
        raise CircuitError(f"{where} is {shorten(plain)}, beyond 2^53, where readers round; write it as text")
    return plain


def scalars(values: Mapping[Any, Any], owner: str) -> dict[str, Scalar]:
    """The known values of `values`, in their order. Raises CircuitError as `scalar` does."""
    found = {name: scalar(value, f"{owner}: {shorten(name)}") for name, value in values.items()}
    return {named(name, owner): value for name, value in found.items() if value is not None}


def complete(values: Mapping[Any, Any], owner: str) -> dict[str, Scalar]:
    """All of `values`, in their order. Raises CircuitError as `scalar` does, and for a missing one."""
    found = scalars(values, owner)
    for name, value in values.items():
        if name not in found:
            raise CircuitError(
                f"{owner}: attribute {shorten(name)} is {value!r}: files have no missing values; leave it out"
            )
    return found


def named(name: Any, owner: str) -> str:
    """`name` where it can name an attribute: a str with something to see, which XML can hold."""
    if type(name) is not str or not name.strip():
        raise CircuitError(f"{owner}: the attribute name {shorten(name)} is not one; give it a word, rename it")
    return writable(name, f"{owner}: the attribute name {shorten(name)}")


def writable(text: str, where: str) -> str:
    """`text` where XML can hold it. Raises CircuitError naming the first character that it cannot."""
    found = _UNWRITABLE.search(text)
    if found:
        raise CircuitError(f"{where} has the character U+{ord(found[0]):04X}, which files cannot hold; take it out")
    return text


def shorten(value: Any, most: int = 60) -> str:
    """`value` as a message shows it: its repr, cut in the middle where it is long."""
    if isinstance(value, int) and abs(value) > EXACT << 64:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to spell very long ones
    text = repr(value)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}"


def called(name: Any) -> str:
    """The id `name` as a message shows it: without quotes where it is text, cut in the middle where it is long."""
    return shorten(name)[1:-1] if isinstance(name, str) else shorten(name)


def joined(source: Any, target: Any) -> str:
    """The edge between two ids as a message shows it."""
    return f"edge {called(source)} → {called(target)}"
