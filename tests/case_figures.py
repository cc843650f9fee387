"""The figures that a study shows, described and not drawn: a program of its own, since types are checked within the tests.

    python tests/case_figures.py rotation_plane OUT.json circle compared

It runs the study on its own prompts until the figures named are there; what none of them needs is left out.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import plotly.graph_objects as go

from circuits.case import main
from circuits.case.drawn import described
from circuits.errors import CircuitError
from circuits.report import Stills

LEFT_OUT = {
    "gemma_refusal": {"chapters.behaviour": ("measure", "tell")},
    "single_direction": {"partners": ("tell",)},
}
"""Case -> module -> functions: steps before the last picture that no picture needs."""


class EnoughError(CircuitError):
    """Every picture that is shown has been made."""


def figures(name: str, wanted: Sequence[str]) -> dict[str, go.Figure]:
    """Run a case up to the last of the figures `wanted`. In a process of its own: it replaces functions for good."""
    made: dict[str, go.Figure] = {}

    def add(_: Stills, some: Mapping[str, go.Figure]) -> None:
        made.update(some)
        if made.keys() >= set(wanted):
            raise EnoughError("enough")

    Stills.add = add
    if name == "gemma_refusal":
        from circuits.cases.gemma_refusal.setting import Chapter

        empty = Chapter([])
    else:
        empty = None
    for module, functions in LEFT_OUT.get(name, {}).items():
        for function in functions:
            setattr(import_module(f"circuits.cases.{name}.{module}"), function, lambda *_, **__: empty)
    with tempfile.TemporaryDirectory() as folder:
        main(import_module(f"circuits.cases.{name}.__main__").CASE, ["--out", f"{folder}/out"])
    return {stem: made[stem] for stem in wanted}


if __name__ == "__main__":
    case, out, *stems = sys.argv[1:]
    Path(out).write_text(json.dumps({stem: described(f) for stem, f in figures(case, stems).items()}), encoding="utf-8")
