"""Corrections against scipy, against the definition, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from circuits.errors import UndefinedError
from circuits.stats import benjamini_hochberg, holm

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(p_values)
def test_q_values_are_scipys(p):
    assert benjamini_hochberg(p) == pytest.approx(scipy_stats.false_discovery_control(p))


@given(p_values)
def test_holm_rejects_what_the_step_down_rejects(p):
    adjusted = holm(p)
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, i in enumerate(np.argsort(p, kind="stable")):
            if p[i] * (len(p) - step) > alpha:
                break
            rejected.add(int(i))
        assert set(np.flatnonzero(adjusted <= alpha)) == rejected


def test_order_and_size_are_kept():
    p = [0.04, 0.001, 0.9, 0.02]
    assert list(np.argsort(holm(p), kind="stable")) == [1, 3, 0, 2]
    assert benjamini_hochberg(p) == pytest.approx([4 * 0.04 / 3, 0.004, 0.9, 0.04])
    assert holm([]).size == benjamini_hochberg([]).size == 0


def test_they_hold_their_error_among_true_nulls():
    rng = np.random.default_rng(0)
    family, discovery = [], []
    for _ in range(500):
        p = np.concatenate([rng.uniform(size=40), rng.uniform(0, 1e-4, size=10)])
        family.append((holm(p)[:40] <= 0.1).any())
        found = benjamini_hochberg(p) <= 0.1
        discovery.append(found[:40].sum() / max(1, found.sum()))
    assert 0.03 < np.mean(family) < 0.14
    assert 0.05 < np.mean(discovery) < 0.10


@pytest.mark.parametrize("p", [[-0.1], [1.5], [float("nan")]])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(UndefinedError, match="p-values"):
        holm(p)
