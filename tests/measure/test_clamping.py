"""Clamped metrics are the oracle's; clamped to what it is, a prompt does not change; lines are what polyfit draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import small_models
import torch
from oracle import Edit

from circuits.engine import generate
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Clamp
from circuits.linalg import random_directions
from circuits.measure import clamping as module
from circuits.measure.clamping import Clamping, clamp_component
from circuits.metrics import RefusalMetric
from circuits.sites import Site

TOKENS = small_models.uneven()
SIDES = (TOKENS.clean, TOKENS.corrupt)
V = 5 * torch.randn(32, generator=torch.Generator().manual_seed(11))
CLAMPS = (-2.0, 0.0, 1.5, 4.0)


@cache
def clamped(architecture: str, positions: Any = "all") -> Clamping:
    model = small_models.model(architecture)
    metric = RefusalMetric(model, "w60")
    return clamp_component(model, TOKENS, metric, V, layer=2, clamps=CLAMPS, positions=positions, null_draws=4, seed=7)


def by_oracle(architecture: str, side: int, pair: int, where: list[int], v: torch.Tensor, value: float) -> float:
    ids = SIDES[side][pair][TOKENS.mask[pair]]
    at = range(len(ids)) if not where else [p % len(ids) for p in where]
    edit = Edit("resid_pre", 2, oracle.formula(at, oracle.clamped(v, value)))
    token = small_models.model(architecture).tokenizer.get_vocab()["w60"]
    return oracle.against_mean(oracle.run(small_models.raw(architecture), ids, [edit])[0][-1], token)


def own(architecture: str, side: int, pair: int, at: int, v: torch.Tensor) -> float:
    ids = SIDES[side][pair][TOKENS.mask[pair]]
    kept = oracle.run(small_models.raw(architecture), ids, keep=[("resid_pre", 2)])[1]
    return float(kept["resid_pre", 2][at] @ v / v.norm())


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_every_value_is_the_oracles(architecture: str):
    everywhere, last = clamped(architecture), clamped(architecture, "last")
    for side, pair, cell in ((0, 1, 0), (1, 2, 3), (0, 4, 2)):
        for found, where in ((everywhere, []), (last, [-1])):
            expected = by_oracle(architecture, side, pair, where, V, CLAMPS[cell])
            assert found.value[side, pair, cell].item() == pytest.approx(expected, abs=1e-5)
        assert last.natural[side, pair].item() == pytest.approx(own(architecture, side, pair, -1, V), abs=1e-5)
    assert max(everywhere.identity_error, last.identity_error) < 1e-5
    assert (everywhere.value - last.value).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "qwen3"])
@pytest.mark.parametrize("positions", ["last", "subject", (1, -2), "all"])
def test_clamped_to_its_own_component_a_prompt_does_not_change(architecture: str, positions: Any):
    found = clamped(architecture, positions)
    assert 0 <= found.identity_error < 1e-5
    assert (found.value - found.base[..., None]).abs().max() > 1e-2
    at: Any = {"last": -1, "all": -1, (1, -2): -2}.get(positions)
    for side, pair in ((0, 0), (1, 3)):
        column = at if at is not None else int(TOKENS.subject[pair] - (TOKENS.n_pos - TOKENS.lengths[pair]))
        assert found.natural[side, pair].item() == pytest.approx(own(architecture, side, pair, column, V), abs=1e-5)


def test_the_identity_would_show_a_clamp_that_does_something(monkeypatch: pytest.MonkeyPatch):
    read = module._own_residual

    def shifted(*given: Any) -> Any:
        resid, where = read(*given)
        return resid + V / V.norm(), where

    monkeypatch.setattr(module, "_own_residual", shifted)
    model = small_models.model("llama")
    found = clamp_component(model, TOKENS, RefusalMetric(model, "w60"), V, layer=2, null_draws=1)
    assert found.identity_error > 1e-3


def test_the_null_moves_random_directions_as_far():
    found = clamped("gemma2", "last")
    for n in (0, 3):
        r = random_directions(4, 32, seed=7)[n]
        slopes: list[float] = []
        for pair in range(5):
            shift = own("gemma2", 1, pair, -1, r) - own("gemma2", 1, pair, -1, V)
            ends = [by_oracle("gemma2", 1, pair, [-1], r, end + shift) for end in (CLAMPS[0], CLAMPS[-1])]
            slopes.append((ends[1] - ends[0]) / (CLAMPS[-1] - CLAMPS[0]))
        assert found.null_slope[1, n].item() == pytest.approx(np.mean(slopes), abs=1e-5)


def test_each_pair_may_have_its_own_direction():
    model = small_models.model("qwen2")
    metric = RefusalMetric(model, "w60")
    directions = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    found = clamp_component(model, TOKENS, metric, directions, layer=2, clamps=CLAMPS, null_draws=1)
    for side, pair, cell in ((0, 3, 1), (1, 0, 3)):
        expected = by_oracle("qwen2", side, pair, [], directions[pair], CLAMPS[cell])
        assert found.value[side, pair, cell].item() == pytest.approx(expected, abs=1e-5)
    assert found.identity_error < 1e-5


def test_a_line_is_found_where_there_is_one():
    x, slopes = torch.tensor(CLAMPS), torch.tensor([1.0, 1.2, 0.8, 1.1, 0.9])
    line = slopes[:, None] * x + torch.tensor([3.0, 4.0, 5.0, 6.0, 7.0])[:, None]
    found = replace(clamped("llama"), value=torch.stack([line, torch.full((5, 4), 2.0)]))
    clean, corrupt = (found.to_summary().set_index("side").loc[side] for side in ("clean", "corrupt"))
    assert clean["slope"] == pytest.approx(1.0)
    assert clean["end_slope"] == pytest.approx(1.0)
    assert clean["intercept"] == pytest.approx(5.0)
    assert clean["r2"] == pytest.approx(1.0)
    assert 0.8 < clean["slope_low"] < 0.95
    assert 1.05 < clean["slope_high"] < 1.2
    assert corrupt["slope"] == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(corrupt["r2"])
    assert corrupt["p"] == 1
    assert found.gap_frame()["mean"].tolist() == pytest.approx([1.0 * c + 5 - 2 for c in CLAMPS], abs=1e-5)


def test_a_curve_is_not_a_line():
    x = torch.tensor(CLAMPS)
    found = replace(clamped("llama"), value=(x - 1).square().expand(2, 5, 4).contiguous())
    y = (np.array(CLAMPS) - 1) ** 2
    fit = np.polyval(np.polyfit(CLAMPS, y, 1), CLAMPS)
    expected = 1 - ((y - fit) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert found.to_summary()["r2"].tolist() == pytest.approx([expected] * 2)
    assert expected < 0.5


def test_summary_is_of_the_measured_values(says: Callable[..., None], tmp_path: Path):
    found = clamped("gemma2")
    table = found.to_summary().set_index("side")
    for s, side in enumerate(("clean", "corrupt")):
        mean = found.value[s].double().mean(0).numpy()
        slope, intercept = np.polyfit(CLAMPS, mean, 1)
        assert table.loc[side, "slope"] == pytest.approx(slope)
        assert table.loc[side, "intercept"] == pytest.approx(intercept)
        assert table.loc[side, "natural"] == pytest.approx(found.natural[s].mean().item())
        curve = found.curve_frame().query("side == @side").set_index("clamp")
        assert curve["mean"].to_numpy() == pytest.approx(mean)
        assert (curve["low"] < curve["mean"]).all()
    assert "±3" in found.note
    assert "not capped" in clamped("llama").note
    figure = found.figure()
    says(figure, small_models.model("gemma2").name)
    assert any("capped at ±3" in (a.text or "").replace("<br>", " ") for a in figure.layout.annotations)
    assert found.save(tmp_path).exists()
    with pytest.raises(UndefinedError, match="complete_at"):
        found.refusal_figure()


def test_completions_are_generated_under_the_clamp(monkeypatch: pytest.MonkeyPatch, says: Callable[..., None]):
    monkeypatch.setattr(module, "is_refusal", lambda text: "w2" in text)
    model = small_models.model("qwen2")
    found = clamp_component(
        model, TOKENS, RefusalMetric(model, "w60"), V, layer=2, complete_at=(0, 9), max_new_tokens=5, null_draws=1
    )
    frame = found.completion_frame()
    assert len(frame) == 2 * 2 * 5
    for side in ("clean", "corrupt"):
        for value in (0.0, 9.0):
            rows = frame[(frame["side"] == side) & (frame["clamp"] == value)]
            cell = (Clamp(Site("resid_pre", 2), V, value),)
            assert rows["completion"].tolist() == generate(model, TOKENS, cell, on=side, max_new_tokens=5)
            assert rows["prompt"].tolist() == [getattr(pair, side) for pair in TOKENS.pairs]
            assert rows["refused"].tolist() == ["w2" in text for text in rows["completion"]]
            rate = found.refusal_frame().query("side == @side and clamp == @value").iloc[0]
            assert rate["rate"] == rows["refused"].mean()
            assert rate["low"] <= rate["rate"] <= rate["high"]
    assert frame["refused"].nunique() == 2
    says(found.refusal_figure(), model.name)


def test_the_range_reaches_from_zero_over_the_natural_components():
    model = small_models.model("llama")
    found = clamp_component(model, TOKENS, RefusalMetric(model, "w60"), V, layer=2, null_draws=1)
    assert len(found.clamps) == 13
    assert found.clamps[0] == pytest.approx(min(0.0, found.natural.min().item()))
    assert found.clamps[-1] == pytest.approx(max(0.0, found.natural.max().item()))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"layer": 9}, SiteError, "layers 0 to 3"),
        ({"positions": 6}, SiteError, "position 6 does not exist in pair 1"),
        ({"positions": "post_subject"}, SiteError, "pair 2 has no position 'post_subject'"),
        ({"clamps": (1, 1, 2)}, UndefinedError, "three different"),
        ({"clamps": (1, 2, float("nan"))}, UndefinedError, "three different"),
        ({"null_draws": 0}, UndefinedError, "null_draws"),
        ({"direction": torch.zeros(32)}, UndefinedError, "no unit vector"),
        ({"direction": torch.ones(31)}, SiteError, r"\(32,\)"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(
    given: dict[str, Any], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "capture", None)
    model = small_models.model("llama")
    knobs = {"layer": 2, "direction": V} | given
    with pytest.raises(error, match=said):
        clamp_component(model, TOKENS, RefusalMetric(model, "w60"), **knobs)
