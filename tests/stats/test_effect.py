"""Effect sizes against their definitions, other programs and leave-one-out done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from circuits.errors import UndefinedError
from circuits.stats import auroc, cohens_d, cohens_d_paired, rank_biserial, rank_biserial_paired

A, B = np.random.default_rng(0).normal(0.7, 1.3, 14), np.random.default_rng(1).normal(0, 1, 11)
DIFFERENCES = np.array([0.3, -1.2, 2.2, 0.9, 1.4, -0.1, 0.8, 3.0, -0.6, 1.1])


def _pooled(a, b) -> float:
    squares = ((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()
    return (a.mean() - b.mean()) / math.sqrt(squares / (len(a) + len(b) - 2))


def test_d_is_in_pooled_standard_deviations_with_hedges_correction():
    assert cohens_d(A, B).estimate == pytest.approx(_pooled(A, B) * (1 - 3 / (4 * 23 - 1)), rel=1e-3)
    paired = DIFFERENCES.mean() / DIFFERENCES.std(ddof=1)
    assert cohens_d_paired(DIFFERENCES).estimate == pytest.approx(paired * (1 - 3 / (4 * 9 - 1)), rel=2e-3)
    assert "Hedges" in cohens_d(A, B).method


def test_the_limits_of_d_are_the_jackknifes():
    found = cohens_d(A, B)
    first = np.array([_pooled(np.delete(A, i), B) for i in range(len(A))])
    second = np.array([_pooled(A, np.delete(B, i)) for i in range(len(B))])
    parts = [(len(w) - 1) ** 2 / len(w) * w.var(ddof=1) for w in (first, second)]
    df = sum(parts) ** 2 / (parts[0] ** 2 / 13 + parts[1] ** 2 / 10)
    half = scipy_stats.t.ppf(0.975, df) * math.sqrt(sum(parts))
    assert (found.high - found.estimate, found.estimate - found.low) == pytest.approx((half, half))

    paired = cohens_d_paired(DIFFERENCES)
    left = [np.delete(DIFFERENCES, i) for i in range(10)]
    without = np.array([x.mean() / x.std(ddof=1) for x in left])
    half = scipy_stats.t.ppf(0.975, 9) * math.sqrt(81 / 10 * without.var(ddof=1))
    assert paired.high - paired.estimate == pytest.approx(half)


def test_d_does_not_depend_on_unit_or_place():
    found, moved = cohens_d(A, B), cohens_d(3e4 * A + 7, 3e4 * B + 7)
    assert (moved.estimate, moved.low, moved.high) == pytest.approx((found.estimate, found.low, found.high))
    swapped = cohens_d(B, A)
    assert (swapped.estimate, swapped.low, swapped.high) == pytest.approx((-found.estimate, -found.high, -found.low))


def test_values_without_spread_have_no_d():
    for call in (lambda: cohens_d_paired([0.1] * 5), lambda: cohens_d([1.0] * 4, [2.0] * 4)):
        with pytest.raises(UndefinedError, match="spread"):
            call()
    with pytest.raises(UndefinedError, match="at least 3"):
        cohens_d_paired([1.0, 2.0])
    one = cohens_d_paired([0.0, 0.0, 0.0, 0.0, 1.0])  # without the last there is no spread to leave
    assert math.isnan(one.low)
    assert math.isfinite(one.estimate)
    assert "one value makes all the spread" in one.method


whole = st.lists(st.integers(-6, 6), min_size=1, max_size=9)


@given(whole)
def test_paired_ranks_are_wilcoxons(values):
    x = np.array([v for v in values if v], dtype=float)
    if not len(x):
        with pytest.raises(UndefinedError, match="zero"):
            rank_biserial_paired(values)
        return
    ranks = scipy_stats.rankdata(np.abs(x))
    expected = (ranks[x > 0].sum() - ranks[x < 0].sum()) / ranks.sum()
    found = rank_biserial_paired(values)
    assert found.estimate == pytest.approx(expected)
    assert -1 <= found.low <= found.estimate + 1e-12
    assert found.estimate - 1e-12 <= found.high <= 1
    zeros = len(values) - len(x)
    assert (f"{zeros} zeros left out" in found.method) == (zeros > 0)


def test_the_limits_of_paired_ranks_are_the_jackknifes_on_fishers_scale():
    found = rank_biserial_paired(DIFFERENCES)
    without = []
    for i in range(10):
        x = np.delete(DIFFERENCES, i)
        ranks = scipy_stats.rankdata(np.abs(x))
        without.append((ranks[x > 0].sum() - ranks[x < 0].sum()) / ranks.sum())
    error = math.sqrt(81 / 10 * np.var(without, ddof=1)) / (1 - found.estimate**2)
    half = scipy_stats.t.ppf(0.975, 9) * error
    centre = math.atanh(found.estimate)
    assert abs(found.estimate) < 0.8
    assert (found.low, found.high) == pytest.approx((math.tanh(centre - half), math.tanh(centre + half)))


def test_differences_of_one_sign_are_not_certainty():
    few, many = (rank_biserial_paired(np.arange(1.0, n + 1)) for n in (6, 52))
    assert few.estimate == many.estimate == few.high == many.high == 1.0
    assert few.low < 0.5 < many.low < 1.0
    assert "Newcombe" in few.method


def test_ranks_of_two_sets_are_the_area_from_minus_one_to_one():
    found, area = rank_biserial(A, B), auroc(A, B)
    for mine, theirs in ((found.estimate, area.estimate), (found.low, area.low), (found.high, area.high)):
        assert mine == pytest.approx(2 * theirs - 1)
    u = scipy_stats.mannwhitneyu(A, B).statistic
    assert found.estimate == pytest.approx(2 * u / (14 * 11) - 1)
