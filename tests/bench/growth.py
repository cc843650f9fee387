"""How our time grows with each size, the others held, and how the ratio to transformer_lens changes with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bound import bound, loop
from measure import in_turn
from models import Size
from page import Table, section, times
from sites import costs, sides_of
from sweeps import sweeps

BASE = Size(layers=6, vocab=16_000, pairs=2, length=14, differs=5)


def axes(base: Size) -> dict[str, list[tuple[str, Size]]]:
    """Every size three times, each twice the one before; the vocabulary four times."""
    two = (1, 2, 4)
    before = base.length - base.differs
    return {
        "layers": [(str(n), replace(base, layers=n)) for n in (base.layers * k for k in two)],
        "tokens before the difference": [
            (str(n), replace(base, length=n + base.differs)) for n in (before * k for k in two)
        ],
        "tokens from the difference on": [
            (str(n), replace(base, length=before + n, differs=n)) for n in (base.differs * k for k in two)
        ],
        "heads of the same total width": [
            (str(n), replace(base, heads=n, d_head=base.heads * base.d_head // n))
            for n in (base.heads * k // 2 for k in two)
        ],
        "pairs": [(str(n), replace(base, pairs=n)) for n in (base.pairs * k for k in two)],
        "vocabulary": [(f"{n:,}", replace(base, vocab=n)) for n in (base.vocab * k for k in (1, 4, 16))],
    }  # fmt: skip


def measure(base: Size, *, sample: int, repeats: int) -> dict[str, Any]:
    """One line for every size; heads by position, the sweep with most cells."""
    table = Table(["size", "of", "cells", "ours", "the least work", "theirs", "ratio", "most"]).head()
    known: dict[Size, tuple[int, float, float, int, float]] = {}
    for axis, points in axes(base).items():
        smallest = None
        for label, size in points:
            if size not in known:
                known[size] = _point(size, sample, repeats)
            n, ours, theirs, least, most = known[size]
            smallest = smallest or known[size]
            table.add(
                axis, label, str(n), times(ours / smallest[1]), times(least / smallest[3]), times(theirs / smallest[2]),
                times(theirs / ours), times(most),
            )  # fmt: skip
    return section(base.line, table=table.text, sample=sample)


def _point(size: Size, sample: int, repeats: int) -> tuple[int, float, float, int, float]:
    sides = sides_of(size)
    s = sweeps(sides.model, sides.tokens)["z"]
    some = s.sampled(sample or len(s.cells))
    ours, theirs = in_turn(lambda: sides.ours(s.cells), lambda: sides.theirs(some), repeats=repeats)
    known, tokens = costs(sides), sides.tokens
    least = bound(known, s.cells, tokens).flops
    most = loop(known, len(s.cells), tokens.n_pairs, tokens.n_pos).flops / least
    return len(s.cells), ours, theirs * len(s.cells) / len(some.cells), least, most
