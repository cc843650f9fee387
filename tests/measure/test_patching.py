"""Maps of residual, blocks, heads, groups and head sets are what the oracle gives cell by cell, under the right names."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pandas as pd
import pytest
import small_models
import torch
from oracle import PairOracle

from circuits.engine.random_heads import random_heads
from circuits.errors import SiteError
from circuits.measure.blocks import patch_blocks
from circuits.measure.groups import patch_groups, thirds
from circuits.measure.head_sets import patch_head_sets
from circuits.measure.heads import patch_heads
from circuits.measure.residual import patch_residual
from circuits.metrics import RefusalMetric
from circuits.prompts import TokenPairs
from circuits.prompts.clusters import template_clusters
from circuits.sites import Site, head
from circuits.stats import max_t

TOKENS = small_models.uneven()
MODEL = small_models.model("gemma2")
METRIC = RefusalMetric(MODEL, "w60")
Plan = Sequence[tuple[str, int, int | None, Any]]


def _oracle(plan: Plan, pair: int, direction: str) -> float:
    one = PairOracle(small_models.raw("gemma2"), TOKENS, pair, direction)
    edits = [one.from_source(kind, layer, where, index) for kind, layer, index, where in plan]
    return oracle.against_mean(one.logits(edits), MODEL.tokenizer.get_vocab()["w60"])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_residual(direction: Any, says: Callable[..., None]):
    found = patch_residual(MODEL, TOKENS, METRIC, direction=direction)
    assert found.value.shape == (5, 4, 10)
    frame = found.to_frame()
    assert len(frame) == 4 * int(TOKENS.mask.sum())
    for row in frame.sample(25, random_state=0).itertuples():
        expected = _oracle([("resid_pre", row.layer, None, row.pos)], row.pair, direction)
        assert row.value == pytest.approx(expected, abs=1e-5)
        column = row.pos + TOKENS.n_pos
        assert row.token == TOKENS.clean_text[row.pair][column]
        assert row.role == TOKENS.role(row.pair, column)
    says(found.figure(), MODEL.name)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_blocks(direction: Any, says: Callable[..., None]):
    found = patch_blocks(MODEL, TOKENS, METRIC, direction=direction)
    assert found.value.shape == (5, 2, 4, 10)
    for row in found.to_frame().sample(25, random_state=1).itertuples():
        expected = _oracle([(row.kind, row.layer, None, row.pos)], row.pair, direction)
        assert row.value == pytest.approx(expected, abs=1e-5)
    says(found.figure(), MODEL.name)


@pytest.mark.parametrize("positions", ["last", "all", "subject", -2])
def test_heads(positions: Any, says: Callable[..., None]):
    found = patch_heads(MODEL, TOKENS, METRIC, positions=positions)
    for row in found.to_frame().sample(12, random_state=2).itertuples():
        assert row.label == head(row.layer, row.head).label
        expected = _oracle([("z", row.layer, row.head, positions)], row.pair, "denoise")
        assert row.value == pytest.approx(expected, abs=1e-5)
    says(found.figure(), MODEL.name)


def test_groups_are_unions_of_patches(says: Callable[..., None]):
    groups = {"low": (0, 1), "high": (3,)}
    found = patch_groups(MODEL, TOKENS, METRIC, groups=groups, positions=("subject", "last", "all"))
    assert found.direction == "noise"
    for row in found.to_frame().itertuples():
        plan = [(row.kind, layer, None, row.position) for layer in groups[row.group]]
        assert row.value == pytest.approx(_oracle(plan, row.pair, "noise"), abs=1e-5)
    summary = found.to_summary()
    assert len(summary) == 2 * 2 * 3
    assert (summary["necessary"] == (summary["mean"] >= 0.5)).all()
    assert set(summary["layers"]) == {"L0–L1", "L3"}
    says(found.figure(), MODEL.name)


@pytest.mark.parametrize("n", range(1, 40))
def test_thirds_cover_all_layers_once(n: int):
    found = thirds(n)
    assert [layer for layers in found.values() for layer in layers] == list(range(n))
    assert list(found) == (["early", "middle", "late"] if n > 2 else list(found))
    if n % 3 == 0:
        assert {len(layers) for layers in found.values()} == {n // 3}


def test_groups_that_are_none():
    with pytest.raises(SiteError, match="group 'top'.*layer 4"):
        patch_groups(MODEL, TOKENS, METRIC, groups={"top": (3, 4)})
    with pytest.raises(SiteError, match="group 'top'.*no layer"):
        patch_groups(MODEL, TOKENS, METRIC, groups={"top": ()})
    with pytest.raises(SiteError, match="no group"):
        patch_groups(MODEL, TOKENS, METRIC, groups={})


SETS = {"two": (head(1, 0), head(2, 3)), "one": (head(1, 2),)}


def test_head_sets(says: Callable[..., None]):
    found = patch_head_sets(MODEL, TOKENS, METRIC, sets=SETS, null_draws=4)
    frame = found.to_frame()
    for row in frame[frame["pair"] == 2].itertuples():
        sites = [label.removeprefix("L").split(".H") for label in found.sets[row.set]]
        plan = [("z", int(layer), int(index), "all") for layer, index in sites]
        assert row.value == pytest.approx(_oracle(plan, 2, "noise"), abs=1e-5)
    says(found.figure(), MODEL.name)


def test_random_sets_are_other_heads_of_the_same_layers():
    found = patch_head_sets(MODEL, TOKENS, METRIC, sets=SETS, null_draws=20)
    drawn = {name: set(heads) for name, heads in found.sets.items() if name in found.null_of}
    assert len(drawn) == 40
    for name, heads in drawn.items():
        own = {h.label for h in SETS[found.null_of[name]]}
        assert len(heads) == len(own)
        assert not heads & own
        assert all(label.startswith(("L1.", "L2.")) for label in heads)
    # not only heads that another set names
    assert len(set().union(*drawn.values())) == 8
    again = patch_head_sets(MODEL, TOKENS, METRIC, sets=SETS, null_draws=20)
    assert again.sets == found.sets
    summary = found.to_summary().set_index("set")
    frame = found.to_frame()
    nulls = frame[frame["null_of"] == "two"].groupby("set")["fraction"].mean()
    assert summary.loc["two", "null_mean"] == pytest.approx(nulls.mean())
    assert summary.loc["two", "null_max"] == pytest.approx(nulls.max())


def test_the_null_is_drawn_as_every_null_of_heads_is():
    found = patch_head_sets(
        MODEL, TOKENS, METRIC, sets=SETS | {"other": (head(2, 1), head(2, 2))}, null_draws=3, seed=4
    )
    rng = random.Random(4)
    for name, heads in (SETS | {"other": (head(2, 1), head(2, 2))}).items():
        drawn = random_heads(heads, 4, 3, seed=rng, layers=(1, 2))  # one after the other: no two nulls are alike
        assert [found.sets[f"null of {name} #{i}"] for i in range(3)] == [tuple(h.label for h in d) for d in drawn]
    assert random_heads(SETS["two"], 4, 3, seed=4) == random_heads(SETS["two"], 4, 3, seed=random.Random(4))


def test_one_set_has_a_null_too():
    found = patch_head_sets(MODEL, TOKENS, METRIC, sets={"one": (head(1, 2),)}, null_draws=3)
    assert len(found.null_of) == 3


@pytest.mark.parametrize("heads", [(), (Site("mlp_out", 1),), (Site("z", 1),)])
def test_sets_without_heads(heads: tuple[Site, ...]):
    with pytest.raises(SiteError, match="set 'x' needs heads"):
        patch_head_sets(MODEL, TOKENS, METRIC, sets={"x": heads})


def test_a_pair_without_an_effect_has_no_fraction_and_is_counted():
    """A pair of one prompt twice: its runs agree, so nothing can be recovered."""
    same = TokenPairs(**{**vars(TOKENS), "corrupt": TOKENS.corrupt.clone()})
    same.corrupt[3] = same.clean[3]
    found = patch_heads(MODEL, same, METRIC)
    frame = found.to_frame()
    assert frame.loc[frame["pair"] == 3, "fraction"].isna().all()
    assert frame.loc[frame["pair"] != 3, "fraction"].notna().all()
    from circuits.frames import summary

    assert set(summary(frame, ["layer", "head"], "fraction")["n"]) == {4}


def _many() -> TokenPairs:
    """Enough pairs for a p below .05 in some cells of every sweep: the five, four times over."""
    return TOKENS.select([*range(5)] * 4)


def _apart(found: Any) -> Any:
    """Every pair as a draw of its own, though four say the same: what is tested here is what happens to twenty draws."""
    assert found.clusters == tuple([*range(5)] * 4)
    return replace(found, provenance=replace(found.provenance, clusters=()))


@pytest.mark.parametrize("patch", [patch_residual, patch_blocks, patch_heads, patch_groups])
def test_every_sweep_is_tested_against_chance_over_all_its_cells(patch: Any):
    whole = patch(MODEL, _many(), METRIC)
    found = _apart(whole)
    axes = [a for a in ("kind", "layer", "pos", "head", "group", "position") if a in found.to_summary()]
    wide = found.to_frame().pivot_table(index="pair", columns=axes, values="fraction", dropna=False, observed=False)
    wide = wide.loc[:, wide.notna().any()]
    matrix = wide.to_numpy(copy=True)
    matrix[np.abs(matrix) <= 1e-5] = 0.0
    p = dict(zip(wide.columns, max_t(np.nan_to_num(matrix), present=np.isfinite(matrix)), strict=True))
    table = found.to_summary()
    assert len(table) == len(p)
    for row in table.itertuples():
        expected = p[tuple(getattr(row, a) for a in axes)]
        assert row.mean == pytest.approx(wide[tuple(getattr(row, a) for a in axes)].mean(), abs=1e-9)
        if row.least_p <= 0.05 or row.note.startswith("zero"):
            assert row.p == pytest.approx(expected, abs=1e-9)
        else:
            assert math.isnan(row.p)
            assert row.note.startswith("cannot reach significance")
        assert row.survives == (expected <= 0.05)
    assert table["survives"].any()
    clustered = whole.to_summary()
    assert not clustered["survives"].any()  # five templates cannot reach .05
    assert clustered["mean"].tolist() == pytest.approx(table["mean"].tolist())
    pd.testing.assert_frame_equal(found.to_summary(clusters=template_clusters(_many())), clustered)


@pytest.mark.parametrize("patch", [patch_residual, patch_blocks, patch_heads])
def test_dots_stand_on_the_cells_that_survive(patch: Any):
    whole = patch(MODEL, _many(), METRIC)
    found = _apart(whole)
    figure = found.figure()
    dots = [trace for trace in figure.data if trace.type == "scatter" and trace.mode == "markers"]
    drawn = sum(len(trace.x) for trace in dots)
    assert drawn == found.to_summary()["survives"].sum() > 0
    caption = next(a.text for a in figure.layout.annotations if a.name == "caption").replace("<br>", " ")
    assert f"(max-T, signs of whole pairs flipped): {drawn}" in caption
    few = patch(MODEL, TOKENS, METRIC).figure()
    said = next(a.text for a in few.layout.annotations if a.name == "caption").replace("<br>", " ")
    assert "no dots: 5 pairs cannot reach p ≤ 0.05 (least 0.0625)" in said
    shared = whole.figure()
    said = next(a.text for a in shared.layout.annotations if a.name == "caption").replace("<br>", " ")
    assert "no dots: 5 templates cannot reach p ≤ 0.05 (least 0.0625)" in said
    assert "20 pairs of 5 templates" in said


def test_fractions_are_of_each_pair():
    found = patch_heads(MODEL, TOKENS, METRIC)
    frame = found.to_frame()
    for row in frame.sample(10, random_state=0).itertuples():
        base, source = found.base[row.pair].item(), found.source[row.pair].item()
        assert row.fraction == pytest.approx((row.value - base) / (source - base), rel=1e-4, abs=1e-6)


def test_a_result_is_saved_and_says_where_it_comes_from(tmp_path: Any):
    found = patch_residual(MODEL, TOKENS, METRIC)
    path = found.save(tmp_path / "deep" / "er")
    assert path.name == "residual_patching.csv"
    from safetensors.torch import load_file

    stored = load_file(path.with_suffix(".safetensors"))
    assert torch.equal(stored["value"], found.value)
    assert MODEL.hash in path.with_suffix(".json").read_text()
    assert TOKENS.hash in found.provenance.pairs
    assert "certificate ok" in found.provenance.certificate
    assert np.isfinite(found.to_frame()["value"]).all()
    assert not math.isnan(found.base.sum().item())
