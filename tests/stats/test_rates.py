"""A rate over clusters is Wilson's for as many answers as they are worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from circuits.errors import UndefinedError
from circuits.stats import rate, wilson
from circuits.stats.interval import score
from circuits.stats.rates import worth

ANSWERS = [1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1]


def test_without_clusters_it_is_wilsons():
    assert rate(ANSWERS) == wilson(8, 12)
    assert rate(np.array(ANSWERS, dtype=bool)) == wilson(8, 12)


def test_answers_that_each_stand_alone_lose_only_what_t_costs():
    found = worth(ANSWERS, range(12))
    assert found == pytest.approx(12 * (scipy_stats.norm.ppf(0.975) / scipy_stats.t.ppf(0.975, 11)) ** 2)
    assert (rate(ANSWERS, range(12)).low, rate(ANSWERS, range(12)).high) == score(8 / 12, found, 0.95)
    assert "clusters" in rate(ANSWERS, range(12)).method


def test_what_answers_are_worth_is_the_ratio_of_variances():
    of = [0, 0, 1, 2, 1, 1, 2, 0, 3, 4, 4, 3]  # (1, 1, 1), (0, 0, 0), (1, 1), (1, 1), (0, 1)
    p, sums = 8 / 12, np.bincount(of, weights=np.array(ANSWERS) - 8 / 12)
    between = 5 / 4 * (sums**2).sum() / 144
    ratio = p * (1 - p) / 11 / between
    clusters = 144 / sum(size**2 for size in (3, 3, 2, 2, 2))
    t = scipy_stats.t.ppf(0.975, clusters - 1)
    assert ratio < 1
    assert worth(ANSWERS, of) == pytest.approx(12 * ratio * (scipy_stats.norm.ppf(0.975) / t) ** 2)
    assert worth(ANSWERS, [f"template {i}" for i in of]) == worth(ANSWERS, of)


def test_copies_say_no_more():
    """Of answers repeated within clusters about as many count as there are clusters; as if independent, all."""
    answers = ANSWERS * 2  # 24 clusters
    once, four = rate(answers, range(24)), rate(np.repeat(answers, 4), np.repeat(range(24), 4))
    assert (four.low, four.high) == pytest.approx((once.low, once.high), abs=0.01)
    assert rate(np.repeat(answers, 4)).low > four.low + 0.05


def test_where_all_agree_clusters_count():
    found = rate([1] * 20, np.repeat(range(5), 4))
    assert (found.estimate, found.high) == (1.0, 1.0)
    t = scipy_stats.t.ppf(0.975, 4)
    assert found.low == pytest.approx(score(1.0, 5 * (scipy_stats.norm.ppf(0.975) / t) ** 2, 0.95)[0])
    assert found.low < wilson(20, 20).low - 0.2


def test_clusters_that_balance_are_not_worth_more_than_their_answers():
    assert worth([1, 0] * 6, np.repeat(range(6), 2)) < 12
    assert worth([1, 0] * 6, np.repeat(range(6), 2)) == worth([1, 0] * 6, [0, 1, 1, 0, *np.repeat(range(2, 6), 2)])


@pytest.mark.parametrize("of", [[0] * 12, [0] * 11 + [1]])
def test_too_few_clusters_have_no_limits(of: list[int]):
    found = rate(ANSWERS, of)
    assert found.estimate == 8 / 12
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_what_is_no_answer():
    with pytest.raises(UndefinedError, match="0 or 1"):
        rate([0.5, 1.0])
    with pytest.raises(UndefinedError, match="at least 1"):
        rate([])
    with pytest.raises(UndefinedError, match="2 clusters named for 3"):
        rate([0, 1, 1], [0, 1])
