"""What another tool's format cannot hold stands whole beside what that tool reads, under a key that it passes over.

The two say the same of the same graph, and are compared when the file is read: a file that was changed on one side only
is refused, since neither half can be trusted to be the one that was meant.
"""

from __future__ import annotations

import json
from typing import Any, Final

from circuits.errors import CircuitError
from circuits.graph.scalars import shorten

KEPT: Final = "circuits"
"""The key under which the whole graph stands, as node-link data."""


def unchanged(derived: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise CircuitError where `found`, what the other tool reads, is not what goes with the graph beside it."""
    for key in sorted(derived.keys() | found.keys()):
        # as text, since 1, 1.0 and true are equal in Python
        mine, theirs = (json.dumps(side.get(key), sort_keys=True) for side in (derived, found))
        if mine != theirs:
            raise CircuitError(
                f"its {shorten(key)} and what stands under {KEPT!r} disagree: one was changed. "
                f"Take out {KEPT!r} to load what the other tool reads"
            )
