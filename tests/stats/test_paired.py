"""McNemar is the sign test of those that changed; Newcombe's interval covers what it claims."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from circuits.errors import UndefinedError
from circuits.stats.paired import mcnemar_p, paired_change


@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (3, 1), (4, 4), (1, 9)])
def test_mcnemar_is_the_binomial_test_of_the_changed(gained: int, lost: int):
    before = [0] * gained + [1] * lost + [1, 0, 1]
    after = [1] * gained + [0] * lost + [1, 0, 1]
    expected = scipy_stats.binomtest(gained, gained + lost, 0.5).pvalue
    assert mcnemar_p(before, after) == pytest.approx(expected)
    assert mcnemar_p(after, before) == pytest.approx(expected)


def test_nothing_changed():
    assert mcnemar_p([1, 0, 1], [1, 0, 1]) == 1.0
    same = paired_change([1, 0, 1], [1, 0, 1])
    assert same.estimate == 0.0
    assert same.low < 0 < same.high


def test_all_changed_still_has_a_width():
    found = paired_change([1] * 20, [0] * 20)
    assert found.estimate == found.low == -1.0
    assert -0.9 < found.high < -0.7


def test_turned_round_it_is_its_own_mirror():
    rng = np.random.default_rng(0)
    a, b = rng.integers(2, size=(2, 30))
    there, back = paired_change(a, b), paired_change(b, a)
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low))


def test_independent_answers_give_the_square_and_add_interval():
    """Answers with a correlation of zero: limits are those of two independent rates (Newcombe's method)."""
    before, after = [1, 1, 0, 0] * 5, [1, 0, 1, 0] * 5
    from circuits.stats import wilson

    rate = wilson(10, 20)
    half = np.hypot(0.5 - rate.low, rate.high - 0.5)
    found = paired_change(before, after)
    assert (found.low, found.high) == pytest.approx((-half, half))


def test_mcnemar_of_clusters_flips_them_whole():
    """All sign flips of the clusters' sums, one by one."""
    rng = np.random.default_rng(2)
    before, after, of = rng.integers(2, size=30), (rng.random(30) < 0.75).astype(int), rng.integers(9, size=30)
    sums = np.bincount(of, weights=after - before, minlength=9)
    flipped = [abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=9)]
    expected = np.mean(np.array(flipped) >= abs(sums.sum()))
    assert mcnemar_p(before, after, of) == pytest.approx(expected)
    assert mcnemar_p(before, after, range(30)) == pytest.approx(mcnemar_p(before, after))
    assert mcnemar_p(np.tile(before, 3), np.tile(after, 3), np.tile(range(30), 3)) == pytest.approx(
        mcnemar_p(before, after)
    )
    assert mcnemar_p([0, 1] * 4, [1, 0] * 4, np.repeat(range(4), 2)) == 1.0


def test_a_change_over_clusters_is_newcombes_for_what_the_answers_are_worth():
    rng = np.random.default_rng(3)
    before, after = (rng.random((2, 40)) < [[0.7], [0.4]]).astype(int)
    alone = paired_change(before, after, range(40))
    plain = paired_change(before, after)
    assert alone.estimate == plain.estimate
    assert alone.low == pytest.approx(plain.low, abs=0.01)  # what t costs
    assert alone.low < plain.low
    copies = paired_change(np.tile(before, 4), np.tile(after, 4), np.tile(range(40), 4))
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high), abs=0.01)
    assert paired_change(np.tile(before, 4), np.tile(after, 4)).low > copies.low + 0.05
    assert np.isnan(paired_change(before, after, [0] * 40).low)


@pytest.mark.parametrize(("p", "keep"), [(0.5, 0.8), (0.95, 0.9), (0.2, 0.3)])
def test_it_covers(p: float, keep: float):
    rng = np.random.default_rng(1)
    hits, draws = 0, 600
    for _ in range(draws):
        before = rng.random(40) < p
        after = np.where(rng.random(40) < keep, before, rng.random(40) < 0.5)
        found = paired_change(before, after)
        hits += found.low <= (1 - keep) * (0.5 - p) <= found.high
    assert hits / draws >= 0.93


def test_what_is_no_answer():
    with pytest.raises(UndefinedError, match="same prompts"):
        mcnemar_p([1], [1, 0])
    with pytest.raises(UndefinedError, match="0 or 1"):
        paired_change([2], [1])
