"""Survival against pairs drawn one by one, and against what theory says of a known effect."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from circuits.errors import UndefinedError
from circuits.stats import AmongLargest, MeanAtLeast, SurvivesMaxT, max_t, survival
from circuits.stats.interval import resampling

TABLE = np.random.default_rng(0).normal([0.0, 0.1, 0.2, 0.4, -0.5, 1.0], 0.8, (30, 6))


def _by_hand(table: np.ndarray, keep, resamples: int) -> np.ndarray:
    """Every resample as rows of the table, put together pair by pair."""
    kept = np.zeros(table.shape[1])
    for counts in resampling(len(table), resamples, 0):
        kept += keep(np.repeat(table, counts.astype(int), axis=0))
    return kept / resamples


def test_a_threshold_is_counted_resample_by_resample():
    found = survival(TABLE, MeanAtLeast(0.3), resamples=300)
    assert found.share == pytest.approx(_by_hand(TABLE, lambda x: np.abs(x.mean(axis=0)) >= 0.3, 300))
    assert found.held.tolist() == (np.abs(TABLE.mean(axis=0)) >= 0.3).tolist()
    assert found.claim == "|mean| ≥ 0.3"


def test_the_largest_are_counted_resample_by_resample():
    def keep(x):
        return scipy_stats.rankdata(-np.abs(x.mean(axis=0))) <= 2

    found = survival(TABLE, AmongLargest(2), resamples=300)
    assert found.share == pytest.approx(_by_hand(TABLE, keep, 300))
    assert found.share.sum() == pytest.approx(2)  # no ties: always two of them
    assert found.claim == "|mean| among the 2 largest"


@pytest.mark.parametrize(("n", "resamples"), [(30, 999), (10, 2000)])
def test_what_survives_on_all_pairs_is_what_max_t_says(n: int, resamples: int):
    for seed in range(20):
        table = np.random.default_rng(seed).normal(0.35, 1, (n, 8))
        found = survival(table, SurvivesMaxT(0.05), resamples=resamples, seed=seed)
        assert found.held.tolist() == (max_t(table, resamples=resamples, seed=seed) <= 0.05).tolist()


def test_max_t_in_a_resample_is_its_own_statistic_at_the_critical_value():
    from circuits.stats.flips import sweep

    largest = sweep(TABLE).largest(400, 0)
    allowed = int(np.floor(0.1 * 401 - 1))
    critical = largest[len(largest) - allowed - 1]

    def keep(x):
        return np.abs(x.sum(axis=0)) / np.sqrt((x**2).sum(axis=0)) > critical

    found = survival(TABLE, SurvivesMaxT(0.1), resamples=400)
    assert found.share == pytest.approx(_by_hand(TABLE, keep, 400))


def test_a_known_effect_survives_as_often_as_its_distance_says():
    n = 400
    x = scipy_stats.norm.ppf((np.arange(n) + 0.5) / n)
    table = np.column_stack([x / x.std() + shift for shift in (0.5, 0.55, 0.6)])  # standard error 1/20
    found = survival(table, MeanAtLeast(0.5))
    assert found.share == pytest.approx(scipy_stats.norm.cdf([0.0, 1.0, 2.0]), abs=0.02)


def test_dead_cells_are_never_among_the_largest():
    table = np.zeros((12, 5))
    table[:, 1] = np.random.default_rng(1).normal(1, 0.1, 12)
    assert survival(table, AmongLargest(3), resamples=200).share.tolist() == [0, 1, 0, 0, 0]


def test_whole_clusters_are_drawn_and_gaps_left_out():
    of = np.repeat(np.arange(10), 3)
    pairs, whole = (survival(TABLE, MeanAtLeast(0.3), clusters=c, resamples=400) for c in (None, of))
    assert (pairs.n, whole.n) == (30, 10)
    copies = survival(np.repeat(TABLE, 3, axis=0), MeanAtLeast(0.3), clusters=np.repeat(np.arange(30), 3), resamples=400)
    assert copies.share == pytest.approx(pairs.share)
    present = np.ones(TABLE.shape, dtype=bool)
    present[10:, 5] = False
    gaps = survival(np.where(present, TABLE, np.nan), MeanAtLeast(0.3), present=present, resamples=400)
    assert gaps.share[:5] == pytest.approx(pairs.share[:5])
    short = survival(TABLE[:10, 5:], MeanAtLeast(0.3), resamples=4000)
    assert gaps.share[5] == pytest.approx(short.share[0], abs=0.1)


def test_pieces_are_the_whole(monkeypatch):
    from circuits.stats import stability

    whole = survival(TABLE, AmongLargest(3), resamples=250)
    monkeypatch.setattr(stability, "_AT_ONCE", 100)
    assert survival(TABLE, AmongLargest(3), resamples=250).share == pytest.approx(whole.share)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (MeanAtLeast(0.0), "positive"),
        (AmongLargest(6), "1 to 5"),
        (AmongLargest(0), "1 to 5"),
        (SurvivesMaxT(0.0001), "cannot reach p ≤ 0.0001"),
    ],
)
def test_claims_that_say_nothing(claim, message: str):
    with pytest.raises(UndefinedError, match=message):
        survival(TABLE, claim, resamples=500)
