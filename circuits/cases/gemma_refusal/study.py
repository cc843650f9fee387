"""The study: what is measured, in the order of the argument, and the report made of it.

Results are written to the output folder as soon as they exist; a step that fails loses nothing before it.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from circuits.case import Progress, writable
from circuits.cases.gemma_refusal import graph
from circuits.cases.gemma_refusal.chapters import (
    behaviour,
    connections,
    connections_told,
    downstream,
    heads,
    repair,
    stages,
    together,
    upstream,
)
from circuits.cases.gemma_refusal.inputs import Inputs, positions_line, setting
from circuits.cases.gemma_refusal.rules.condition import NOTE, minus
from circuits.cases.gemma_refusal.setting import Chapter, Setting
from circuits.errors import OutputError
from circuits.metrics import RefusalMetric
from circuits.report import Report, Stills, verdict_table, write
from circuits.result import versions

SHOWN = ("residual-denoise", "groups-noise", "heads-noise")
"""Figures that README shows."""
NOT_GEMMA = "A small model trained from scratch on a synthetic grammar: it has Gemma's architecture and is not Gemma."


def study(args: argparse.Namespace, progress: Progress) -> Path:
    """Run everything and return the report's index.html. Raises CircuitError for input that cannot be used."""
    began = time.perf_counter()
    s, given = setting(args, progress)
    chapters = (behaviour, stages, heads, upstream, downstream, repair, together, connections)
    progress.total = sum(chapter.STEPS for chapter in chapters)

    with Stills(writable(given.out / "figures")) as pictures:
        told: list[Chapter] = []

        def tell(chapter: Chapter) -> None:
            """Its figures are drawn while the next chapter is measured."""
            told.append(chapter)
            if not args.no_images:
                pictures.add({name: f for section in chapter.sections for name, f in section.figures.items()})

        acts = behaviour.measure(s)
        tell(behaviour.tell(s, acts))
        where = stages.measure(s)
        tell(stages.tell(s, where))
        which = heads.measure(s)
        tell(heads.tell(s, which))
        before = upstream.measure(s, acts.chosen, which.classes, given.instructions, template=args.template)
        tell(upstream.tell(s, before))
        tell(downstream.tell(s, downstream.measure(s, acts.chosen)))
        tell(repair.tell(s, repair.measure(s, acts.chosen, which.single, where.blocks)))
        tell(together.tell(s, together.measure(s, which.classes, which.single, where.blocks)))
        linked = connections.measure(s)
        tell(connections_told.tell(linked))
        tell(graph.tell(s, where.blocks, which.single, which.classes, acts.written, linked, given.out))
        certificate = where.residual["denoise"].provenance.certificate
        report = _report(s, given, args, told, certificate, time.perf_counter() - began)
        index = write(report, given.out, images="never" if args.no_images else "auto", begun=pictures)
    if args.figures:
        _copy_stills(given.out / "figures", Path(args.figures))
    progress.show("\n" + verdict_table(report.verdicts, NOTE) + "\n")
    progress.say("graph", str(given.out / "circuit.graphml"))
    return index


def _report(
    s: Setting, given: Inputs, args: argparse.Namespace, told: Sequence[Chapter], certificate: str, seconds: float
) -> Report:
    verdicts = [verdict for chapter in told for verdict in chapter.verdicts]
    sections = [replace(part, claim=minus(part.claim)) for chapter in told for part in chapter.sections]
    if not isinstance(s.metric, RefusalMetric):  # the write-up's findings are about refusal and its metric
        sections = [replace(section, published="") for section in sections]
    return Report(
        title=f"The refusal circuit in {s.model.name}" if args.pairs is None else f"The circuit behind {s.metric.name}",
        question="Which components carry the difference between the two prompts of each pair, and how?",
        model=s.model.title,
        model_note=NOT_GEMMA if s.model.origin == "bundled" else "",
        pairs=positions_line(s.tokens, given.pairs),
        metric=s.metric.name,
        certificate=certificate,
        verdicts=verdicts,
        verdict_note=NOTE,
        sections=sections,
        completions=[completion for chapter in told for completion in chapter.completions],
        manifest=_manifest(args, s, seconds),
        steps=_steps(s.progress),
        command=args.command,
    )


def _steps(progress: Progress) -> pd.DataFrame:
    """What each measurement took and cost, and all of them together."""
    table = pd.DataFrame([
        {"step": name, "seconds": round(seconds, 2), "forward passes": round(progress.passes[name])}
        for name, seconds in progress.seconds.items()
    ])  # fmt: skip
    whole = {"step": "all", "seconds": table["seconds"].sum(), "forward passes": table["forward passes"].sum()}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


def _manifest(args: argparse.Namespace, s: Setting, seconds: float) -> dict[str, str]:
    proved = ", ".join(f"{fact} {value:.1e}" for fact, value in s.model.facts.items())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "model": f"{s.model.title}, hash {s.model.hash}, {args.dtype} on {s.model.device}",
        "proved on load": proved,
        "pairs": f"{s.tokens.n_pairs} ({s.tokens.hash})",
        "seed": str(args.seed),
        "seconds": f"{seconds:.1f} before the report was written",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def _copy_stills(source: Path, target: Path) -> None:
    writable(target)
    missing = [name for name in SHOWN if not (source / f"{name}.png").is_file()]
    if missing:
        raise OutputError(f"no still image of {', '.join(missing)}: kaleido and a browser are needed (see the report)")
    for name in SHOWN:
        shutil.copy2(source / f"{name}.png", target / f"{name}.png")
