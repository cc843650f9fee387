"""A p-value says what it could have been; cells with gaps are tested on the pairs they have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from circuits.errors import UndefinedError
from circuits.stats import max_t, max_t_test, permutation_test, sign_flip_test


@pytest.mark.parametrize("n", range(1, 9))
def test_the_least_p_is_what_the_clearest_values_get(n: int):
    found = sign_flip_test(np.arange(1.0, n + 1))
    assert found.p == found.least == 2.0 ** (1 - n)
    assert found.reachable() == (n >= 6)
    assert ("cannot reach significance" in str(found)) == (n < 6)


def test_three_pairs_do_not_print_a_p_of_one():
    found = sign_flip_test([1.0, -1.0, 0.5])
    assert found.p > 0.5
    assert str(found) == "cannot reach significance with 3 pairs: p ≥ 0.25"


def test_pairs_that_are_zero_do_not_count():
    found = sign_flip_test([0.0] * 8 + [1.0, 2.0, 3.0])
    assert (found.n, found.zeros, found.p, found.least) == (11, 8, 0.25, 0.25)
    assert "3 pairs (8 of 11 are zero)" in found.note()
    assert str(sign_flip_test([0.0] * 9)) == "zero in every pair"


def test_a_constant_is_named():
    found = max_t_test(np.column_stack([np.full(8, 0.3), np.arange(8.0) + 1]))
    assert [cell.constant for cell in found] == [True, False]
    assert found[0].note() == "the same in every pair"
    assert found[1].note() == ""


def test_drawn_flips_cannot_give_less_than_one_in_all_of_them():
    found = sign_flip_test(np.ones(60), resamples=999)
    assert found.p == found.least == 1 / 1000
    assert not sign_flip_test(np.ones(60), resamples=9).reachable()


@pytest.mark.parametrize(("n", "m", "least"), [(3, 3, 2 / 20), (2, 4, 1 / 15), (5, 5, 2 / 252)])
def test_two_groups_can_only_be_told_apart_so_far(n: int, m: int, least: float):
    found = permutation_test(range(10, 10 + n), range(m))
    assert found.p == pytest.approx(least)
    assert found.least == pytest.approx(least)
    assert "p = " in str(found) or least > 0.05


def test_cells_with_gaps_are_tested_on_the_pairs_they_have():
    rng = np.random.default_rng(0)
    table = rng.normal(0.8, 1, (9, 2))
    present = np.ones((9, 2), dtype=bool)
    present[5:, 1] = False
    unread = np.where(present, table, np.nan)
    found = max_t_test(unread, present=present)
    assert [cell.n for cell in found] == [9, 5]
    assert [cell.least for cell in found] == [2.0**-8, 2.0**-4]
    # every flip by hand: a cell's statistic is over its own pairs
    size = np.sqrt(np.where(present, table, 0) ** 2).sum(axis=0)
    zeroed = np.where(present, table, 0.0)
    scale = np.sqrt((zeroed**2).sum(axis=0))
    flips = np.array(np.meshgrid(*[[1, -1]] * 9)).reshape(9, -1).T
    largest = np.abs(flips @ zeroed / scale).max(axis=1)
    own = np.abs(zeroed.sum(axis=0)) / scale
    assert (size > 0).all()
    assert [cell.p for cell in found] == pytest.approx([(largest >= s - 1e-9).mean() for s in own])


def test_one_cell_with_gaps_is_the_test_of_its_pairs():
    values = np.random.default_rng(1).normal(0.5, 1, 8)
    padded, there = np.append(values, [np.nan] * 3), [True] * 8 + [False] * 3
    alone = max_t(padded[:, None], present=np.array(there)[:, None])
    assert alone == pytest.approx([sign_flip_test(values).p])


def test_what_is_not_present_must_fit():
    with pytest.raises(UndefinedError, match="shape"):
        max_t(np.ones((3, 2)), present=np.ones((2, 3)))
    with pytest.raises(UndefinedError, match="1 of 2 cells have no pair"):
        max_t(np.ones((3, 2)), present=np.array([[True, False]] * 3))
    with pytest.raises(UndefinedError, match="1 of 2 are NaN"):
        max_t([[math.nan, 1.0]], present=[[True, True]])


def test_the_statistic_ranks_flips_as_t_does():
    table = np.random.default_rng(2).normal(0.3, 1, (10, 1))
    flips = np.array(np.meshgrid(*[[1, -1]] * 10)).reshape(10, -1).T
    t = np.abs(scipy_stats.ttest_1samp(flips.T * table, 0.0, axis=0).statistic)
    assert max_t(table)[0] == pytest.approx((t >= t[0] - 1e-9).mean())
