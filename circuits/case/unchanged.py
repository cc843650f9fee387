"""A complete run of the same inputs is there already."""

from __future__ import annotations

from pathlib import Path
from typing import final


@final
class Unchanged(Exception):  # noqa: N818  no error: the answer is there
    """Says since when, and where its report is."""

    def __init__(self, index: Path, since: str) -> None:
        super().__init__(f"nothing changed since {since}")
        self.index = index
