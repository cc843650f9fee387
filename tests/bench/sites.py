"""Every site, ours beside transformer_lens' functions, and how much of the gain that is possible at all is reached."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bound import Costs, Work, bound, costs_of, kept_run, loop
from measure import flops, in_turn
from models import Size, random_model, random_pairs
from page import Table, percent, section, times
from sweeps import Sides, Sweep, sweeps
from torch import Tensor

from circuits.engine.readout import Readout
from circuits.metrics import RefusalMetric


@dataclass(frozen=True)
class Compared:
    """One sweep, both sides."""

    title: str
    cells: int
    sampled: int
    ratio: float
    """Their time over ours."""
    effect: float
    difference: float
    whole: Work
    """What a forward pass per cell runs: theirs."""
    least: Work
    token_layers: int
    """What ours ran, and the least, after the run patched into; and in operations over the least."""
    least_token_layers: int
    work: float


COLUMNS = ("sweep", "cells", "ratio", "largest effect", "difference", "theirs timed on")
WORK_COLUMNS = (
    "sweep", "token-layers: theirs", "least", "ours", "unembedded: theirs", "read out: least", "most", "ratio", "reached",
    "our work",
)  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """The numbers and times of sweeps, and their work."""

    times: Table
    work: Table

    @classmethod
    def begin(cls) -> Tables:
        """Print the headings of the first; the second is printed at the end."""
        return cls(Table(COLUMNS).head(), Table(WORK_COLUMNS, quiet=True))

    def add(self, c: Compared) -> Compared:
        """One line in each."""
        self.times.add(
            c.title, f"{c.cells}", times(c.ratio), f"{c.effect:.1e}", f"{c.difference:.1e}",
            f"{c.sampled} cells",
        )  # fmt: skip
        most = c.whole.flops / c.least.flops
        self.work.add(
            c.title, f"{c.whole.token_layers:,}", f"{c.least_token_layers:,}", f"{c.token_layers:,}",
            f"{c.whole.readouts:,}", f"{c.least.readouts:,}", times(most), times(c.ratio), percent(c.ratio / most),
            percent(c.work),
        )  # fmt: skip
        return c

    def end(self) -> dict[str, str]:
        """Print the second, and give both."""
        print(f"\n{self.work.text}")
        return {"times": self.times.text, "work": self.work.text}


def sides_of(size: Size, architecture: str = "gemma") -> Sides:
    """Both sides on a fresh model of that size."""
    model = random_model(size, architecture=architecture)
    return Sides(model, random_pairs(size, model), RefusalMetric(model, "w9"))


def costs(sides: Sides) -> Costs:
    """What the model's parts cost under the metric at hand."""
    return costs_of(sides.model, linear=Readout(sides.model, sides.metric.bind(sides.tokens)).linear)


def measure(size: Size, *, sample: int, repeats: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of all sites (or of those named)."""
    sides, tables = sides_of(size), Tables.begin()
    for s in sweeps(sides.model, sides.tokens).values():
        if not only or s.name in only:
            tables.add(compare(sides, s, sample=sample, repeats=repeats))
    return section(size.line, **tables.end(), sample=sample)


def compare(sides: Sides, s: Sweep, *, sample: int, repeats: int) -> Compared:
    """Both sides' times and numbers; theirs on a few random cells, their time scaled up.

    Raises ValueError if the numbers differ, or if their work is not what the formula says.
    """
    known, tokens = costs(sides), sides.tokens
    chosen = _chosen(s, sides, sample)
    some = s.part(chosen)
    _check_formula(sides, s.part(chosen[:1]), loop(known, 1, tokens.n_pairs, tokens.n_pos).flops)
    ours: list[Any] = []
    theirs: list[Tensor] = []
    ours_s, theirs_s = in_turn(
        lambda: sides.ours(s.cells), lambda: theirs.append(sides.theirs(some)), repeats=repeats
    )  # fmt: skip
    run = flops(lambda: ours.append(sides.ours(s.cells, audited=False)))
    least = bound(known, s.cells, tokens)
    difference = _gap(theirs[0], ours[0].value.mean(-1)[chosen])
    if difference > 1e-5 * max(1.0, theirs[0].abs().max().item()):
        raise ValueError(f"{s.title}: the two sides differ by {difference:.1e}; their times cannot be compared")
    return Compared(
        title=s.title, cells=len(s.cells), sampled=len(chosen),
        ratio=theirs_s * len(s.cells) / len(chosen) / ours_s,
        effect=_gap(theirs[0], ours[0].base.mean()),
        difference=difference,
        whole=loop(known, len(s.cells), tokens.n_pairs, tokens.n_pos), least=least,
        token_layers=ours[0].certificate.token_layers,
        least_token_layers=least.token_layers - kept_run(known, tokens).token_layers,
        work=run / least.flops,
    )  # fmt: skip


def _check_formula(sides: Sides, one: Sweep, expected: int) -> None:
    sides.kept(one)  # or it would be counted
    counted = flops(lambda: sides.theirs(one))
    if not math.isclose(counted, expected, rel_tol=1e-3):
        raise ValueError(f"{one.title}: theirs runs {counted / expected:.3f} times what the formula says")


def _gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def _chosen(s: Sweep, sides: Sides, sample: int) -> list[int]:
    """Random cells, most of them where something changes: the others say little about the numbers' being equal."""
    order = list(range(len(s.cells)))
    random.Random(0).shuffle(order)

    def changes(i: int) -> bool:
        (patch,) = s.cells[i]
        columns = torch.arange(sides.tokens.n_pos)[None]
        return bool((sides.tokens.position_mask(patch.positions) & (columns >= sides.tokens.subject[:, None])).any())

    after = [i for i in order if changes(i)]
    before = [i for i in order if not changes(i)][: sample // 6]
    return sorted(after[: sample - len(before)] + before if sample else order)
