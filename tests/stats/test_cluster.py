"""Clusters drawn whole: the plain bootstrap where clusters are pairs, another program's numbers where they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from circuits.errors import UndefinedError
from circuits.stats import (
    bootstrap_mean,
    bootstrap_means,
    cluster_bootstrap_mean,
    cluster_bootstrap_means,
    max_t,
    mean_interval,
    mean_intervals,
    sign_flip_test,
)


def test_clusters_of_one_are_the_plain_bootstrap():
    values = np.random.default_rng(0).exponential(size=20)
    plain, single = bootstrap_mean(values), cluster_bootstrap_mean(values, range(20))
    assert (single.estimate, single.low, single.high) == pytest.approx((plain.estimate, plain.low, plain.high))
    assert single.method == "BCa bootstrap of 20 clusters"


def test_a_mean_has_the_interval_of_its_clusters_where_there_are_any():
    table, of = np.random.default_rng(5).normal(size=(12, 3)), [0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7]
    assert mean_intervals(table, seed=3) == bootstrap_means(table, seed=3)
    assert mean_intervals(table, of, level=0.9) == cluster_bootstrap_means(table, of, level=0.9)
    assert mean_interval(table[:, 1], of) == cluster_bootstrap_mean(table[:, 1], of)
    assert mean_interval(table[:, 1], resamples=500) == bootstrap_mean(table[:, 1], resamples=500)


def test_the_estimate_is_the_mean_over_pairs_whatever_the_clusters():
    values = [1.0, 2.0, 3.0, 10.0, 20.0]
    found = cluster_bootstrap_mean(values, ["a", "a", "a", "b", "c"], resamples=200)
    assert found.estimate == pytest.approx(np.mean(values))
    assert found.n == 5


def test_copies_of_a_pair_add_nothing():
    values = np.random.default_rng(1).normal(size=15)
    copied = cluster_bootstrap_mean(np.repeat(values, 4), np.repeat(np.arange(15), 4))
    plain = bootstrap_mean(values)
    assert (copied.low, copied.high) == pytest.approx((plain.low, plain.high))
    naive = bootstrap_mean(np.repeat(values, 4))
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


def test_the_spread_of_the_draws_is_that_of_drawing_clusters_one_by_one(monkeypatch):
    """Pairs gathered cluster by cluster, as the words say; plain percentiles of both."""
    from circuits.stats import interval

    rng = np.random.default_rng(2)
    of = np.repeat(np.arange(9), [1, 2, 3, 4, 5, 1, 2, 3, 4])
    values = rng.normal(size=9)[of] + rng.normal(size=len(of))
    drawn = [np.concatenate([values[of == g] for g in rng.integers(9, size=9)]).mean() for _ in range(20_000)]
    monkeypatch.setattr(interval, "_share", lambda z, bias, _: np.full_like(bias, 0.1 if z < 0 else 0.9))
    found = cluster_bootstrap_mean(values, of, resamples=20_000)
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.1, 0.9]), abs=0.06 * np.std(drawn))


def test_names_and_order_of_clusters_do_not_matter():
    rng = np.random.default_rng(3)
    values, of = rng.normal(size=(12, 2)), np.repeat(np.arange(4), 3)
    found = cluster_bootstrap_means(values, of, resamples=300)
    named = cluster_bootstrap_means(values, [f"template {i}" for i in of], resamples=300)
    assert [i.low for i in found] == [i.low for i in named]


def test_one_cluster_or_one_that_outweighs_all_others_has_no_interval():
    alone = cluster_bootstrap_mean([1.0, 2.0, 3.0], [0, 0, 0])
    heavy = cluster_bootstrap_mean([*range(20), 5.0], [0] * 20 + [1])
    for found, why in ((alone, "one cluster"), (heavy, "most pairs")):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert why in found.method


def test_clusters_have_to_name_every_pair():
    for call in (cluster_bootstrap_mean, lambda x, c: sign_flip_test(x, clusters=c)):
        with pytest.raises(UndefinedError, match="2 clusters named for 3 pairs"):
            call([1.0, 2.0, 3.0], [0, 1])


def test_flipping_clusters_is_flipping_their_sums():
    rng = np.random.default_rng(4)
    values, of = rng.normal(0.5, 1, (20, 3)), np.repeat(np.arange(8), [1, 4, 2, 3, 1, 5, 2, 2])
    sums = np.array([values[of == g].sum(axis=0) for g in range(8)])
    assert max_t(values, clusters=of) == pytest.approx(max_t(sums))
    found = sign_flip_test(values[:, 0], clusters=of)
    assert (found.n, found.unit, found.least) == (8, "cluster", 2.0**-7)
