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


# scores that are not independent

ONES, SPREAD = [1.0, 2.0, 2.0, 5.0, 7.0, 9.0, 4.0], [0.0, 2.0, 3.0, 6.0, 1.0]


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        (ONES, SPREAD),
        (range(10, 30), [*range(9), 11.5]),
        (range(5, 9), range(5)),
        ([1.0] * 4, [1.0] * 3),
        ([1.0], [0, 2, 3]),
    ],
    ids=["in the middle", "near separation", "separated", "tied", "one positive"],
)
def test_scores_that_each_stand_alone_give_the_plain_area(positive, negative):
    names = list(range(len(positive) + len(negative)))
    found = auroc(positive, negative, clusters=(names[: len(positive)], names[len(positive) :]))
    plain = auroc(positive, negative)
    assert (found.estimate, found.low, found.high, found.n) == pytest.approx(
        (plain.estimate, plain.low, plain.high, plain.n)
    )
    assert "clusters" in found.method


def test_the_variance_of_clusters_is_obuchowskis_own_formula():
    """Sums over clusters as Obuchowski (1997) writes them: placements of each score, summed within its cluster."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=40)
    positive, of = rng.random(40) < 0.45, np.repeat(range(14), [4, 1, 2, 5, 3, 1, 6, 2, 2, 3, 4, 1, 3, 3])
    scores[positive] += 1 + rng.normal(size=14)[of][positive]
    x, y, cx, cy = scores[positive], scores[~positive], of[positive], of[~positive]
    area = np.mean([[a > b for b in y] for a in x])
    v10, v01 = [np.mean([a > b for b in y]) for a in x], [np.mean([a > b for a in x]) for b in y]
    some = [{*cx}, {*cy}]
    s10 = s01 = s11 = 0.0
    parts = {"x": [], "y": [], "both": []}
    for c in range(14):
        first = sum(v - area for v, k in zip(v10, cx, strict=True) if k == c) / len(x)
        second = sum(v - area for v, k in zip(v01, cy, strict=True) if k == c) / len(y)
        s10, s01, s11 = s10 + first**2, s01 + second**2, s11 + first * second
        i, j = len(some[0]), len(some[1])
        own = i / (i - 1) * first**2 + j / (j - 1) * second**2 + 2 * 14 / 13 * first * second
        kind = "both" if c in some[0] & some[1] else "x" if c in some[0] else "y"
        parts[kind].append((own, (of == c).sum()))
    i, j = len(some[0]), len(some[1])
    assert {kind: len(found) for kind, found in parts.items()} == {"x": 14 - j, "y": 14 - i, "both": i + j - 14}
    assert all(parts.values())
    variance = i / (i - 1) * s10 + j / (j - 1) * s01 + 2 * 14 / 13 * s11
    spent = 0.0
    for kind, rows in parts.items():
        values, sizes = (np.array(column, float) for column in zip(*rows, strict=True))
        many = sizes.sum() ** 2 / (sizes**2).sum() * (1 - 1 / {"x": i, "y": j, "both": min(i, j)}[kind])
        spent += values.sum() ** 2 / many
    half = scipy_stats.t.ppf(0.975, variance**2 / spent) * math.sqrt(variance) / (area * (1 - area))
    found = auroc(x, y, clusters=(cx, cy))
    assert 0.5 < area < 0.9
    assert [math.log(t / (1 - t)) for t in (found.low, found.high)] == pytest.approx(
        [math.log(area / (1 - area)) + side for side in (-half, half)]
    )


def test_copies_within_clusters_say_no_more_and_names_do_not_matter():
    rng = np.random.default_rng(4)
    x, y = rng.normal(0.8, 1, 12), rng.normal(size=12)
    pairs = auroc(x, y, clusters=(range(12), range(12)))
    copies = auroc(np.tile(x, 3), np.tile(y, 3), clusters=([*range(12)] * 3, [*range(12)] * 3))
    named = auroc(x, y, clusters=(list("abcdefghijkl"), list("abcdefghijkl")))
    assert (copies.low, copies.high) == pytest.approx((pairs.low, pairs.high))
    assert (named.low, named.high) == (pairs.low, pairs.high)
    naive = auroc(np.tile(x, 3), np.tile(y, 3))
    assert naive.high - naive.low < 0.7 * (pairs.high - pairs.low)


def test_scores_of_a_pair_that_go_together_make_the_area_surer():
    """What is common to a pair raises both its scores and moves the area little: independence would be too wide."""
    common = np.linspace(-2, 2, 30)
    x, y = common + 0.4 * np.sin(np.arange(30)), common - 0.3 + 0.4 * np.cos(3 * np.arange(30))
    paired, plain = auroc(x, y, clusters=(range(30), range(30))), auroc(x, y)
    assert paired.high - paired.low < 0.6 * (plain.high - plain.low)
    against = auroc(x, y[::-1], clusters=(range(30), range(30)))
    assert against.high - against.low > 1.2 * (plain.high - plain.low)


def test_one_cluster_says_nothing_and_one_for_all_positives_little():
    alone = auroc([3.0, 4.0], [1.0, 2.0, 5.0], clusters=([0, 0], [0, 0, 0]))
    assert alone.estimate == pytest.approx(4 / 6)
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)
    few = auroc([3.0, 4.0], [1.0, 2.0, 5.0], clusters=([0, 0], [1, 2, 3]))
    assert (few.low, few.high) == pytest.approx(newcombe(4 / 6, 1, 3, 0.95))
    same = auroc([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], clusters=(range(3), range(3)))  # a pair's two scores are one
    assert (same.estimate, same.low, same.high) == pytest.approx((0.5, *newcombe(0.5, 3, 3, 0.95)))


def test_clusters_are_named_for_every_score():
    with pytest.raises(UndefinedError, match="2 clusters named for 3 negative scores"):
        auroc([1.0], [1.0, 2.0, 3.0], clusters=([0], [1, 2]))


@pytest.mark.parametrize(("positive", "negative"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_an_empty_or_unknown_set_is_refused(positive, negative):
    with pytest.raises(UndefinedError, match="scores"):
        auroc(positive, negative)
