"""Steps of a study as they go: a bar each on a terminal, a line each elsewhere, and what each took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar, final

from circuits.errors import legible

R = TypeVar("R")


@final
@dataclass
class Progress:
    """Steps with a bar each on a terminal, a line each elsewhere; remembers what each took."""

    total: int
    done: int = 0
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    passes: dict[str, float] = field(default_factory=dict[str, float])
    """Forward passes of one prompt that a step ran, where it says so."""

    def say(self, label: str, text: str) -> None:
        """One line of what is being worked with."""
        sys.stdout.write(f"{label:<10}{legible(text)}\n")
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """Text as it is."""
        sys.stdout.write(text + "\n")

    def step(self, name: str, work: Callable[[], R], note: Callable[[R], str] = lambda _: "") -> R:
        """Run one step; `note` makes the few words that follow its name when it is done."""
        self.done += 1
        label = f"{self.done}/{self.total} {name}"
        start = time.perf_counter()
        with _bar(label):
            result = work()
        self.seconds[name] = time.perf_counter() - start
        said = legible(note(result))
        sys.stdout.write(f"{label:<28}{self.seconds[name]:6.1f} s{'  ' + said if said else ''}\n")
        sys.stdout.flush()
        return result


@contextmanager
def _bar(label: str) -> Generator[None]:
    """A bar that lives as long as its step, on a terminal; nothing elsewhere."""
    if not sys.stdout.isatty():
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from circuits.engine.progress import listening

    columns = (TextColumn(f"{label:<28}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bars:
        task = bars.add_task(label, total=1.0)

        def advance(share: float) -> None:
            if bars.tasks[0].completed >= 1 - 1e-9:  # a step of several sweeps begins again
                bars.reset(task)
            bars.advance(task, share)

        with listening(advance):
            yield
