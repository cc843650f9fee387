"""A study as a case writes it: measure, tell, rule; at the end a report.

    study = Study(args, progress, case="rotation_plane", model=model, tokens=tokens, metric=metric, steps=6)
    with study:
        sweep = study.measure("rotation", lambda: rotate_sweep(...))
        study.tell("rotation", "The metric around the plane", "…", {"rotation": sweep.figure()}, …)
        study.rule("the metric turns once around the plane", "rotation", [pick(...)])
        index = study.report(title=…, question=…, prompts=…)

Results are written when they exist and figures drawn while the next step is measured, so that a step that fails loses
nothing before it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, final

import pandas as pd
import plotly.graph_objects as go

from circuits.case.command import few_threads, writable
from circuits.case.condition import NOTE, Condition, minus, verdict
from circuits.case.made import bundled_note, copy_stills, manifest, steps_table
from circuits.case.measured import Missing, Recorder
from circuits.case.progress import Progress
from circuits.case.run import Run
from circuits.engine.sweep import Direction
from circuits.metrics import Metric
from circuits.model import Model, load
from circuits.prompts import TokenPairs
from circuits.report import Completion, Report, Section, Stills, Verdict, verdict_table, write

R = TypeVar("R")


def open_model(args: argparse.Namespace, progress: Progress) -> Model:
    """Load what --model names, and say what it is."""
    model = load(args.model, dtype=args.dtype, device=args.device, trust_remote_code=args.trust_remote_code)
    few_threads(sum(p.numel() for p in model.hf.parameters()))
    progress.say("model", model.title)
    return model


@final
class Study:
    """What is measured, told and ruled so far. Use it as a context, so that drawing stops when the study does."""

    def __init__(
        self, args: argparse.Namespace, progress: Progress, *, case: str, model: Model, tokens: TokenPairs,
        metric: Metric, published: Mapping[str, str], steps: int,
    ) -> None:  # fmt: skip
        self._run = Run(args, progress, case=case, model=model, tokens=tokens, metric=metric)
        self.out = self._run.folder
        self.model, self.tokens, self.metric = model, tokens, metric
        self._args, self._progress, self._published = args, progress, published
        self._recorder = Recorder(model, tokens, self.out / "data", progress)
        self._pictures, self._open = Stills(writable(self.out / "figures")), ExitStack()
        self._sections: list[Section] = []
        self._verdicts: list[Verdict] = []
        self._completions: list[Completion] = []
        self._began = time.perf_counter()
        progress.total = steps

    def __enter__(self) -> Study:
        self._open.enter_context(self._run)
        self._open.enter_context(self._pictures)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def measure(self, name: str, work: Callable[[], R], note: Callable[[R], str] = lambda _: "") -> R:
        """One step; see `Recorder.measure`."""
        return self._recorder.measure(name, work, note)

    def attempt(self, name: str, work: Callable[[], R], note: Callable[[R], str] = lambda _: "") -> R | Missing:
        """One step that may have no answer here; see `Recorder.attempt`."""
        return self._recorder.attempt(name, work, note)

    def both(self, name: str, measure: Callable[..., R], **knobs: Any) -> dict[Direction, R]:
        """One step: a patching measurement, denoising and noising."""
        run = partial(measure, self.model, self.tokens, self.metric, **knobs)
        directions: tuple[Direction, Direction] = ("denoise", "noise")
        return self.measure(name, lambda: {direction: run(direction=direction) for direction in directions})

    def tell(
        self, anchor: str, title: str, claim: str, figures: Mapping[str, go.Figure], table: pd.DataFrame | None, *,
        read: str, against: str, notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """A section: one sentence of claim, its figures, how to read them, what would contradict it, and the table."""
        self.add(Section(
            anchor, title, minus(claim), figures, read, against, self._published.get(anchor, ""), table,
            tuple(map(minus, notes)),
        ))  # fmt: skip

    def missing(self, anchor: str, title: str, why: Missing) -> None:
        """The section of a measurement that does not exist here."""
        self.add(why.section(anchor, title, self._published.get(anchor, "")))

    def add(self, section: Section) -> None:
        """A section that is written already; its figures are drawn while the next step is measured."""
        self._sections.append(replace(section, claim=minus(section.claim)))
        if not self._args.no_images:
            self._pictures.add(section.figures)

    def rule(self, hypothesis: str, section: str, conditions: Sequence[Condition | None], missing: str = "") -> None:
        """A verdict: supported when every condition holds, contradicted when one fails, else undecided."""
        self._verdicts.append(verdict(hypothesis, section, conditions, missing))

    def say(self, completions: Sequence[Completion]) -> None:
        """Completions for the report's table."""
        self._completions += completions

    def report(
        self, *, title: str, question: str, prompts: str, certificate: str = "", note: str = NOTE,
        shown: Sequence[str] = (),
    ) -> Path:  # fmt: skip
        """Write the report and say the verdicts; returns its index.html. `shown` are the stills that README shows."""
        report = Report(
            title=title, question=question, model=self.model.title, model_note=bundled_note(self.model), pairs=prompts,
            metric=self.metric.name, certificate=certificate, verdicts=self._verdicts, verdict_note=note,
            sections=self._sections, completions=self._completions,
            manifest=manifest(self._run.record, self.model, prompts, time.perf_counter() - self._began),
            steps=steps_table(self._progress), command=self._args.command,
        )  # fmt: skip
        index = write(report, self.out, images="never" if self._args.no_images else "auto", begun=self._pictures)
        if self._args.figures:
            copy_stills(report, self.out / "figures", Path(self._args.figures), shown)
        self._progress.show("\n" + verdict_table(self._verdicts, note) + "\n")
        return index

