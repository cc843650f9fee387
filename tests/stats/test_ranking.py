"""AUROC against its definition, pair by pair, and against its own coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from circuits.errors import UndefinedError
from circuits.stats import auroc

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=8)


@given(scores, scores)
def test_it_counts_the_pairs_in_order_and_ties_half(positive, negative):
    won = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    found = auroc(positive, negative, resamples=50)
    assert found.estimate == pytest.approx(won / (len(positive) * len(negative)))
    assert found.n == len(positive) + len(negative)


def test_it_is_mann_whitneys_u():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 30), rng.normal(size=25)
    u = scipy_stats.mannwhitneyu(a, b).statistic
    assert auroc(a, b, resamples=50).estimate == pytest.approx(u / (30 * 25))


@pytest.mark.parametrize("true", [0.5, 0.8])
def test_the_interval_covers_as_often_as_it_claims(true):
    rng = np.random.default_rng(1)
    shift = math.sqrt(2) * scipy_stats.norm.ppf(true)
    covered = np.mean(
        [
            not auroc(rng.normal(shift, 1, 30), rng.normal(size=30), resamples=400).excludes(true)
            for _ in range(800)
        ]
    )
    assert 0.92 < covered < 0.98


def test_the_interval_is_scipys_where_nothing_is_widened(monkeypatch):
    from circuits.stats import ranking

    rng = np.random.default_rng(2)
    a, b = rng.normal(1, 1, 40), rng.normal(size=40)
    monkeypatch.setattr(ranking.special, "stdtrit", lambda _, p: scipy_stats.norm.ppf(p) * math.sqrt(39 / 40))
    ours = auroc(a, b, resamples=20_000)
    theirs = scipy_stats.bootstrap(
        (a, b),
        lambda x, y, axis: (x[..., :, None] > y[..., None, :]).mean(axis=(axis - 1, axis)),
        n_resamples=20_000,
        method="percentile",
        batch=500,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_complete_separation_is_not_certainty():
    small, large = (auroc(range(10, 10 + n), range(-n, 0)) for n in (5, 50))
    assert small.estimate == large.estimate == small.high == large.high == 1.0
    assert 0.4 < small.low < large.low < 1.0  # five of each prove less than fifty
    assert "Newcombe" in small.method
    mirrored = auroc(range(-5, 0), range(10, 15))
    assert (mirrored.low, mirrored.high) == pytest.approx((0.0, 1 - small.low))


def test_newcombes_limits_solve_newcombes_equation():
    from circuits.stats.ranking import _newcombe

    area, n, m = 0.8, 12, 20
    balanced = (n + m) / 2 - 1
    for t in _newcombe(area, n, m, 0.95):
        variance = t * (1 - t) * (1 + balanced * ((1 - t) / (2 - t) + t / (1 + t))) / (n * m)
        assert abs(area - t) == pytest.approx(scipy_stats.norm.ppf(0.975) * math.sqrt(variance), abs=1e-9)


def test_one_positive_still_has_limits():
    found = auroc([1.0], [0.0, 2.0, 0.5])
    assert found.low < found.estimate < found.high


@pytest.mark.parametrize(("positive", "negative"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_an_empty_or_unknown_set_is_refused(positive, negative):
    with pytest.raises(UndefinedError, match="scores"):
        auroc(positive, negative)
