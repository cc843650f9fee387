"""What the tests of the chapter on direct heads share: a small setting, a measured case, and what holds of any chapter."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path

import pytest

import circuits as ct
from circuits.case import Progress
from circuits.cases.gemma_refusal.chapters import upstream
from circuits.cases.gemma_refusal.rules import upstream as rules
from circuits.cases.gemma_refusal.setting import Chapter, Setting
from circuits.measure.attention import HeadClasses, classify_heads
from circuits.measure.directions import DirectionChoice, choose_direction
from circuits.measure.groups import thirds
from circuits.metrics import LogitDifference, Metric
from circuits.prompts import InstructionSet, PairSet, diverse_instructions
from circuits.report import Report

IDS = ["spoken", "head-writes", "ov", "transfer"]
DRAWS = 2
"""Random sets enough to be told apart: completions take most of the time here."""


def setting(data: Path, n: int, metric: type[Metric] = ct.RefusalMetric, pairs: PairSet | None = None) -> Setting:
    model = ct.load()
    tokens = (ct.toy_refusal_pairs()[:n] if pairs is None else pairs).tokenize(model)
    chosen = metric(model) if metric is LogitDifference else metric(model, "I")
    groups = {name: tuple(layers) for name, layers in thirds(model.shape.n_layers).items()}
    return Setting(
        model=model, tokens=tokens, metric=chosen, groups=groups, threshold=0.2, max_kl=0.1, max_new_tokens=5, seed=0,
        data=data, progress=Progress(total=upstream.STEPS),
    )  # fmt: skip


def diverse(n: int) -> InstructionSet:
    """So many of either label, in the words of the bundled model."""
    every = diverse_instructions().of_source("grammar")
    kept = [[i for i in every if i.label == label][:n] for label in ("harmful", "harmless")]
    return InstructionSet(tuple(kept[0] + kept[1]), "a few")


@cache
def measured() -> tuple[Setting, DirectionChoice, HeadClasses, upstream.Found]:
    """Eight pairs of the bundled model; results are written to a folder that lives as long as the process."""
    s = setting(Path(_FOLDER.name), 8)
    classes = classify_heads(s.model, s.tokens, threshold=s.threshold)
    chosen = choose_direction(s.model, s.tokens, s.metric, max_kl=s.max_kl)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream, "NULL_DRAWS", DRAWS)
        return s, chosen, classes, upstream.measure(s, chosen, classes, diverse(8))


_FOLDER = tempfile.TemporaryDirectory(prefix="upstream-")


def check(chapter: Chapter, *, intervals: bool = True) -> None:
    """What holds of every chapter: it makes a report, tables have intervals, and no sentence shows a NaN.

    Without `intervals` (one pair) verdicts are left to `rules.condition`, which writes them.
    """
    Report(
        title="t", question="", model="", model_note="", pairs="", metric="", certificate="", verdicts=chapter.verdicts,
        sections=chapter.sections, completions=chapter.completions,
    ).check()  # fmt: skip
    assert [section.id for section in chapter.sections] == IDS
    hypotheses = [name for names in rules.HYPOTHESES.values() for name in names]
    assert [verdict.hypothesis for verdict in chapter.verdicts] == hypotheses
    texts = [v.numbers for v in chapter.verdicts] if intervals else []
    for section in chapter.sections:
        texts += [section.claim, section.how_to_read, section.contradicted_by, *section.notes]
        assert section.published
        assert section.claim.endswith(".")
        if section.claim.startswith("Not measured"):
            assert section.table is None
            continue
        assert section.table is not None
        assert len(section.table.columns) <= 12
        assert section.table.columns.is_unique
        ends = [[c for c in section.table.columns if str(c).endswith(end)] for end in ("low", "high")]
        assert ends[0]
        assert len(ends[0]) == len(ends[1])
        for low, high in zip(*ends, strict=True):
            both = section.table[[low, high]].dropna()
            assert (both[low] <= both[high] + 1e-9).all()
        assert all(name.startswith(section.id) for name in section.figures)
    for text in texts:
        assert not re.search(r"\bnan\b", text, re.IGNORECASE), text
        assert not re.search(r"(?<![\w.])-\d", text), f"a hyphen for a minus: {text}"
