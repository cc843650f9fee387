"""Intervals cover what they claim, agree with another implementation, and say when they do not exist."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from circuits.errors import UndefinedError
from circuits.stats import Interval, bootstrap_mean, bootstrap_means, wilson


def test_the_interval_covers_the_mean_as_often_as_it_claims():
    rng = np.random.default_rng(1)
    samples = rng.normal(3.0, 2.0, size=(40, 1500))  # 1500 experiments of 40 pairs as columns
    found = bootstrap_means(samples, level=0.95, resamples=2000, seed=2)
    covered = np.mean([not interval.excludes(3.0) for interval in found])
    assert 0.935 < covered < 0.965  # four standard errors are ±2.2 %


def test_a_small_sample_is_still_covered_where_plain_percentiles_are_not():
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(10, 1500))
    covered = np.mean([not i.excludes(0.0) for i in bootstrap_means(samples, resamples=2000)])
    plain = []
    for column in samples.T:
        drawn = rng.choice(column, size=(2000, 10)).mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        plain.append(low <= 0 <= high)
    assert np.mean(plain) < 0.93 < covered < 0.97


def test_without_the_widening_it_is_scipys_bca(monkeypatch):
    from circuits.stats import interval

    values = np.random.default_rng(4).lognormal(size=60)
    monkeypatch.setattr(
        interval.special, "stdtrit", lambda _, p: scipy_stats.norm.ppf(p) * math.sqrt(59 / 60)
    )
    ours = bootstrap_mean(values, resamples=20_000)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(5)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_cells_share_their_draws_and_equal_the_single_call():
    table = np.random.default_rng(6).normal(size=(12, 5)).cumsum(axis=1)
    together = bootstrap_means(table, resamples=500, seed=7)
    for cell, column in zip(together, table.T, strict=True):
        alone = bootstrap_mean(column, resamples=500, seed=7)
        assert (cell.low, cell.high) == pytest.approx((alone.low, alone.high), rel=1e-12)


def test_many_cells_and_draws_are_cut_to_pieces_without_a_seam(monkeypatch):
    from circuits.stats import interval

    table = np.random.default_rng(8).normal(size=(9, 7))
    table[:, 3] = 2.0
    whole = bootstrap_means(table, resamples=300)
    monkeypatch.setattr(interval, "_DRAWS_AT_ONCE", 600)  # two cells at a time
    pieces = bootstrap_means(table, resamples=300)
    assert pieces[3] == Interval(2.0, 2.0, 2.0, 0.95, 9, "no spread in the sample")
    for a, b in zip(whole, pieces, strict=True):
        assert b.low == pytest.approx(a.low, rel=1e-12)
        assert a.method == b.method


def test_the_same_seed_says_the_same_and_another_seed_does_not():
    values = np.random.default_rng(9).normal(size=30)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1).low != bootstrap_mean(values, seed=2).low


def test_a_higher_level_is_wider():
    values = np.random.default_rng(10).normal(size=30)
    narrow, wide = bootstrap_mean(values, level=0.8), bootstrap_mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


def test_a_constant_has_no_spread_and_one_value_no_interval():
    constant = bootstrap_mean([0.1] * 7)
    assert constant.low == constant.high == constant.estimate == pytest.approx(0.1)
    assert "no spread" in constant.method
    single = bootstrap_mean([3.0])
    assert single.estimate == 3.0
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    assert not single.excludes(0.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "at least 1"), ([1.0, math.nan], "1 of 2"), ([math.inf, 1.0], "1 of 2"), ([[1.0]], "1 axis")],
)
def test_what_has_no_mean_is_refused(values, message):
    with pytest.raises(UndefinedError, match=message):
        bootstrap_mean(values)


def test_a_tensor_is_refused():
    with pytest.raises(TypeError, match="not tensors"):
        bootstrap_mean(torch.zeros(3))


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_a_level_is_a_share(level):
    with pytest.raises(UndefinedError, match="confidence level"):
        bootstrap_mean([1.0, 2.0], level=level)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case):
    successes, n = case
    ours = wilson(successes, n)
    theirs = scipy_stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.estimate <= ours.high <= 1


def test_a_rate_needs_trials_and_cannot_exceed_them():
    with pytest.raises(UndefinedError, match="nothing"):
        wilson(0, 0)
    with pytest.raises(UndefinedError, match="5 successes of 4"):
        wilson(5, 4)


def test_an_interval_reads_as_text():
    assert str(Interval(0.4321, 0.3, 0.55, 0.95, 10, "x")) == "0.432 [0.3, 0.55]"
