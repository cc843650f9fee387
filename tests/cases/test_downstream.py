"""The chapter on what the direction does: what is told is what the tables hold; lens, attribution, what may be missing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from case_downstream import Real, check, measured, own
from case_told import setting

from circuits.case.wording import number, percent, told
from circuits.cases.gemma_refusal.chapters import downstream
from circuits.cases.gemma_refusal.rules import downstream as rules
from circuits.cases.gemma_refusal.setting import Missing
from circuits.engine import baseline
from circuits.frames import records
from circuits.measure.lens import LogitLens
from circuits.metrics import LogOdds, RefusalMetric

_WITH_INTERVAL = re.compile(r"(−?[\d.]+)(?: %)? \[(−?[\d.]+), (−?[\d.]+)\]")


@pytest.fixture(scope="module")
def real() -> Real:
    return measured()


def said(text: str) -> list[str]:
    """Every number with an interval in a text."""
    return [match[0].removesuffix(" %") for match in _WITH_INTERVAL.finditer(text)]


def test_what_is_told_is_what_the_tables_hold(real: Real):
    sections = check(real[3])
    for anchor, least in (("lens", 2), ("unembedding", 1), ("attribution", 5), ("clamping", 5)):
        table = sections[anchor].table
        held = {told(row).replace("-", "−") for row in records(table)}
        shares = {c for c in said(sections[anchor].claim) if f"{c.split(' ')[0]} %" in sections[anchor].claim}
        assert len(shares) == 2 * (anchor == "lens")
        found = [c for c in said(sections[anchor].claim) if c not in shares]
        assert len(found) >= least
        assert set(found) <= held, anchor


def test_a_measurement_is_timed_and_counted(real: Real):
    s = real[0]
    assert list(s.progress.seconds) == ["lens", "attribution", "unembedding", "clamping"]
    assert len(s.progress.seconds) == downstream.STEPS
    assert min(s.progress.passes.values()) >= 2 * s.tokens.n_pairs


# --- lens and attribution -------------------------------------------------------------------------------------------------


def test_the_lens_ends_at_the_metric_and_its_shares_are_of_that(real: Real):
    s, _, found, told_of = real
    clean, corrupt = (side.double() for side in baseline(s.model, s.tokens, s.metric))
    table = check(told_of)["lens"].table
    layers = s.model.shape.n_layers
    for reading in ("run scale", "own scale"):
        rows = table[table["reading"] == reading].set_index(["series", "layer"])["mean"]
        assert rows["clean − corrupt", layers] == pytest.approx((clean - corrupt).mean().item(), abs=1e-4)
        assert rows["clean", layers] == pytest.approx(clean.mean().item(), abs=1e-4)
        assert rows["clean", 3] - rows["corrupt", 3] == pytest.approx(rows["clean − corrupt", 3], abs=1e-4)
    run = table[table["reading"] == "run scale"].set_index(["series", "layer"])["mean"]["clean − corrupt"]
    first = s.groups["late"][0]
    share = (run[layers] - run[first]) / run[layers]
    claim = check(told_of)["lens"].claim
    assert f"the late layers {first} to {layers - 1} add {100 * share:.0f} % [" in claim
    assert isinstance(found.lens, LogitLens)
    assert downstream.off(found.lens) < 1e-4
    off = replace(found.lens, metric=found.lens.metric + 3)
    assert downstream.off(off) == pytest.approx(3, abs=1e-3)
    assert "within 3e+00" in " ".join(downstream._lens(s, off).sections[0].notes)


def test_attribution_adds_up_and_names_the_largest(real: Real):
    s, _, found, told_of = real
    section = check(told_of)["attribution"]
    table = section.table
    clean, corrupt = (side.double() for side in baseline(s.model, s.tokens, s.metric))
    mean = table.set_index("component")["mean"]
    assert mean["metric"] == pytest.approx((clean - corrupt).mean().item(), abs=1e-4)
    assert mean[["all attention", "all MLPs", "all else"]].sum() == pytest.approx(mean["metric"])
    kinds = table.groupby("kind")["mean"].sum()
    assert kinds["attn_out"] == pytest.approx(mean["all attention"])
    assert kinds["head"] == pytest.approx(kinds["attn_out"], abs=1e-4), "no biases in this model"
    assert table["component"][:4].tolist() == ["metric", "all attention", "all MLPs", "all else"]
    blocks = table[table["kind"].isin(["attn_out", "mlp_out"])]
    top = blocks.loc[blocks["mean"].abs().idxmax()]
    assert f"largest single share is {top['component']}'s, {number(top['mean'])} [" in section.claim
    assert table["component"][4] == top["component"]
    outside = (table["mean"] < table["null_low"]) | (table["mean"] > table["null_high"])
    tested = table[table["p"].notna()]
    assert (tested["beyond"].astype(bool) == (outside & (table["p"] <= 0.05))[tested.index]).all()
    assert table[table["p"].isna()]["beyond"].isna().all()
    shares: Any = found.shares
    assert table.set_index("component").loc["L3.MLP", "null_high"] == pytest.approx(
        np.quantile(shares.null_written[:, 1, 3].double().numpy(), 0.975)
    )
    assert table.set_index("component").loc["L6.H1", "null_low"] == pytest.approx(
        np.quantile(shares.null_heads[:, 6, 1].double().numpy(), 0.025)
    )


def test_what_lowers_the_metric_is_named_only_beyond_chance_and_random_directions(real: Real):
    s, _, found, _ = real
    shares: Any = found.shares
    written = shares.written.clone()
    written[0, :, 1, 3] -= 9.0 + torch.linspace(0, 1, s.tokens.n_pairs)
    lowered = downstream._attribution(replace(shares, written=written)).sections[0]
    assert "lowered beyond chance and random directions by L3.MLP (−" in lowered.claim
    assert lowered.table is not None
    mean = lowered.table.set_index("component")["mean"]["L3.MLP"]
    assert f"largest single share is L3.MLP's, −{number(-mean)} [" in lowered.claim
    wide = replace(
        shares, written=written, null_written=torch.linspace(-30, 30, 200)[:, None, None] + 0 * shares.null_written
    )
    assert "by no single block" in downstream._attribution(wide).sections[0].claim


# --- what may be missing --------------------------------------------------------------------------------------------------


def test_a_metric_that_is_not_linear_has_no_lens_and_the_rest_goes_on(real: Real, tmp_path: Path):
    s = setting(4, tmp_path)
    s = replace(s, metric=LogOdds(s.model, "I"))
    chapter = downstream.tell(s, downstream.measure(s, own(s, replace(real[1], held_out=real[1].held_out[:4]))))
    sections = check(chapter)
    for anchor in ("lens", "attribution"):
        assert "not linear in the logits" in sections[anchor].claim
    assert sections["clamping"].claim.startswith("Clamped from")
    assert sections["unembedding"].table is not None
    lens = chapter.verdicts[0]
    assert (lens.hypothesis, lens.verdict) == (rules.LATE, "undecided")
    assert "not linear" in lens.numbers


def test_four_pairs_have_intervals_and_no_p(tmp_path: Path):
    s = setting(4, tmp_path)
    chapter = downstream.tell(s, downstream.measure(s, Missing("none of 24 candidate directions passes")))
    sections = check(chapter)
    for anchor in ("lens", "attribution"):
        section = sections[anchor]
        assert "There is no p: too few pairs" in " ".join(section.notes)
        moving = section.table[(section.table["low"] < section.table["high"]) & (section.table["mean"].abs() > 1e-4)]
        assert moving["p"].isna().all()
    assert not sections["attribution"].table["beyond"].any()
    for anchor in ("unembedding", "null-space", "clamping"):
        assert sections[anchor].claim == "Not measured: none of 24 candidate directions passes."
    assert [v.verdict for v in chapter.verdicts[1:]] == ["undecided"] * 4
    assert all("candidate directions" in v.numbers for v in chapter.verdicts[1:])
    assert not chapter.completions
    assert list(s.progress.seconds) == ["lens", "attribution"]


def test_one_pair_has_no_interval_and_no_held_out_direction(real: Real, tmp_path: Path):
    s = setting(1, tmp_path)
    alone = replace(real[1], held_out=torch.full((1, s.model.shape.d_model), torch.nan))
    chapter = downstream.tell(s, downstream.measure(s, own(s, alone)))
    sections = {section.id: section for section in chapter.sections}
    assert sections["clamping"].claim.startswith("Not measured: one pair leaves no other")
    for section in sections.values():
        assert "nan" not in section.claim
    assert "(no interval)" in sections["lens"].claim
    assert "over pairs" not in sections["unembedding"].claim
    assert {v.verdict for v in chapter.verdicts} == {"undecided"}


def test_other_groups_and_other_signs_read_right(real: Real):
    s, _, found, _ = real
    lens: Any = found.lens
    none = downstream._lens(replace(s, groups={"first": (0, 1)}), lens)
    assert re.search(r"half of that is there entering layer \d\.", none.sections[0].claim)
    assert none.verdicts[0].numbers == "there is no group called late"
    early = downstream._lens(replace(s, groups={"late": (1, 2)}), lens).sections[0].claim
    assert "after the late layers" in early
    assert "the late layers 1 to 2 add" in early
    swapped = replace(
        lens, run_scale=lens.run_scale.flip(0), own_scale=lens.own_scale.flip(0), metric=lens.metric.flip(0)
    )
    lower = downstream._lens(s, swapped)
    assert "at the end, below zero: there is nothing" in lower.sections[0].claim
    assert lower.verdicts[0].verdict == "undecided"


def test_a_soft_cap_is_told(real: Real, tmp_path: Path):
    model, tokens = small_models.model("gemma2"), small_models.uneven()
    metric = RefusalMetric(model, "w60")
    s = replace(
        real[0], model=model, tokens=tokens, metric=metric, groups={"late": (2, 3)}, max_new_tokens=2, data=tmp_path
    )
    candidates = torch.randn(4, 1, model.shape.d_model, generator=torch.Generator().manual_seed(1))
    held_out = candidates[2].expand(tokens.n_pairs, -1)
    scores = dict.fromkeys(("bypass", "induce", "kl"), torch.zeros(4, 1))
    chosen = replace(real[1], candidates=candidates, positions=(-1,), layer=2, position=-1, held_out=held_out, **scores)
    sections = check(downstream.tell(s, downstream.measure(s, own(s, chosen))))
    assert "leave out the soft cap at ±3" in " ".join(sections["lens"].notes)
    assert "soft cap at ±3 is a term of its own" in " ".join(sections["attribution"].notes)
    assert "Logits are capped at ±3" in " ".join(sections["clamping"].notes)
    mean = sections["attribution"].table.set_index("component")["mean"]
    clean, corrupt = (side.double() for side in baseline(model, tokens, s.metric))
    assert mean["metric"] == pytest.approx((clean - corrupt).mean().item(), abs=1e-5)
    assert mean["soft_cap"] != 0


def test_numbers_in_words():
    assert [number(x) for x in (9.6125, 17.06, 0.0123, 1234.5, -0.5195, 0.0, 3e-7, float("nan"))] == [
        "9.61", "17.1", "0.0123", "1234", "-0.519", "0", "3.00e-07", "undefined",
    ]  # fmt: skip
    assert told({"mean": 1.0, "low": 0.5, "high": 1.5}) == "1.00 [0.500, 1.50]"
    assert told({"mean": 1.0, "low": float("nan"), "high": float("nan")}) == "1.00 (no interval)"
    assert percent(0.785, 0.757, 0.815) == "78 % [76, 82]"
    assert percent(0.785, float("nan"), 1.0) == "78 % (no interval)"
