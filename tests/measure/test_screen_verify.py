"""Recall, bounds and ranks are what counting gives; a screen in a random order is told from a good one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from scipy import stats
from torch import Tensor

from circuits.errors import UndefinedError
from circuits.measure.screens import Screen, exact_nodes, screen_nodes, verify
from circuits.measure.screens.strata import Rest, rank_correlation, recall
from circuits.metrics import LogitDifference
from circuits.result import Provenance

N, LARGE, PAIRS = 400, 20, 6


def _effects() -> Tensor:
    """Twenty large effects among four hundred names, of both signs."""
    g = torch.Generator().manual_seed(0)
    size = torch.full((N,), 0.05)
    size[torch.randperm(N, generator=g)[:LARGE]] = 1.0
    sign = torch.where(torch.rand(N, generator=g) < 0.5, -1.0, 1.0)
    return size * sign * (1 + 0.2 * torch.rand(PAIRS, N, generator=g))


def _screen(score: Tensor) -> Screen:
    names = tuple(f"L0.N{i}" for i in range(score.shape[1]))
    origin = Provenance(model="made up", model_hash="", dtype="float32", device="cpu", pairs="", metric="")
    return Screen(
        provenance=origin, score=score, base=torch.zeros(len(score)), source=torch.full((len(score),), 10.0), names=names,
        senders=(), receivers=(), method="atp", direction="noise", positions="all", steps=1, forward_passes=3,
        backward_passes=1,
    )  # fmt: skip


def _exact(effects: Tensor) -> Callable[..., Tensor]:
    return lambda names: effects[:, [int(name.removeprefix("L0.N")) for name in names]]


def test_a_good_screen_is_found_good():
    effects = _effects()
    found = verify(_screen(0.7 * effects), _exact(effects), top=LARGE, sample=200)
    assert found.threshold == pytest.approx(0.5)  # 5 % of the gap
    assert found.recall.estimate == 1
    assert found.recall.high == 1
    assert found.recall.low == pytest.approx(LARGE / (LARGE + found._rest.most(0.975)))
    assert "finds large effects" in found.verdict
    assert found.sign_agreement.estimate == 1
    assert found.rank_correlation["all"].estimate > 0.95
    assert found.largest_missed[1] < 0.1


def test_a_permuted_screen_says_that_it_is_no_better_than_chance():
    effects = _effects()
    for seed in range(5):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
        found = verify(_screen(effects[:, order]), _exact(effects), top=LARGE, sample=200, seed=seed)
        assert found.recall.estimate < 0.25
        assert "do not rely on" in found.verdict
        assert found.largest_missed[1] > 0.9
        low, high = found.rank_correlation["all"].low, found.rank_correlation["all"].high
        assert low < 0.2
        assert high > -0.2
        unseen = LARGE - int(found.to_names()["large"].sum())
        assert found.most_unseen >= unseen


def test_the_bounds_hold_as_often_as_they_say():
    rng = np.random.default_rng(0)
    for n, large, sampled in ((100, 7, 30), (1000, 40, 60)):
        hits = rng.hypergeometric(large, n - large, sampled, size=2000)
        bounds = {h: Rest(n, sampled, int(h)) for h in np.unique(hits)}
        most, least = ({h: side(rest) for h, rest in bounds.items()} for side in (Rest.most, Rest.least))
        assert np.mean([most[h] >= large for h in hits]) >= 0.94
        assert np.mean([least[h] <= large for h in hits]) >= 0.94
        covered, true = {h: recall(10, rest) for h, rest in bounds.items()}, 10 / (10 + large)
        assert np.mean([covered[h].low - 1e-12 <= true <= covered[h].high + 1e-12 for h in hits]) >= 0.94


def test_the_bound_is_the_largest_number_not_excluded():
    rest = Rest(50, 20, 1)
    assert stats.hypergeom.cdf(1, 50, rest.most(), 20) > 0.05
    assert stats.hypergeom.cdf(1, 50, rest.most() + 1, 20) <= 0.05
    assert Rest(50, 50, 3).most() == Rest(50, 50, 3).least() == 3
    assert recall(0, Rest(50, 50, 0)).n == 0


def test_ranks_are_spearmans_and_weights_are_copies():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=30), rng.integers(0, 8, size=30).astype(float)
    same = np.zeros(30, dtype=np.intp)
    found = rank_correlation(x, y, same, np.ones(30))
    assert found.estimate == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low < found.estimate < found.high
    weight = np.where(np.arange(30) < 10, 1.0, 3.0)
    copies = np.repeat(np.arange(30), weight.astype(int))
    weighted = rank_correlation(x, y, same, weight).estimate
    assert weighted == pytest.approx(stats.spearmanr(x[copies], y[copies]).statistic)
    assert np.isnan(rank_correlation(x, np.ones(30), same, np.ones(30)).estimate)


def test_everything_measured_leaves_nothing_open():
    effects = _effects()
    found = verify(_screen(effects), _exact(effects), top=10, sample=N)
    assert found.recall.low == found.recall.high == found.recall.estimate == 0.5
    assert found.most_unseen == 0
    assert "take a longer top" in found.verdict
    nothing = verify(_screen(effects), _exact(effects), top=10, sample=50, threshold=5.0)
    assert np.isnan(nothing.recall.estimate)
    assert "recall does not exist" in nothing.verdict


def test_nodes_are_verified_by_the_sweep(says: Callable[..., None]):
    model, tokens = small_models.model("gemma2"), small_models.uneven()
    metric = LogitDifference(model)
    screen = screen_nodes(model, tokens, metric)
    found = verify(screen, exact_nodes(model, tokens, metric), top=8, sample=10, threshold=0.3)
    assert len(found.names) == 18
    assert set(found.names[:8]) == set(screen.to_summary()["name"][:8])
    assert not set(found.names[:8]) & set(found.names[8:])
    frame = found.to_frame()
    assert len(frame) == tokens.n_pairs * 18
    again = exact_nodes(model, tokens, metric)([found.names[3], found.names[12]])
    torch.testing.assert_close(found.exact[:, [3, 12]], again, rtol=0, atol=1e-5)
    row = found.to_summary().iloc[0]
    assert row["large_in_top"] == int((found.exact[:, :8].abs().mean(0) >= 0.3).sum())
    assert row["verdict"] == found.verdict
    says(found.figure(), model.name)
    unsigned = verify(replace(screen, method="atp-graddrop"), exact_nodes(model, tokens, metric), top=8, sample=10)
    assert np.isnan(unsigned.sign_agreement.estimate)


def test_what_cannot_be_verified():
    effects = _effects()
    never: Any = lambda _: pytest.fail("effects were measured")  # noqa: E731
    for top, sample in ((0, 5), (5, 0)):
        with pytest.raises(UndefinedError, match="at least one of each"):
            verify(_screen(effects), never, top=top, sample=sample)
    with pytest.raises(UndefinedError, match="makes every effect large"):
        verify(replace(_screen(effects), source=torch.zeros(PAIRS)), never)
    with pytest.raises(UndefinedError, match="one finite number"):
        verify(_screen(effects), lambda names: effects[:, : len(names) - 1])
