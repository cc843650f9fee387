"""The study: what is measured, in the order of the argument, and the report made of it.

Results are written to the output folder as soon as they exist; a step that fails loses nothing before it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from circuits.case import Progress, writable
from circuits.case.condition import NOTE, minus
from circuits.case.inputs import positions_line
from circuits.case.made import bundled_note, copy_stills, manifest, steps_table
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
from circuits.cases.gemma_refusal.inputs import Inputs, setting
from circuits.cases.gemma_refusal.setting import Chapter, Setting
from circuits.metrics import RefusalMetric
from circuits.report import Report, Stills, verdict_table, write

SHOWN = ("residual-denoise", "groups-noise", "heads-noise")
"""Figures that README shows."""


def study(args: argparse.Namespace, progress: Progress) -> Path:
    """Run everything and return the report's index.html. Raises CircuitError for input that cannot be used."""
    began = time.perf_counter()
    s, given = setting(args, progress)
    chapters = (behaviour, stages, heads, upstream, downstream, repair, together, connections)
    progress.total = sum(chapter.STEPS for chapter in chapters)

    with given.run, Stills(writable(given.out / "figures")) as pictures:
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
        copy_stills(report, given.out / "figures", Path(args.figures), SHOWN)
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
        model_note=bundled_note(s.model),
        pairs=positions_line(s.tokens, given.pairs),
        metric=s.metric.name,
        certificate=certificate,
        verdicts=verdicts,
        verdict_note=NOTE,
        sections=sections,
        completions=[completion for chapter in told for completion in chapter.completions],
        manifest=manifest(given.run.record, s.model, f"{s.tokens.n_pairs} pairs ({s.tokens.hash})", seconds),
        steps=steps_table(s.progress),
        command=args.command,
    )
