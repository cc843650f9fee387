"""The chapter on repair: what is measured is what it says, and what it says is what its tables hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import planted_models
import pytest
import torch
from case_told import check, estimates, held, setting

import circuits as ct
from circuits.case.wording import number
from circuits.cases.gemma_refusal.chapters import repair, repair_identity
from circuits.cases.gemma_refusal.setting import Missing, Setting
from circuits.frames import records
from circuits.linalg import random_directions
from circuits.measure.blocks import patch_blocks
from circuits.measure.directions import DirectionChoice, choose_direction
from circuits.measure.heads import patch_heads
from circuits.measure.repair_identity import decompose_repair
from circuits.measure.self_repair import self_repair
from circuits.metrics import LogitDifference, LogOdds
from circuits.sites import Site, parse

SECTIONS = ("self-repair", "repair-identity")
Real = tuple[Setting, repair.Found]

# --- planted truth --------------------------------------------------------------------------------------------------------


def test_the_repair_of_a_planted_mover_is_found():
    """Of the mover's 1.9 a negative head takes a quarter away, which is gone too, and a backup writes 1 in its place."""
    truth, model, tokens = (of("gpt2") for of in (planted_models.truth, planted_models.model, planted_models.tokens))
    part = decompose_repair(model, tokens, LogitDifference(model), parse(truth.roles["mover"]), ablation="patch")
    section, ruling = repair_identity.tell({"head": part})
    assert ruling.verdict == "supported"
    assert section.table is not None
    row = section.table.set_index("term").loc["all later components"]
    assert row["ratio"] == pytest.approx(0.25 + 1 / 1.9, abs=0.01)
    assert "which make up for the direct effect (ratio 0.7" in section.claim
    # of the other heads one writes into the metric: nothing makes up for it; the rest write next to nothing directly
    assert part.to_summary().query("kind == 'sum' and term == 'later'")["null_high"].item() > 1
    assert (row["null_n"], row["null_high"]) == (1, pytest.approx(0.0, abs=1e-3))
    shown = section.table["term"].tolist()
    assert {truth.roles["backup"], truth.roles["negative"]} <= set(shown[:6])


def test_what_acts_through_later_components_is_not_repaired():
    """An AND head writes nothing into the metric: the last MLP does. Rounding is no direct effect to make up for."""
    truth, model, tokens = (of("gemma2") for of in (planted_models.truth, planted_models.model, planted_models.tokens))
    part = decompose_repair(model, tokens, LogitDifference(model), parse(truth.roles["and second"]), ablation="patch")
    assert part.later.mean() < -1
    assert part.to_summary().query("kind == 'sum' and term == 'later'")["ratio"].abs().item() > 1e3
    section, ruling = repair_identity.tell({"head": part})
    assert ruling.verdict == "undecided"
    assert "next to nothing" in section.claim
    assert section.table is not None
    assert section.table["ratio"].isna().all()


# --- a real run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Fewer random directions than a report has, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repair, "NULL_DRAWS", {"last": 2, "all": 1})
        yield


def noised(s: Setting) -> list[dict[Any, Any]]:
    """All that the chapter reads of the two sweeps."""
    return [{"noise": patch(s.model, s.tokens, s.metric, direction="noise")} for patch in (patch_heads, patch_blocks)]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: Any) -> DirectionChoice:
    s = setting(8, tmp_path_factory.mktemp("direction"))
    return choose_direction(s.model, s.tokens, s.metric, null_draws=1)


@pytest.fixture(scope="module")
def real(chosen: DirectionChoice, tmp_path_factory: Any) -> Real:
    s = setting(8, tmp_path_factory.mktemp("data"))
    return s, repair.measure(s, chosen, *noised(s))


def test_what_is_said_is_what_the_tables_hold(real: Real):
    chapter = repair.tell(*real)
    check(chapter, *SECTIONS)
    direction, parts = chapter.sections
    assert direction.table is not None
    assert parts.table is not None
    assert len(estimates(direction.claim)) == 4
    assert set(estimates(direction.claim)) <= held(direction.table, "mean", "low", "high")
    found = held(parts.table, "mean", "low", "high", say=number) | held(parts.table, "ratio", "ratio_low", "ratio_high")
    assert len(estimates(parts.claim)) == 5 * len(parts.figures)
    assert set(estimates(parts.claim)) <= found
    for section, ruling in zip(chapter.sections, chapter.verdicts, strict=True):
        assert estimates(ruling.numbers)[0] in estimates(section.claim)
    low, high = (float(x.replace("−", "-")) for x in estimates(chapter.verdicts[0].numbers)[0][1:])
    bound = float(re.findall(r"at least (-?[\d.]+)", chapter.verdicts[0].rule)[0])
    expected = "supported" if low >= bound else "contradicted" if high < bound else "undecided"
    assert chapter.verdicts[0].verdict == expected
    assert ("the loss grows" in direction.claim) == (high < 0)


def test_the_share_over_layers_is_the_mean_of_its_cells(real: Real):
    s, found = real
    assert isinstance(found.direction, dict)
    table = repair.tell(*real).sections[0].table
    assert table is not None
    assert list(table["ablated_layer"][:2]) == ["mean", "mean"], "the rows that the verdict rests on come first"
    for row, where in zip(records(table.iloc[:2]), ("last", "all"), strict=True):
        assert row["positions"] == where
        cells = (
            found.direction[where]
            .to_summary("repaired")
            .query(f"side == 'clean' and read_layer == {s.model.shape.n_layers}")
        )
        assert (cells["undefined"] == 0).all()
        assert row["mean"] == pytest.approx(cells["mean"].mean())


def test_random_directions_are_measured_alike(real: Real):
    s, found = real
    assert isinstance(found.direction, dict)
    drawn = random_directions(repair.NULL_DRAWS["last"], s.model.shape.d_model, seed=s.seed)
    alone = self_repair(s.model, s.tokens, drawn[1], positions="last", null_draws=0)
    expected = alone.to_frame().query("side == 'clean' and read_layer == read_layer.max()")
    own = expected.groupby("pair")["repaired"].mean().mean()
    assert repair._random(found.direction["last"])[1] == pytest.approx(own, rel=1e-3)


def test_terms_of_the_table_add_up(real: Real):
    table = repair.tell(*real).sections[1].table
    assert table is not None
    for _, of in table.groupby("component"):
        mean = of.set_index("term")["mean"]
        parts = mean[["direct", "final norm", "all later components"]].sum()
        assert parts == pytest.approx(mean["total change"], abs=1e-4)


def test_the_components_are_those_with_the_largest_effects(real: Real):
    s, found = real
    heads, blocks = (
        measured(s.model, s.tokens, s.metric, direction="noise") for measured in (patch_heads, patch_blocks)
    )
    last = s.model.shape.n_layers - 1
    of_heads = heads.to_frame().query(f"layer < {last}").groupby("label")["fraction"].mean().abs()
    of_blocks = (
        blocks.to_frame().query(f"layer < {last} and pos == -1").groupby(["kind", "layer"])["fraction"].mean().abs()
    )
    kind, layer = of_blocks.idxmax()
    assert isinstance(found.parts, dict)
    assert found.parts["head"].component == of_heads.idxmax()
    assert found.parts["block"].component == Site(kind, int(layer)).label
    total = found.parts["head"].total.double()
    gap = (heads.base - heads.source).double()
    assert float((-total / gap).mean()) == pytest.approx(of_heads.max(), abs=1e-4), (
        "the noising that the sweep measured"
    )
    loud = blocks.value.clone()
    loud[:, 1, 5, :-1] = blocks.source[:, None]  # elsewhere, and after which nothing stands
    loud[:, 1, last, -1] = blocks.source
    strong = heads.value.clone()
    strong[:, last, 0] = heads.source
    again = repair_identity._sites(replace(heads, value=strong), replace(blocks, value=loud), [])
    assert [site.label for site in again.values()] == [found.parts[why].component for why in ("head", "block")]
    other = of_heads.sort_values().index[-2]
    sites = repair_identity._sites(heads, blocks, [other])
    assert sites["direct head"] == parse(str(other))
    assert repair_identity._sites(heads, blocks, [str(of_heads.idxmax())]).keys() == {"head", "block"}


def test_it_is_written_and_counted(real: Real):
    s, _ = real
    names = {f.name for f in s.data.glob("*.csv")}
    assert {
        "self-repair_last.csv",
        "self-repair_all.csv",
        "repair-identity_head.csv",
        "repair-identity_block.csv",
    } <= names
    assert set(s.progress.passes) == {"self-repair", "repair-identity"}
    assert len(s.progress.passes) == repair.STEPS
    # every direction, the random ones too: both sides, one pass per layer entered, and the intact run once
    runs = sum(1 + draws for draws in repair.NULL_DRAWS.values()) * s.model.shape.n_layers + len(repair.NULL_DRAWS)
    assert s.progress.passes["self-repair"] == pytest.approx(2 * runs * s.tokens.n_pairs)


# --- where numbers do not exist -------------------------------------------------------------------------------------------


def test_a_metric_that_is_not_linear_has_a_term_for_it(tmp_path: Path):
    s = setting(8, tmp_path, LogOdds(ct.load(), "I"))
    chosen = Missing("no candidate passes")
    found = repair.measure(s, chosen, *noised(s))
    chapter = repair.tell(s, found)
    check(chapter, *SECTIONS)
    table = chapter.sections[1].table
    assert table is not None
    head_rows = table[table["component"] == table["component"][0]].set_index("term")["mean"]
    parts = head_rows[["direct", "final norm", "all later components", "nonlinear part of the metric"]]
    assert parts.abs().min() > 0
    assert parts.sum() == pytest.approx(head_rows["total change"], abs=1e-4)
    assert "through the nonlinear part of the metric" in chapter.sections[1].claim
    # the undefined direction: told, not measured
    assert chapter.sections[0].claim == "Not measured: no candidate passes."
    assert chapter.verdicts[0].verdict == "undecided"
    assert "no candidate passes" in chapter.verdicts[0].numbers


@pytest.mark.parametrize("pairs", [1, 4])
def test_few_pairs_and_no_direct_head(pairs: int, chosen: DirectionChoice, tmp_path: Path):
    s = setting(pairs, tmp_path, threshold=0.9999)
    few = replace(
        chosen, held_out=chosen.held_out[:pairs] if pairs > 1 else torch.full_like(chosen.held_out[:1], torch.nan)
    )
    found = repair.measure(s, few, *noised(s))
    chapter = repair.tell(s, found)
    check(chapter, *SECTIONS)
    assert isinstance(found.parts, dict)
    assert found.parts.keys() == {"head", "block"}
    if pairs == 1:  # nothing is left to estimate a direction from, and there is no interval anywhere
        assert isinstance(found.direction, Missing)
        assert {v.verdict for v in chapter.verdicts} == {"undecided"}
        assert "(no interval)" in chapter.sections[1].claim
    else:
        assert len(estimates(chapter.sections[0].claim)) == 4


def test_a_direction_of_which_nothing_is_removed(real: Real):
    """Every share of the clean prompts is undefined: the claim says so, and the verdict is open."""
    s, found = real
    assert isinstance(found.direction, dict)
    gone = {}
    for where, result in found.direction.items():
        intact, ablated = result.intact.clone(), result.ablated.clone()
        intact[0], ablated[0] = 0, 0
        gone[where] = replace(result, intact=intact, ablated=ablated)
    chapter = repair.tell(s, replace(found, direction=gone))
    check(chapter, *SECTIONS)
    assert chapter.verdicts[0].verdict == "undecided"
    assert chapter.sections[0].claim.count("a share that is undefined") == 4
    assert list(chapter.sections[0].figures) == ["self-repair-matrix"], "nothing is drawn of nothing"


def test_a_direction_that_is_nowhere(real: Real, chosen: DirectionChoice, monkeypatch: pytest.MonkeyPatch):
    s, found = real
    assert isinstance(found.direction, dict)
    gone = {w: replace(r, intact=0 * r.intact, ablated=0 * r.ablated) for w, r in found.direction.items()}
    monkeypatch.setattr(repair, "self_repair", lambda *_, positions, **__: gone[positions])
    missing = repair._ablated(s, chosen)
    assert isinstance(missing, Missing)
    chapter = repair.tell(s, replace(found, direction=missing))
    check(chapter, *SECTIONS)
    assert "too small at every layer" in chapter.sections[0].claim
    assert "too small at every layer" in chapter.verdicts[0].numbers


def test_a_head_without_a_direct_effect_has_no_ratio(real: Real):
    s, found = real
    assert isinstance(found.parts, dict)
    part = found.parts["head"]
    flat = replace(part, direct=torch.zeros_like(part.direct), ablated=part.ablated - part.direct)
    chapter = repair.tell(s, replace(found, parts={**found.parts, "head": flat}))
    check(chapter, *SECTIONS)
    assert "there is no ratio, because the direct effect is next to nothing" in chapter.sections[1].claim
    assert chapter.verdicts[1].verdict == "undecided"
    assert part.component in chapter.verdicts[1].numbers
