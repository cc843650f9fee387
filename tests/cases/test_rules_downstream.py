"""Downstream: each rule reaches supported, contradicted and undecided by the numbers alone; its numbers are what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from case_rows import N, rows
from scipy import stats

from circuits.case.condition import Rows
from circuits.cases.gemma_refusal.rules import downstream as rules
from circuits.linalg import random_directions
from circuits.measure.clamping import _r2
from circuits.stats.interval import resampling

LATE = (2, 3)
CLAMPS = np.arange(-6.0, 25.0, 3.0)


def gap(*means: float, spread: float = 0.3) -> Rows:
    """A lens's difference by layer, every layer with a spread of its own."""
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame({"pair": range(N), "value": mean + spread * rng.normal(size=N), "layer": layer})
        for layer, mean in enumerate(means)
    ]
    return rows(*parts)


def null(*, growth: float) -> np.ndarray:
    """Random directions' differences, which grow by up to `growth` in the late layers, to either side."""
    ends = np.linspace(-growth, growth, 101)[:, None]
    return np.concatenate([np.zeros((101, 3)), ends, ends], axis=1)


@pytest.mark.parametrize(
    ("means", "growth", "ruling"),
    [
        ((0, 0, 1, 5, 9), 2.0, "supported"), ((0, 5, 8, 9, 9), 0.1, "contradicted"), ((0, 0, 4.5, 5, 9), 2.0, "undecided"),
        ((0, 0, 1, 5, 9), 20.0, "contradicted"), ((0, 0, 0, 0, 0), 0.0, "undecided"), ((0, 0, -1, -5, -9), 2.0, "undecided"),
    ],
)  # fmt: skip
def test_late_layers(means: tuple[float, ...], growth: float, ruling: str):
    found = rules.late_layers(gap(*means), LATE, null(growth=growth))
    assert found.verdict == ruling
    assert ("shared out" in found.numbers) == (means[-1] <= 0)


def test_the_late_layers_share_is_the_ratio_of_means_and_its_bound_what_random_directions_gain():
    found = gap(0, 0, 1, 5, 9)
    mean = found.frame.groupby("layer")["value"].mean()
    share = rules.share_added(found, LATE, 4, 0.5)
    assert share.mean == pytest.approx((mean[4] - mean[2]) / mean[4])
    bound = np.quantile(np.linspace(-3, 3, 101), 0.975)
    assert f"gain, at least {bound:.2g}" in rules.late_layers(found, LATE, null(growth=3.0)).rule
    assert rules.late_layers(found, (), null(growth=3.0)).numbers == "there is no group called late"
    assert "added by layers 2 to 3 " in share.text
    assert "added by layer 3 " in rules.share_added(found, (3,), 4, 0.5).text


def cosines(mean: float) -> Rows:
    values = mean + 0.1 * np.random.default_rng(1).normal(size=N)
    here = pd.DataFrame({"pair": range(N), "form": "folded", "id": 7, "value": values})
    return rows(here, here.assign(form="raw", value=0.0), here.assign(id=8, value=0.9))


@pytest.mark.parametrize(
    ("mean", "ruling"),
    [(0.3, "supported"), (-0.3, "supported"), (0.7, "contradicted"), (-0.7, "contradicted"), (0.5, "undecided")],
)
def test_not_unembedded(mean: float, ruling: str):
    closest = {"form": "folded", "id": 7, "token": "'I'", "cosine": mean}
    found = rules.not_unembedded(cosines(mean), closest, 0.5)
    assert found.verdict == ruling
    assert f"{cosines(mean).per_pair('value', form='folded', id=7)[0].mean() * np.sign(mean):.2f} [" in found.numbers
    assert "'I'" in found.numbers


def test_one_pair_says_nothing_of_a_cosine():
    alone = Rows(cosines(0.9).frame.query("pair == 0"))
    found = rules.not_unembedded(alone, {"form": "folded", "id": 7, "token": "x", "cosine": 0.9}, 0.1)
    assert found.verdict == "undecided"
    assert "nan" not in found.numbers


@pytest.mark.parametrize(
    ("shares", "noise", "ruling"),
    [
        ({1: 0.01, 2: 0.03, 20: 0.3}, 0.1, "supported"),
        ({1: 0.9, 2: 0.9, 20: 0.95}, 0.1, "contradicted"),
        ({1: 0.0, 2: 0.0, 20: 0.8}, 0.1, "contradicted"),
        ({1: 0.0, 2: 0.0, 20: 0.0}, 0.1, "supported"),
        ({1: 0.9, 2: 0.9, 20: 0.95}, 0.6, "undecided"),
        ({1: 0.9, 2: 0.9, 20: 0.95}, float("nan"), "undecided"),
    ],
)
def test_not_in_the_null_space(shares: dict[int, float], noise: float, ruling: str):
    found = rules.not_in_null_space(shares, 64, noise)
    assert found.verdict == ruling
    assert "nan" not in found.numbers


def test_p_over_all_subspaces_is_uniform_for_random_directions(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rules, "_DRAWS", 1000)
    ks = [1, 2, 5, 10, 20]
    inside = random_directions(200, 48, seed=3).double().square().cumsum(1)
    found = [rules.most_hidden({k: float(v[k - 1]) for k in ks}, 48) for v in inside]
    p = np.array([of for _, of in found])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert {k for k, _ in found} == set(ks), "any k can be the one that favours hiding most"
    alone = [1 - stats.beta(k / 2, (48 - k) / 2).cdf(float(v[k - 1])) for (k, _), v in zip(found, inside, strict=True)]
    assert (p >= np.array(alone) - 0.05).all(), "never below the p of its k alone"
    assert p.mean() > np.mean(alone) + 0.1


def curve(clean: np.ndarray, corrupt: np.ndarray, spread: float = 0.1) -> Rows:
    """Clamped metrics: one curve per side, pairs shifted and tilted a little."""
    rng = np.random.default_rng(2)
    parts = [
        pd.DataFrame(
            {"side": side, "pair": i, "clamp": CLAMPS, "value": y + rng.normal(0, spread, 2) @ [1 + 0 * CLAMPS, CLAMPS]}
        )
        for side, y in (("clean", clean), ("corrupt", corrupt))
        for i in range(N)
    ]
    return rows(*parts)


FLAT = np.zeros(len(CLAMPS))


@pytest.mark.parametrize(
    ("slopes", "by_chance", "ruling"),
    [
        ((0.4, 0.4), 5.0, "supported"), ((0.0, 0.0), 5.0, "contradicted"), ((0.4, 0.4), 20.0, "contradicted"),
        ((0.4, 0.4), 12.0, "undecided"), ((-0.4, -0.4), 5.0, "contradicted"), ((0.8, 0.0), 5.0, "supported"),
    ],
)  # fmt: skip
def test_the_metric_follows_only_beyond_random_directions(slopes: tuple[float, float], by_chance: float, ruling: str):
    signs = np.array([1.0, -0.7, 0.2])
    found = rules.metric_follows(curve(slopes[0] * CLAMPS, slopes[1] * CLAMPS), np.stack([by_chance * signs] * 2))
    assert found.verdict == ruling
    assert f"at least {by_chance:.2g}" in found.rule


def test_a_fall_off_the_path_is_of_opposite_sign_in_the_two_sets_and_counts_for_nothing():
    """Pushed down or up, far along anything the metric falls: +20 over the range on clean prompts, −20 on corrupt ones."""
    both = rules.metric_follows(curve(0.4 * CLAMPS, 0.4 * CLAMPS), np.stack([np.full(5, 20.0), np.full(5, -20.0)]))
    assert both.verdict == "supported"
    nothing = rules.metric_follows(curve(10 / 30 * CLAMPS, -10 / 30 * CLAMPS), np.full((2, 5), 2.0))
    assert nothing.verdict == "contradicted"


BENT = np.minimum(CLAMPS, 3.0)
CURVED = CLAMPS - CLAMPS**2 / 45


@pytest.mark.parametrize(
    ("clean", "corrupt", "spread", "ruling"),
    [
        (CLAMPS, -CLAMPS, 0.1, "supported"), (CLAMPS, BENT, 0.1, "contradicted"), (BENT, CLAMPS, 0.1, "contradicted"),
        (CURVED, CURVED, 0.4, "undecided"), (CLAMPS, FLAT, 0.0, "undecided"), (FLAT, FLAT, 0.0, "undecided"),
    ],
)  # fmt: skip
def test_a_line_is_a_line_on_both_sides(clean: np.ndarray, corrupt: np.ndarray, spread: float, ruling: str):
    found = rules.metric_linear(curve(clean, corrupt, spread))
    assert found.verdict == ruling
    assert ("flat" in found.numbers) == (spread == 0.0)


def test_r_squared_is_that_of_the_mean_curve():
    found = curve(CURVED, BENT)
    for side in ("clean", "corrupt"):
        x, y, _ = rules.curves(found, side)
        assert x.tolist() == CLAMPS.tolist()
        of = rules.r_squared(found, side)
        assert of is not None
        assert of.mean == pytest.approx(_r2(x, y.mean(0)))
        drawn = [_r2(x, c @ y / N) for c in resampling(N, 10_000, 0)[:400]]
        assert of.low < np.quantile(drawn, 0.05) < np.quantile(drawn, 0.95) < of.high


def test_numbers_made_of_means_draw_whole_clusters():
    rng = np.random.default_rng(4)
    values = np.repeat(rng.normal([1.0, 3.0], 0.5, (6, 2)), 4, axis=0)
    clusters = np.repeat(range(6), 4).tolist()

    def ratio(mean: np.ndarray) -> np.ndarray:
        return mean[:, 0] / mean[:, 1]

    plain, whole = (rules.of_means(values, ratio, "x", "at least", 0.3, of) for of in (None, clusters))
    assert plain.mean == whole.mean == pytest.approx(values[:, 0].mean() / values[:, 1].mean())
    assert whole.high - whole.low > 1.7 * (plain.high - plain.low)
    counts = resampling(6, 10_000, 0)
    drawn = ratio(counts @ values[::4] / 6)
    assert whole.share == pytest.approx((drawn >= 0.3).mean())
    beyond = stats.norm.cdf(-stats.t(5).ppf(0.975) * np.sqrt(6 / 5))
    assert (whole.low, whole.high) == pytest.approx(np.quantile(drawn, [beyond, 1 - beyond]))
    one = rules.of_means(values, ratio, "x", "at least", 0.3, [0] * 24)
    assert np.isnan(one.low)
    assert one.holds is None
    assert one.share is None


def test_what_is_not_measured_is_undecided_and_says_why():
    names = [v.hypothesis for section in rules.HYPOTHESES for v in rules.unmeasured(section, "no direction")]
    assert names == [rules.LATE, rules.UNEMBEDDED, rules.NULL_SPACE, rules.FOLLOWS, rules.LINE]
    for found in rules.unmeasured("clamping", "no direction"):
        assert (found.verdict, found.figure) == ("undecided", "clamping")
        assert "no direction" in found.numbers
    assert rules.unmeasured("attribution", "no direction") == []


def test_a_direction_planted_in_the_null_space_is_found():
    """Nine tenths of its norm in two of 64 dimensions; whatever the other k are."""
    v = random_directions(1, 64, seed=5)[0].double()
    v[:2] = v[2:].norm() * torch.tensor([1.5, 1.5], dtype=torch.double)
    inside = (v / v.norm()).square().cumsum(0)
    k, p = rules.most_hidden({k: float(inside[k - 1]) for k in (1, 2, 5, 10, 20)}, 64)
    assert k == 2
    assert p < 1e-3
