"""Shuffled labels: equal to the plain permutation test in one stratum, blind to strata where they are given."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from circuits.errors import UndefinedError
from circuits.stats import permutation_p
from circuits.stats.labels import label_p

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_one_stratum_is_the_permutation_test(shift: float):
    a, b = RNG.normal(shift, 1, 4), RNG.normal(0, 1, 7)
    found = label_p(np.concatenate([a, b])[:, None], [True] * 4 + [False] * 7)
    assert found[0] == pytest.approx(permutation_p(a, b))


def test_strata_by_hand():
    values, strata = np.array([5.0, 1.0, 2.0, 9.0, 7.0]), [0, 0, 0, 1, 1]
    chosen = [True, False, False, True, False]
    centred = np.array([5, 1, 2]) - 8 / 3, np.array([9, 7]) - 8.0
    observed = abs(centred[0][0] + centred[1][0])
    sums = [abs(x + y) for x in centred[0] for (y,) in combinations(centred[1], 1)]
    expected = np.mean([s >= observed - 1e-9 for s in sums])
    assert label_p(values[:, None], chosen, strata)[0] == pytest.approx(expected)


def test_a_difference_between_strata_explains_nothing():
    strata = np.repeat([0, 1], 20)
    chosen = np.r_[[True] * 15, [False] * 5, [True] * 5, [False] * 15]
    values = (10.0 * (strata == 0) + RNG.normal(0, 1, 40))[:, None]
    assert label_p(values, chosen)[0] < 0.01
    assert label_p(values, chosen, strata)[0] > 0.05


def test_false_positives_are_as_many_as_it_says():
    p = label_p(RNG.normal(size=(24, 400)), np.arange(24) % 4 == 0, np.repeat([0, 1, 2], 8), resamples=500)
    assert (p > 0).all()
    assert 0.02 < (p < 0.05).mean() < 0.09


def test_nothing_to_compare():
    with pytest.raises(UndefinedError, match="nothing to compare"):
        label_p(np.ones((4, 1)), [True, True, False, False], [0, 0, 1, 1])
