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
from circuits.stats.ranking import newcombe

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=8)


@given(scores, scores)
def test_it_counts_the_pairs_in_order_and_ties_half(positive, negative):
    won = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    found = auroc(positive, negative)
    assert found.estimate == pytest.approx(won / (len(positive) * len(negative)))
    assert found.n == len(positive) + len(negative)


def test_it_is_mann_whitneys_u():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 30), rng.normal(size=25)
    u = scipy_stats.mannwhitneyu(a, b).statistic
    assert auroc(a, b).estimate == pytest.approx(u / (30 * 25))


def test_the_variance_is_delongs_own_formula():
    """Structural components, one value at a time, as DeLong, DeLong and Clarke-Pearson write them."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(1, 1, 14), rng.normal(size=9)
    area = np.mean([[x > y for y in b] for x in a])
    v10 = [np.mean([x > y for y in b]) for x in a]
    v01 = [np.mean([x > y for x in a]) for y in b]
    first, second = sum((v - area) ** 2 for v in v10) / 13 / 14, sum((v - area) ** 2 for v in v01) / 8 / 9
    df = (first + second) ** 2 / (first**2 / 13 + second**2 / 8)
    half = scipy_stats.t.ppf(0.975, df) * math.sqrt(first + second) / (area * (1 - area))
    found = auroc(a, b)
    assert 0.5 < area < 0.9
    assert [math.log(t / (1 - t)) for t in (found.low, found.high)] == pytest.approx(
        [math.log(area / (1 - area)) + side for side in (-half, half)]
    )


def test_close_to_separation_the_wider_limits_are_given():
    a, b = np.arange(10.0, 30.0), np.append(np.arange(9.0), 11.5)
    found = auroc(a, b)
    score = newcombe(found.estimate, 20, 10, 0.95)
    assert 0.9 < found.estimate < 1
    assert "wider" in found.method
    assert found.low <= score[0]
    assert found.high >= score[1]


def test_scores_that_are_all_tied_say_little():
    found = auroc([1.0] * 9, [1.0] * 7)
    assert found.estimate == 0.5
    assert found.low < 0.3
    assert found.high > 0.7
    assert "no spread" in found.method


def test_complete_separation_is_not_certainty():
    small, large = (auroc(range(10, 10 + n), range(-n, 0)) for n in (5, 50))
    assert small.estimate == large.estimate == small.high == large.high == 1.0
    assert 0.4 < small.low < large.low < 1.0  # five of each prove less than fifty
    assert "Newcombe" in small.method
    mirrored = auroc(range(-5, 0), range(10, 15))
    assert (mirrored.low, mirrored.high) == pytest.approx((0.0, 1 - small.low))


def test_newcombes_limits_solve_newcombes_equation():
    area, n, m = 0.8, 12, 20
    balanced = (n + m) / 2 - 1
    for t in newcombe(area, n, m, 0.95):
        variance = t * (1 - t) * (1 + balanced * ((1 - t) / (2 - t) + t / (1 + t))) / (n * m)
        assert abs(area - t) == pytest.approx(scipy_stats.norm.ppf(0.975) * math.sqrt(variance), abs=1e-9)


def test_one_positive_still_has_limits():
    found = auroc([1.0], [0.0, 2.0, 0.5])
    assert found.low < found.estimate < found.high


@pytest.mark.parametrize(("positive", "negative"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_an_empty_or_unknown_set_is_refused(positive, negative):
    with pytest.raises(UndefinedError, match="scores"):
        auroc(positive, negative)
