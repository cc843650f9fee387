"""What each trick of the engine is worth: the same sweeps with one of them taken away, at the same numbers.

The package has no switches for this. A piece of the engine is replaced by one that does the same the plain way, for the
length of a context; where the engine no longer has that piece, this fails instead of measuring nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from unittest import mock

import torch
from measure import timed
from models import Size
from page import Table, section, times
from sites import sides_of
from sweeps import sweeps

from circuits.engine import batches, several, single, window
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay

engine = importlib.import_module("circuits.engine.values")
Off = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, eq=False)
class _Whole(window.Windows):
    """Windows that start at column 0, although the edits stand further on."""

    edited: tuple[int, ...] = ()

    @cached_property
    def begins(self) -> torch.Tensor:
        return self._plain.begins + torch.tensor(self.edited)

    @property
    def firsts(self) -> window.Windows:
        return window.Windows(self.edited, tuple(p + 1 for p in self.edited))

    def at(self, queries: torch.Tensor, prefix: int, n_pos: int) -> window.At:
        return self._plain.at(queries, prefix, n_pos)

    @property
    def _plain(self) -> window.Windows:
        return window.Windows(self.starts, self.stops)


def _from_column_0() -> AbstractContextManager[Any]:
    def pack(starts: Sequence[int], stop: int) -> _Whole:
        return _Whole((0,) * len(starts), (stop,) * len(starts), tuple(sorted(starts)))

    return _all(
        mock.patch.object(single, "pack", pack),
        mock.patch.object(several.Several, "column", property(lambda _: 0)),
    )


def _last_block_whole() -> AbstractContextManager[Any]:
    def whole(self: Replay, layer: int, x: Any, windows: window.Windows, edits: Any) -> Any:
        return self.block(layer, x, windows, edits)[:, :, windows.ends]

    return mock.patch.object(Replay, "_last_block", whole)


def _unembedded() -> AbstractContextManager[Any]:
    made = Readout.__init__

    def init(self: Readout, *args: Any) -> None:
        made(self, *args)
        self._direction = None

    return mock.patch.object(Readout, "__init__", init)


def _nothing_known() -> AbstractContextManager[Any]:
    """Columns before the first difference too, and patches that nothing reads or that make one run the other."""
    bound = engine.bind

    def bind(*args: Any, skip_before: int = 0) -> Any:
        del skip_before
        return bound(*args)

    return _all(mock.patch.object(engine, "bind", bind), mock.patch.object(single, "_known", _always(None)))


def _one_row() -> AbstractContextManager[Any]:
    one = _always(1)
    return _all(mock.patch.object(single, "rows_at_once", one), mock.patch.object(several, "rows_at_once", one))


def _one_column() -> AbstractContextManager[Any]:
    return mock.patch.object(single, "_FULL_ENOUGH", 2.0)


def _replayed() -> AbstractContextManager[Any]:
    return mock.patch.object(engine, "_is_single", _always(False))


def _always(answer: Any) -> Callable[..., Any]:
    def answered(*_: Any, **__: Any) -> Any:
        return answer

    return answered


def _all(*contexts: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    stack = ExitStack()
    for context in contexts:
        stack.enter_context(context)
    return stack


@dataclass(frozen=True)
class Trick:
    """What is taken away, and what the rest is compared with."""

    title: str
    off: Off
    against: Off = nullcontext


def _tokens(factor: float) -> Off:
    return lambda: mock.patch.object(batches, "_CPU_TOKENS", int(batches._CPU_TOKENS * factor))


TRICKS = (
    Trick("cells whose outcome is known are run too", _nothing_known),
    Trick("every row starts at column 0", _from_column_0),
    Trick(
        "every row starts at block 0 (*)",
        lambda: _all(_replayed(), mock.patch.object(several.Several, "joins", property(lambda _: 0))),
        _replayed,
    ),
    Trick("single patches replayed like any other cell", _replayed),
    Trick("one row at a time", _one_row),
    Trick("each column by itself", _one_column),
    Trick("one edit at a time", lambda: _all(_one_row(), _one_column())),
    Trick("last block run whole", _last_block_whole),
    Trick("every row unembedded", _unembedded),
    Trick("batches a quarter of the size", _tokens(0.25)),
    Trick("batches four times the size", _tokens(4)),
)  # fmt: skip


def measure(size: Size) -> dict[str, Any]:
    """Slowdown of three sweeps without each trick, and how far the numbers then are from those with it."""
    sides = sides_of(size)
    known = sweeps(sides.model, sides.tokens)
    heads, everywhere = known["z"], known["z-all"]
    chosen = [
        known["resid_pre"],
        heads.of_layers(2),
        everywhere.of_layers(4),
    ]
    table = Table(["taken away", *(s.title for s in chosen), "difference"]).head()
    plain = {s.title: sides.ours(s.cells, audited=False).value for s in chosen}
    for trick in TRICKS:
        cells, difference = [], 0.0
        for s in chosen:
            factor, value = _slower(trick, partial(sides.ours, s.cells, audited=False))
            difference = max(difference, (value - plain[s.title]).abs().max().item())
            cells.append(times(factor))
        if difference > 1e-4:
            raise ValueError(f"{trick.title}: the numbers change by {difference:.1e}")
        table.add(trick.title, *cells, f"{difference:.1e}")
    return section(size.line, table=table.text)


def _slower(trick: Trick, sweep: Callable[[], Any]) -> tuple[float, Any]:
    """How many times longer it takes without, measured between two runs with; and the numbers without."""

    def with_it() -> float:
        with trick.against():
            return timed(sweep)[1]

    before = with_it()
    with trick.off():
        without, slow = timed(sweep)
    return slow / min(before, with_it()), without.value
