"""Where there is little to say of direct heads the chapter says so: none of them, no direction, few pairs, no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import case_upstream
import pytest
import torch
from case_upstream import check, diverse, setting

import circuits as ct
from circuits.case import Progress
from circuits.cases.gemma_refusal.chapters import elsewhere, upstream
from circuits.cases.gemma_refusal.rules import upstream as rules
from circuits.cases.gemma_refusal.setting import Missing
from circuits.errors import AuditError, SiteError
from circuits.measure.directions import DirectionChoice
from circuits.metrics import LogitDifference, LogOdds
from circuits.prompts import InstructionSet, PairSet
from circuits.sites import Site


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "NULL_DRAWS", 1)


@pytest.fixture(scope="module")
def case() -> Any:
    return case_upstream.measured()


def test_without_direct_heads_nothing_is_run(case: Any, tmp_path: Path):
    s = replace(case[0], data=tmp_path, progress=Progress(total=upstream.STEPS))
    found = upstream.measure(s, case[1], replace(case[2], threshold=1.0), diverse(2))
    chapter = upstream.tell(s, found)
    check(chapter)
    assert all(part.claim == "Not measured: no head scores as direct at threshold 1." for part in chapter.sections)
    assert all(verdict.verdict == "undecided" for verdict in chapter.verdicts)
    assert s.progress.done == 0
    assert not list(tmp_path.iterdir())


def test_without_a_direction_heads_are_still_patched(case: Any, tmp_path: Path):
    s = replace(setting(tmp_path, 4), max_new_tokens=2)
    chapter = upstream.tell(
        s, upstream.measure(s, Missing("no candidate passes"), replace(case[2], threshold=0.95), diverse(2))
    )
    check(chapter)
    unmeasured = [part.id for part in chapter.sections if part.claim == "Not measured: no candidate passes."]
    assert unmeasured == ["head-writes", "ov"]
    assert not any(part.claim.startswith("Not measured") for part in chapter.sections if part.id not in unmeasured)


def test_along_a_direction_of_norm_zero_nothing_lies(case: Any, tmp_path: Path):
    s, chosen, classes, found = case
    zero: DirectionChoice = replace(chosen, held_out=torch.zeros(8, s.model.shape.d_model))
    direct = classes.sets()["direct"]
    s = replace(s, data=tmp_path)
    writes = upstream._writes(s, zero, direct)
    reads = s.attempt("ov circuits", lambda: upstream._read(s, zero, direct))
    assert isinstance(writes, Missing)
    assert isinstance(reads, Missing)
    chapter = upstream.tell(s, replace(found, writes=writes, reads=reads))
    check(chapter)
    claims = {part.id: part.claim for part in chapter.sections}
    assert "no unit vector" in claims["head-writes"]
    assert "no unit vector" in claims["ov"]


@pytest.mark.parametrize("n", [1, 4])
def test_few_pairs_and_a_metric_that_is_not_linear(n: int, case: Any, tmp_path: Path):
    s = setting(tmp_path, n, LogOdds)
    chosen, few = replace(case[1], held_out=case[1].held_out[:n]), replace(case[2], threshold=0.95)
    chapter = upstream.tell(s, upstream.measure(s, chosen, few, diverse(3)))
    check(chapter, intervals=n > 1)
    assert not any(part.claim.startswith("Not measured") for part in chapter.sections)
    if n == 1:
        assert "(no interval)" in next(p.claim for p in chapter.sections if p.id == "head-writes")
        assert next(v for v in chapter.verdicts if v.hypothesis == rules.WRITES).verdict == "undecided"


def without_null(found: Any) -> Any:
    """The same result without random sets of heads, which come last."""
    kept = len(found.cells) - len(found.null_of)
    cut = {name: getattr(found, name)[:kept] for name in ("refused", "metric", "completions")}
    return replace(found, **cut, cells=dict(list(found.cells.items())[:kept]), null_of={})


def test_where_every_head_is_direct_there_is_no_other_to_compare_with(case: Any, tmp_path: Path):
    s, chosen, _, found = case
    every = [Site("z", layer, h) for layer in range(s.model.shape.n_layers) for h in range(s.model.shape.n_heads)]
    writes = upstream._writes(replace(s, data=tmp_path), chosen, every)
    assert isinstance(writes, Missing)
    chapter = upstream.tell(s, upstream.Found(
        {direction: without_null(one) for direction, one in found.spoken.items()}, writes, found.reads,
        without_null(found.moved), tuple(h.label for h in every),
    ))  # fmt: skip
    check(chapter)
    claims = {part.id: part.claim for part in chapter.sections}
    assert "every head scores as direct" in claims["head-writes"]
    assert "random heads" not in claims["spoken"]
    assert "where heads of that layer" not in claims["ov"]
    assert "too few other heads" in chapter.verdicts[0].numbers
    of = {verdict.hypothesis: verdict for verdict in chapter.verdicts}
    assert of[rules.SAID].verdict != "supported"
    assert of[rules.ELSEWHERE].verdict != "supported"
    notes = {part.id: " ".join(part.notes) for part in chapter.sections}
    assert "there is no null" in notes["spoken"]
    assert "there is no null" in notes["transfer"]


def test_instructions_that_cannot_be_used_say_so_before_anything_is_run(case: Any, tmp_path: Path):
    s = replace(case[0], data=tmp_path, progress=Progress(total=1))
    sets, few = case[2].sets(), diverse(2)
    alone = InstructionSet(tuple(i for i in few if i.label == "harmful"), "mine")
    found = elsewhere.measure(s, sets, alone, "auto", null_draws=0)
    assert isinstance(found, Missing)
    assert "mine holds harmful instructions alone" in found.reason
    pairs = PairSet.from_pairs([(p.clean, p.corrupt, "I", "Sure") for p in ct.toy_refusal_pairs()[:2]])
    own = setting(tmp_path, 2, LogitDifference, pairs)
    found = elsewhere.measure(own, sets, few, "auto", null_draws=0)
    assert isinstance(found, Missing)
    assert "each pair's own" in found.reason
    assert s.progress.done == own.progress.done == 0


def test_values_that_are_no_matrix_are_a_finding_and_a_failed_check_is_not(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    s = replace(case[0], data=tmp_path)

    def lacking(*_: Any, **__: Any) -> Any:
        raise SiteError("L0.v: values leave a Mixer, not a matrix: there is no W_V")

    def failing(*_: Any, **__: Any) -> Any:
        raise AuditError("what heads read does not sum to what they write")

    read = s.attempt
    monkeypatch.setattr(upstream, "ov_circuits", lacking)
    found = read("ov circuits", lambda: upstream._read(s, case[1], case[2].sets()["direct"]))
    assert isinstance(found, Missing)
    assert "not a matrix" in found.reason
    monkeypatch.setattr(upstream, "ov_circuits", failing)
    with pytest.raises(AuditError):
        read("ov circuits", lambda: upstream._read(s, case[1], case[2].sets()["direct"]))
