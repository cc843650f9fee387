"""What the certificate costs: its share of a sweep's time, for few pairs and for as many as memory is promised for.

It recomputes a few cells, each on one pair, and one prompt more, however many pairs there are.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from measure import timed
from models import GEMMA_2B, Size
from page import Table, percent, section
from sites import sides_of
from sweeps import Sides, Sweep, sweeps
from tricks import engine

SWEEPS = ("resid_pre", "z", "z-all", "k-all")


def measure(size: Size, *, repeats: int) -> dict[str, Any]:
    """One line for every sweep; those over many pairs are run once, since the longer one is the less it varies."""
    many = replace(size, pairs=GEMMA_2B.pairs)
    few, more = sides_of(size), sides_of(many)
    table = Table(["sweep", "cells", f"{size.pairs} pairs", f"{many.pairs} pairs"]).head()
    for name in SWEEPS:
        s, same = (_shorter(sweeps(sides.model, sides.tokens)[name]) for sides in (few, more))
        table.add(s.title, str(len(s.cells)), percent(share(few, s, repeats)), percent(share(more, same, 1)))
    return section(f"{size.line}, or {many.pairs} such pairs", table=table.text)


def share(sides: Sides, s: Sweep, repeats: int) -> float:
    """Seconds from the drawing of the audited cells to the certificate, over all others of the same sweeps.

    Of each the least in repeated sweeps. The share is too small to be seen in sweeps with and without a certificate.
    """
    began: list[float] = []
    ended: list[float] = []

    def begin(*args: Any) -> Any:
        began.append(_now())
        return sampled(*args)

    def end(*args: Any) -> Any:
        out = audit(*args)
        ended.append(_now())
        return out

    sampled, audit = engine.sampled, engine.audit
    with mock.patch.multiple(engine, sampled=begin, audit=end):
        whole = [timed(partial(sides.ours, s.cells))[1] for _ in range(repeats)]
    audited = [last - first for first, last in zip(began, ended, strict=True)]
    return min(audited) / min(seconds - mine for seconds, mine in zip(whole, audited, strict=True))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _shorter(s: Sweep) -> Sweep:
    """Heads by position are many: those of some layers say as much."""
    return s.of_layers(6) if s.name == "z" else s
