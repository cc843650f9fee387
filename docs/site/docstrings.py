"""Docstrings as Markdown: what is a shape or a table to their reader would be a link or a paragraph to Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_COLUMNS = re.compile(r"\S {3,}\S")
_TWO = re.compile(r"\[(?=[^\[\]\n]+\]\[)")


class Shapes(griffe.Extension):
    """Outside code brackets after brackets are text, and paragraphs that stand in columns are code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = "\n\n".join(map(_paragraph, obj.docstring.value.split("\n\n")))


def _paragraph(text: str) -> str:
    """A paragraph, as code where most of its lines are parted into columns by three spaces or more."""
    lines = text.split("\n")
    parted = sum(_COLUMNS.search(line) is not None for line in lines)
    if len(lines) > 1 and 2 * parted > len(lines) and not lines[0].startswith(" "):
        return "\n".join(f"    {line}" for line in lines)
    return "\n".join(map(_plain, lines))


def _plain(line: str) -> str:
    """A line with its links taken back; indented lines and what stands between backticks are code."""
    if line.startswith("    "):
        return line
    parts = line.split("`")
    return "`".join(part if i % 2 else _TWO.sub(r"\[", part) for i, part in enumerate(parts))
