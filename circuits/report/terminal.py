"""Verdicts as plain text, for the last lines of a command."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from circuits.report.contents import Verdict

_HEAD = ("what was found", "verdict", "numbers")
_WIDTHS = (48, 12, 60)


def verdict_table(verdicts: Sequence[Verdict], note: str = "") -> str:
    """Three aligned columns; long cells wrap; control characters could steer a terminal and are dropped.

    `note` stands below: how the numbers are to be read.
    """
    rows = [_HEAD, *((v.hypothesis, v.verdict, v.numbers) for v in verdicts)]
    cells = [[_wrap(text, width) for text, width in zip(row, _WIDTHS, strict=True)] for row in rows]
    widths = [max(len(line) for row in cells for line in row[i]) for i in range(len(_HEAD))]
    lines: list[str] = []
    for row in cells:
        for i in range(max(len(cell) for cell in row)):
            parts = [(cell[i] if i < len(cell) else "").ljust(w) for cell, w in zip(row, widths, strict=True)]
            lines.append("  ".join(parts).rstrip())
    return "\n".join([*lines, *_wrap(note, sum(widths))] if note else lines)


def _wrap(text: str, width: int) -> list[str]:
    printable = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.wrap(printable, width, break_on_hyphens=False) or [""]
