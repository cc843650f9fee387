"""Harder cases: a difference right after <bos>, where nothing can be skipped, and Gemma 2 with its caps and windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from models import Size
from page import section
from sites import Tables, compare, sides_of
from sweeps import Sweep, sweeps

CASES = {
    "the first token after <bos> differs": ("gemma", True, ("resid_pre", "z-all")),
    "Gemma 2": ("gemma2", False, ("resid_pre", "mlp_out", "z", "k", "pattern-row", "z-all")),
}


def measure(size: Size, *, sample: int, repeats: int) -> dict[str, Any]:
    """The tables of sites for each case, with fewer sites."""
    tables: dict[str, dict[str, str]] = {}
    for title, (architecture, early, names) in CASES.items():
        print(title)
        sides = sides_of(replace(size, differs=size.length - 1) if early else size, architecture)
        both = Tables.begin()
        for name in names:
            s = sweeps(sides.model, sides.tokens)[name]
            both.add(compare(sides, _shorter(s), sample=sample, repeats=repeats))
        tables[title] = both.end()
    return section(size.line, tables=tables, sample=sample)


def _shorter(s: Sweep) -> Sweep:
    """Heads by position are many: those of some layers say as much."""
    return s.of_layers(6) if s.name == "z" else s
