"""A name that does not exist: what it was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from circuits.errors import CircuitError


def unknown(kind: str, name: str, known: Iterable[str]) -> CircuitError:
    """The error for a name of this kind that is not known: the nearest names, and all of them."""
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.5)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return CircuitError(f"there is no {kind} {name!r}{meant}\n{kind}s: {', '.join(names)}")
