"""The chapter on what the direction does: cosines, null space and clamps are what other ways give, and told as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from case_downstream import Real, check, measured

from circuits.case.wording import number
from circuits.cases.gemma_refusal.chapters.downstream_clamped import _refuse_from, clamp_range, clamping
from circuits.cases.gemma_refusal.chapters.downstream_unembedded import Unembedded
from circuits.cases.gemma_refusal.rules import downstream as rules
from circuits.engine import capture
from circuits.errors import UndefinedError
from circuits.measure.clamping import Clamping
from circuits.refusal import is_refusal


@pytest.fixture(scope="module")
def real() -> Real:
    return measured()


# --- unembedding ----------------------------------------------------------------------------------------------------------


def test_cosines_and_their_intervals_are_the_directions(real: Real):
    s, chosen, found, told_of = real
    unembedded = found.unembedded
    assert isinstance(unembedded, Unembedded)
    d = unembedded.differences.double()
    assert torch.allclose(d.mean(0).float(), chosen.direction, atol=1e-5)
    table = check(told_of)["unembedding"].table
    gain = 1 + s.model.parts.ln_final.weight.detach().double()
    w = s.model.W_U.detach().double()
    for form, rows in (("folded", w * gain), ("raw", w)):
        cosine = torch.nn.functional.cosine_similarity(rows, d.mean(0)[None])
        mine = table[table["form"] == form].reset_index(drop=True)
        assert mine["id"][0] == cosine.abs().nan_to_num(0.0).argmax()
        for row in (mine.iloc[0], mine.iloc[-1]):
            assert row["cosine"] == pytest.approx(cosine[row["id"]].item(), abs=1e-5)
            left_out = [torch.cat([d[:i], d[i + 1 :]]).mean(0) for i in range(len(d))]
            each = torch.nn.functional.cosine_similarity(rows[row["id"]][None], torch.stack(left_out))
            assert row["mean"] == pytest.approx((8 * cosine[row["id"]] - 7 * each.mean()).item(), abs=1e-6)
            spread = 7 * each.std().item() / np.sqrt(8)
            assert row["high"] - row["low"] == pytest.approx(2 * 2.3 * spread, rel=0.5), (
                "a t interval of the jackknife's"
            )
    top = table.iloc[0]
    claim = check(told_of)["unembedding"].claim
    assert (
        f"that of {top['token']} lies closest to the direction, at a cosine of {number(top['cosine'])} (over pairs"
        in claim
    )


def test_noise_is_what_the_spread_of_the_pairs_gives_a_mean(real: Real):
    unembedded, rng, mean = real[2].unembedded, torch.Generator().manual_seed(0), torch.zeros(64)
    assert isinstance(unembedded, Unembedded)
    mean[0] = 5.0
    drawn = [mean + torch.randn(20, 64, generator=rng) for _ in range(100)]
    shares = [replace(unembedded, differences=differences).noise for differences in drawn]
    assert np.mean(shares) == pytest.approx(64 / 20 / (25 + 64 / 20), rel=0.05)
    assert np.isnan(replace(unembedded, differences=mean[None]).noise)
    twice = [of.repeat_interleave(2, 0) for of in drawn[:5]]
    doubled = [replace(unembedded, differences=of, clusters=[i // 2 for i in range(40)]).noise for of in twice]
    assert doubled == pytest.approx(shares[:5]), "a template's two pairs that agree say as much as one"


def test_the_null_space_is_that_of_a_full_decomposition(real: Real):
    s, chosen, found, told_of = real
    section = check(told_of)["null-space"]
    table = section.table.set_index(["form", "k"])
    rows = s.model.W_U.detach().double() * (1 + s.model.parts.ln_final.weight.detach().double())
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    v = chosen.direction.double() / chosen.direction.double().norm()
    assert sorted(set(table.index.get_level_values("k"))) == [1, 2, 5, 10, 20]
    for k in (2, 20):
        inside = (vectors.flip(0)[:k] @ v).norm().item()
        assert table.loc[("folded", k), "norm_fraction"] == pytest.approx(inside, abs=1e-4)
        assert table.loc[("folded", k), "share"] == pytest.approx(inside**2, abs=1e-4)
    row = table.loc[("folded", 20)]
    assert row["share_low"] <= row["share_corrected"] <= row["share_high"]
    assert abs(row["share"] - row["share_corrected"]) < found.unembedded.noise, "the noise's part may lie anywhere"
    assert (
        f"20 smallest of the unembedding's 64 singular directions hold {number(row['norm_fraction'])} of"
        in section.claim
    )
    assert f"{number(row['null_low'])} to {number(row['null_high'])}" in section.claim
    drawn = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(1)).square()
    by_chance = (drawn[:, :20].sum(1) / drawn.sum(1)).sqrt().numpy()
    assert (row["null_low"], row["null_high"]) == pytest.approx(np.quantile(by_chance, [0.025, 0.975]), abs=0.01)
    place = "as much as" if row["null_low"] <= row["norm_fraction"] <= row["null_high"] else "than"
    assert f"{place} random directions" in section.claim
    assert f"smallest is {number(100 * (values[-1] / values[0]).item())} % of it" in section.claim


# --- clamping -------------------------------------------------------------------------------------------------------------


def test_the_clamped_metric_is_told_as_it_is(real: Real):
    s, chosen, found, told_of = real
    section = check(told_of)["clamping"]
    c = found.clamped
    assert isinstance(c, Clamping)
    assert c.layer == chosen.layer
    assert 0.0 in c.clamps
    assert c.clamps[0] <= c.natural.min() <= c.natural.max() < c.clamps[-1]
    run = capture(s.model, s.tokens.clean, s.tokens.mask).resid[chosen.layer][:, -1]
    own = (run * chosen.held_out / chosen.held_out.norm(dim=-1, keepdim=True)).sum(-1)
    assert torch.allclose(c.natural[0], own, atol=1e-4), "along each pair's own direction"
    fit = section.table[section.table["clamp"].isna()].set_index(["side", "what"])
    curves = section.table[section.table["what"] == "metric"].set_index(["side", "clamp"])["mean"]
    for side in ("clean", "corrupt"):
        y = curves[side]
        r2 = np.corrcoef(y.index, y)[0, 1] ** 2
        assert fit.loc[(side, "R² of the mean curve"), "mean"] == pytest.approx(r2)
        assert f"R² {number(r2)} [" in section.claim
        assert fit.loc[(side, "slope of the line"), "mean"] == pytest.approx(np.polyfit(y.index, y, 1)[0])
        change = y.iloc[-1] - y.iloc[0]
        assert fit.loc[(side, "change over the range"), "mean"] == pytest.approx(change)
    both = fit.loc[("both", "change over the range")]
    assert both["mean"] == pytest.approx(
        fit.xs("change over the range", level="what")["mean"][["clean", "corrupt"]].mean()
    )
    null = c.null_slope.double().numpy().mean(0) * (c.clamps[-1] - c.clamps[0])
    assert (both["null_low"], both["null_high"]) == pytest.approx((null.min(), null.max()))
    assert f"(the strongest of 20 random directions: {number(np.abs(null).max())})" in section.claim
    follows = told_of.verdicts[-2]
    assert follows.hypothesis == rules.FOLLOWS
    assert f"at least {np.abs(null).max():.2g}" in follows.rule


def test_completions_at_few_clamps_are_the_ones_counted(real: Real):
    _, _, found, told_of = real
    c = found.clamped
    assert isinstance(c, Clamping)
    settings = {answer.setting for answer in told_of.completions}
    assert 2 <= len(settings) <= 4
    assert len(told_of.completions) == len(settings) * 2 * 8
    rates = check(told_of)["clamping"].table.query("what == 'refusal rate'").set_index(["side", "clamp"])["mean"]
    for name in settings:
        clamp = float(name.removeprefix("clamped at ").replace("−", "-"))
        for side in ("clean", "corrupt"):
            mine = [a for a in told_of.completions if (a.kind, a.setting) == (side, name)]
            assert [a.refused for a in mine] == [is_refusal(a.text) for a in mine]
            assert np.mean([a.refused for a in mine]) == pytest.approx(rates[side, clamp])
    shown = sorted(float(name.removeprefix("clamped at ").replace("−", "-")) for name in settings)
    step = c.clamps[1] - c.clamps[0]
    clean, corrupt = c.natural.mean(1).tolist()
    assert abs(shown[-1] - clean) <= step / 2 + 1e-6
    assert abs(shown[0] - corrupt) <= step / 2 + 1e-6


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((0, 0.2, 0.5, 1), "from 2 on"), ((0, 0, 0, 0.4), "at no clamp"), ((1, 1, 0.5, 0.6), "at every clamp"),
        ((0, 0.9, 0.8, 0.1), "from 1 to 2"), ((0.9, 0.1, 0.1, 0.9), "at 2 of 4 clamps between 0 and 3"),
    ],
)  # fmt: skip
def test_where_refusals_begin_in_words(rates: tuple[float, ...], words: str):
    assert _refuse_from(pd.DataFrame({"clamp": [0.0, 1.0, 2.0, 3.0], "rate": rates})) == words


@pytest.mark.parametrize(
    ("natural", "first", "last", "step"),
    [
        ((4.0, 11.0), 0, 12, 1), ((-4.8, 22.7), -6, 24, 3), ((0.01, 0.061), 0, 0.07, 0.01), ((-30.0, -5.0), -30, 3, 3),
        ((0.0, 900.0), 0, 1000, 100), ((3.0, 3.0), 0, 3.3, 0.3),
    ],
)  # fmt: skip
def test_clamps_are_round_and_reach_beyond_all_natural_components(
    natural: tuple[float, float], first: float, last: float, step: float
):
    found = clamp_range(torch.tensor([natural, natural]))
    assert found == pytest.approx(np.arange(round((last - first) / step) + 1) * step + first)
    assert 0 in found
    assert found[0] <= min(natural)
    assert found[-1] > max(natural)
    assert len(found) <= 15


def test_without_components_there_is_nothing_to_clamp():
    with pytest.raises(UndefinedError, match="no prompt has any component"):
        clamp_range(torch.zeros(2, 3))


def test_a_flat_curve_has_no_line_and_says_so(real: Real):
    clamped: Any = real[2].clamped
    flat = replace(clamped, value=torch.full_like(clamped.value, 2.0))
    chapter = clamping(flat, "t")
    assert "along a line of none, being flat, on clean" in chapter.sections[0].claim
    rulings = {v.hypothesis: v.verdict for v in chapter.verdicts}
    assert rulings[rules.LINE] == "undecided"
    assert rulings[rules.FOLLOWS] == "contradicted"
