"""Permutation p-values against enumeration, against scipy, and under the null."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from circuits.errors import UndefinedError
from circuits.stats import max_t, permutation_p, sign_flip_p

few = st.lists(st.integers(-5, 5), min_size=1, max_size=7)


def flipped(n):
    return np.array(list(itertools.product([1, -1], repeat=n)))


@given(few)
def test_sign_flips_of_few_values_are_counted_exactly(values):
    sums = np.abs(flipped(len(values)) @ np.array(values))
    assert sign_flip_p(values) == pytest.approx(np.mean(sums >= abs(sum(values))))


@given(few, few)
def test_relabellings_of_few_values_are_counted_exactly(a, b):
    pooled = np.array([*a, *b], dtype=float)
    differences = []
    for chosen in itertools.combinations(range(len(pooled)), len(a)):
        rest = [i for i in range(len(pooled)) if i not in chosen]
        differences.append(abs(pooled[list(chosen)].mean() - pooled[rest].mean()))
    observed = abs(np.mean(a) - np.mean(b))
    assert permutation_p(a, b) == pytest.approx(np.mean(np.array(differences) >= observed - 1e-9))


def test_drawn_sign_flips_agree_with_all_of_them():
    values = np.random.default_rng(0).normal(0.4, 1, size=14)
    exact = sign_flip_p(values, resamples=2**13)
    drawn = sign_flip_p(values, resamples=2**13 - 1)
    assert exact * 2**13 == pytest.approx(round(exact * 2**13))  # a count of flips
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 2**13))


def test_drawn_relabellings_agree_with_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.5, 1, 20), rng.normal(size=25)
    theirs = scipy_stats.permutation_test(
        (a, b),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        vectorized=True,
        n_resamples=9_999,
        rng=np.random.default_rng(2),
    ).pvalue
    assert permutation_p(a, b) == pytest.approx(theirs, abs=0.015)


def test_a_drawn_p_is_never_zero():
    assert sign_flip_p(np.ones(60), resamples=999) == pytest.approx(1 / 1000)
    assert permutation_p(np.ones(60), np.zeros(60), resamples=999) == pytest.approx(1 / 1000)


def test_under_the_null_a_p_is_uniform():
    rng = np.random.default_rng(3)
    flips = [sign_flip_p(rng.standard_t(5, size=20), resamples=400, seed=i) for i in range(600)]
    labels = [permutation_p(*rng.normal(size=(2, 15)), resamples=400, seed=i) for i in range(600)]
    for p in (flips, labels):
        assert scipy_stats.kstest(p, "uniform").pvalue > 0.001
        assert np.mean(np.array(p) <= 0.05) < 0.09


def test_max_t_is_the_largest_t_over_all_flips():
    table = np.random.default_rng(4).normal(0.5, 1, size=(7, 4))

    def t_of(x):
        return np.abs(scipy_stats.ttest_1samp(x, 0.0, axis=0).statistic)

    largest = np.array([t_of(table * signs[:, None]).max() for signs in flipped(7)])
    expected = [(largest >= t - 1e-9).mean() for t in t_of(table)]
    assert max_t(table) == pytest.approx(expected)


def test_max_t_holds_its_error_over_the_whole_sweep_where_single_tests_do_not():
    rng = np.random.default_rng(5)
    adjusted, single = [], []
    for i in range(300):
        shared = rng.normal(size=(20, 1))  # cells of one sweep are correlated
        table = 0.5 * shared + rng.normal(size=(20, 30))
        adjusted.append(max_t(table, resamples=300, seed=i).min() <= 0.05)
        single.append(scipy_stats.ttest_1samp(table, 0.0).pvalue.min() <= 0.05)
    assert np.mean(single) > 0.4
    assert 0.01 < np.mean(adjusted) < 0.09  # 5 % expected, four standard errors are ±5 %


def test_max_t_finds_the_planted_cell_and_leaves_the_dead_one():
    table = np.random.default_rng(6).normal(size=(24, 50))
    table[:, 7] += 2.0
    table[:, 9] = 0.0
    p = max_t(table)
    assert p.argmin() == 7
    assert p[7] < 0.01
    assert p[9] == 1.0


def test_an_effect_without_spread_is_as_clear_as_the_pairs_allow():
    table = np.column_stack([np.full(8, 0.3), np.zeros(8), np.tile([1.0, -1.0], 4)])
    assert max_t(table) == pytest.approx([4 / 2**8, 1.0, 1.0])  # 2 flips of either live cell


def test_the_unit_of_a_cell_does_not_matter():
    table = np.random.default_rng(7).normal(0.4, 1, size=(10, 3))
    assert max_t(table * [1e-9, 1.0, 1e9]) == pytest.approx(max_t(table))


def test_zeros_alone_are_not_evidence():
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    assert permutation_p([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert list(max_t(np.zeros((5, 2)))) == [1.0, 1.0]


def test_pieces_are_the_whole(monkeypatch):
    from circuits.stats import flips, permutation

    rng = np.random.default_rng(8)
    table, a, b = rng.normal(0.3, 1, (9, 3)), rng.normal(size=20), rng.normal(size=20)
    whole = max_t(table)
    drawn = permutation_p(a, b, resamples=500)
    monkeypatch.setattr(flips, "_AT_ONCE", 200)
    monkeypatch.setattr(permutation, "_AT_ONCE", 200)
    assert max_t(table) == pytest.approx(whole)
    assert permutation_p(a, b, resamples=500) == pytest.approx(drawn)


@pytest.mark.parametrize("call", [sign_flip_p, lambda x: permutation_p(x, [1.0]), lambda x: max_t([x])])
def test_unknown_values_are_refused(call):
    with pytest.raises(UndefinedError, match="1 of 2"):
        call([1.0, math.nan])


def test_no_values_are_refused():
    with pytest.raises(UndefinedError, match="second group"):
        permutation_p([1.0], [])
