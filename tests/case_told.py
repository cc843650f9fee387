"""What every chapter's text has to keep: checked on real runs of the bundled model, on few of its pairs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

import circuits as ct
from circuits.case import Progress
from circuits.case.condition import minus
from circuits.cases.gemma_refusal.setting import Chapter, Setting
from circuits.frames import records
from circuits.measure.groups import thirds
from circuits.metrics import Metric
from circuits.report import Report

_NUMBER = r"(−?\d+(?:\.\d+)?(?:e−?\d+)?)"
_ESTIMATE = re.compile(rf"{_NUMBER} \[{_NUMBER}, {_NUMBER}\]")


def setting(pairs: int, data: Path, metric: Metric | None = None, threshold: float = 0.2) -> Setting:
    """The bundled model on the first pairs."""
    model = ct.load()
    groups = {name: tuple(layers) for name, layers in thirds(model.shape.n_layers).items()}
    return Setting(
        model=model, tokens=ct.toy_refusal_pairs()[:pairs].tokenize(model), metric=metric or ct.RefusalMetric(model, "I"),
        groups=groups, threshold=threshold, max_kl=0.1, max_new_tokens=4, seed=0, data=data, progress=Progress(total=9),
    )  # fmt: skip


def check(chapter: Chapter, *sections: str) -> None:
    """Links lead somewhere, tables have intervals, figures their section's name, and nothing undefined is printed."""
    Report(
        title="t", question="q", model="m", model_note="", pairs="p", metric="m", certificate="", verdicts=chapter.verdicts,
        sections=chapter.sections,
    ).check()  # fmt: skip
    assert tuple(s.id for s in chapter.sections) == sections
    assert {v.figure for v in chapter.verdicts} == set(sections)
    said = [v.numbers + v.rule for v in chapter.verdicts]
    for s in chapter.sections:
        said += [s.claim, s.how_to_read, s.contradicted_by, *s.notes]
        assert s.table is None or {"low", "high"} <= set(s.table.columns)
        assert all(stem.startswith(s.id) for stem in s.figures)
        if s.figures:
            assert s.how_to_read
            assert s.contradicted_by
    assert not {"nan", "inf", "None"} & set(re.findall(r"[A-Za-z]+", " ".join(said)))


def estimates(text: str) -> list[tuple[str, ...]]:
    """Every number with an interval in a text, as it is written."""
    return [match.groups() for match in _ESTIMATE.finditer(minus(text))]


def held(table: pd.DataFrame, *columns: str, say: Callable[[float], str] = "{:.2f}".format) -> set[tuple[str, ...]]:
    """The same of a table's columns."""
    return {tuple(minus(say(r[c])) for c in columns) for r in records(table)}
