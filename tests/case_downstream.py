"""The chapter on what the direction does, measured once for all tests that read it, and what its text has to keep."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from case_told import setting

from circuits.cases.gemma_refusal.chapters import downstream
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import downstream as rules
from circuits.cases.gemma_refusal.setting import Chapter, Setting
from circuits.measure.directions import DirectionChoice, choose_direction
from circuits.report import Report

SECTIONS = ["lens", "unembedding", "null-space", "attribution", "clamping"]
Real = tuple[Setting, DirectionChoice, downstream.Found, Chapter]


@cache
def measured() -> Real:
    """Eight pairs of the bundled model."""
    with tempfile.TemporaryDirectory() as folder:
        s = setting(8, Path(folder))
        chosen = choose_direction(s.model, s.tokens, s.metric, seed=0)
        found = downstream.measure(s, chosen)
        names = {file.stem for file in Path(folder).glob("*.csv")}
        assert names == {"lens", "attribution", "unembedding", "clamping"}, "every result is written"
    return s, chosen, found, downstream.tell(s, found)


def own(s: Setting, chosen: Any) -> Any:
    """The same choice of layer and position with the direction that these pairs have there."""
    clean, corrupt = downstream._residuals(s, chosen.layer, chosen.position)
    candidates = chosen.candidates.clone()
    candidates[chosen.layer, list(chosen.positions).index(chosen.position)] = (clean - corrupt).mean(0)
    return replace(chosen, candidates=candidates)


def check(chapter: Chapter) -> dict[str, Any]:
    """Sections in order with intervals in their tables, nothing undefined in words; the sections by id."""
    Report(
        title="t", question="q", model="m", model_note="", pairs="p", metric="m", certificate="", verdicts=chapter.verdicts,
        sections=chapter.sections, completions=chapter.completions,
    ).check()  # fmt: skip
    assert [s.id for s in chapter.sections] == SECTIONS
    assert [v.hypothesis for v in chapter.verdicts] == [name for names in rules.HYPOTHESES.values() for name in names]
    words = " ".join([v.numbers + v.rule for v in chapter.verdicts])
    for s in chapter.sections:
        words += " ".join([s.claim, s.how_to_read, s.contradicted_by, *s.notes])
        assert s.published == PUBLISHED[s.id]
        assert all(stem.startswith(s.id) for stem in s.figures)
        assert not re.search(r"(?<![\w.])-\d", s.claim), "a minus sign is a minus sign"
        if s.claim.startswith("Not measured"):
            assert s.table is None
            continue
        assert s.claim.count(". ") == 0, "one sentence"
        assert s.figures
        assert s.how_to_read
        assert s.contradicted_by
        assert s.table is not None
        assert len(s.table.columns) <= 12
        ends = ("share_low", "share_high") if s.id == "null-space" else ("low", "high")
        assert set(ends) <= set(s.table.columns)
        assert (s.table[ends[0]].dropna() <= s.table[ends[1]].dropna()).all()
    assert not {"nan", "inf", "None"} & set(re.findall(r"[A-Za-z]+", words))
    return {s.id: s for s in chapter.sections}
