"""One step of a study: timed, counted, written down at once.

A number that does not exist for these prompts or this model (`UndefinedError`, or a class of heads without members) is a
finding: it becomes a `Missing`, the report says why, and the case goes on. A check that fails (`AuditError`) stops it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import pandas as pd

from circuits.case.progress import Progress
from circuits.engine.cost import forward_passes
from circuits.errors import UndefinedError
from circuits.files import write_whole
from circuits.model import Model
from circuits.prompts import TokenPairs
from circuits.report import Section
from circuits.result import Result

R = TypeVar("R")


@final
@dataclass(frozen=True)
class Missing:
    """A measurement that cannot be made here, and why."""

    reason: str

    def section(self, anchor: str, title: str, published: str = "") -> Section:
        """The section that says so."""
        return Section(anchor, title, f"Not measured: {self.reason}.", published=published)


@final
@dataclass(frozen=True, eq=False)
class Recorder:
    """Where results are written as soon as they exist, and where steps are shown."""

    model: Model
    tokens: TokenPairs
    """Costs are told in forward passes of one of these prompts."""
    data: Path
    progress: Progress

    def measure(self, name: str, work: Callable[[], R], note: Callable[[R], str] = lambda _: "") -> R:
        """Make one measurement (a Result, or several by name), write it to `data`, say what it took and cost."""
        spent: list[float] = []

        def run() -> R:
            with forward_passes(self.model, self.tokens) as cost:
                result = work()
            spent.append(cost.passes)
            for stem, found in _named(name.replace(" ", "_"), result).items():
                if isinstance(found, Result):
                    found.save(self.data, name=stem)
                else:
                    write_whole(self.data / f"{stem}.csv", found.to_csv(index=False))
            return result

        def said(result: R) -> str:
            rest = note(result)
            return f"{spent[0]:>8,.0f} passes{'  ' + rest if rest else ''}"

        result = self.progress.step(name, run, said)
        self.progress.passes[name] = spent[0]
        return result

    def attempt(self, name: str, work: Callable[[], R], note: Callable[[R], str] = lambda _: "") -> R | Missing:
        """`measure`, or the reason why this number does not exist here."""

        def tried() -> R | Missing:
            try:
                return work()
            except UndefinedError as error:
                return Missing("; ".join(line.strip() for line in str(error).splitlines()))

        return self.measure(name, tried, lambda r: f"not measured: {r.reason}" if isinstance(r, Missing) else note(r))


def _named(name: str, found: Any) -> dict[str, Result | pd.DataFrame]:
    """What is to be written, each under a name of its own: `heads_noise`, `heads_denoise`."""
    if isinstance(found, Result):
        return {name: found}
    if isinstance(found, pd.DataFrame):
        return {name: found}
    if isinstance(found, Mapping):
        return {f"{name}_{key}": value for key, value in found.items() if isinstance(value, Result)}  # pyright: ignore[reportUnknownVariableType]
    return {}
