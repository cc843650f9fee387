"""Do the numbers keep their promises? Seeded simulations: p-values uniform, intervals that cover, errors held.

A promise is a range of true coverage, written in the docstring of what makes it. What is simulated may leave the range
by three standard errors of a share of so many runs, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as scipy_stats

from circuits.stats import (
    auroc,
    benjamini_hochberg,
    bootstrap_means,
    cluster_bootstrap_means,
    cohens_d,
    cohens_d_paired,
    holm,
    max_t,
    permutation_p,
    rank_biserial,
    rank_biserial_paired,
    rate,
    sign_flip_p,
    wilson,
)
from circuits.stats.paired import paired_change

PAIRS = 52
"""As many as the toy set has."""

DRAWS: dict[str, Callable[..., np.ndarray]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "uniform": lambda rng, size: rng.uniform(-math.sqrt(3), math.sqrt(3), size),
    "heavy": lambda rng, size: rng.standard_t(5, size) / math.sqrt(5 / 3),
    "skewed": lambda rng, size: rng.exponential(size=size) - 1,
    "left": lambda rng, size: 1 - rng.exponential(size=size),
}
"""Mean 0 and standard deviation 1, all of them."""


def within(share: float, runs: int, low: float, high: float) -> bool:
    """Whether a true share between low and high explains this one, of so many runs, within three standard errors."""
    return low - 3 * math.sqrt(low * (1 - low) / runs) <= share <= high + 3 * math.sqrt(high * (1 - high) / runs)


def covered(found: list, true: float) -> float:
    return float(np.mean([i.low <= true <= i.high for i in found]))


# p-values


def test_p_is_uniform_where_nothing_is_there():
    rng = np.random.default_rng(0)
    found = {
        "sign flips, listed": [sign_flip_p(rng.normal(size=11)) for _ in range(500)],
        "sign flips, drawn": [sign_flip_p(rng.standard_t(5, PAIRS), resamples=500, seed=i) for i in range(500)],
        "labels": [permutation_p(*rng.exponential(size=(2, 15)), resamples=500, seed=i) for i in range(500)],
        "smallest of a sweep": [max_t(_correlated(rng, 30), resamples=500, seed=i).min() for i in range(500)],
    }
    for name, p in found.items():
        assert scipy_stats.kstest(p, "uniform").pvalue > 0.001, name


def _correlated(rng: np.random.Generator, cells: int, pairs: int = PAIRS) -> np.ndarray:
    """A sweep without effects: neighbours along the cells and a factor of the whole pair, heavy tails."""
    own = rng.standard_t(5, (pairs, cells))
    return 0.6 * rng.normal(size=(pairs, 1)) + own + 0.8 * np.roll(own, 1, axis=1)


@pytest.mark.parametrize("pairs", [8, PAIRS])
def test_the_family_wise_error_of_a_sweep_is_held(pairs: int):
    """With correlated cells and true effects among them; tests that each stand alone fail often."""
    rng, runs = np.random.default_rng(1), 500
    false = {"max-T": 0, "Holm": 0, "single": 0}
    for i in range(runs):
        table = _correlated(rng, 24, pairs)
        table[:, :4] += 1.5
        adjusted = max_t(table, resamples=400, seed=i)
        alone = scipy_stats.ttest_1samp(table, 0.0).pvalue
        false["max-T"] += adjusted[4:].min() <= 0.05
        false["Holm"] += holm(alone)[4:].min() <= 0.05
        false["single"] += alone[4:].min() <= 0.05
    assert false["single"] / runs > 0.3
    for name in ("max-T", "Holm"):
        assert within(false[name] / runs, runs, 0.0, 0.05), name


def test_max_t_uses_the_correlation_that_holm_ignores():
    rng = np.random.default_rng(2)
    found = []
    for i in range(200):
        table = rng.normal(size=(PAIRS, 1)) + 0.3 * rng.normal(size=(PAIRS, 40)) + 0.4
        alone = scipy_stats.ttest_1samp(table, 0.0).pvalue
        found.append([(max_t(table, resamples=400, seed=i) <= 0.05).mean(), (holm(alone) <= 0.05).mean()])
    sharp, blunt = np.mean(found, axis=0)
    assert sharp > blunt + 0.1


def test_flipping_whole_clusters_holds_where_flipping_pairs_does_not():
    rng, runs = np.random.default_rng(3), 400
    of = np.repeat(np.arange(13), 4)
    plain, whole = 0, 0
    for i in range(runs):
        table = rng.normal(size=(13, 6))[of] + rng.normal(size=(PAIRS, 6))
        plain += max_t(table, resamples=400, seed=i).min() <= 0.05
        whole += max_t(table, clusters=of, resamples=400, seed=i).min() <= 0.05
    assert plain / runs > 0.15
    assert within(whole / runs, runs, 0.03, 0.05)


def test_the_false_discovery_rate_is_held_with_correlated_cells():
    rng, runs, shares = np.random.default_rng(4), 400, []
    for _ in range(runs):
        table = _correlated(rng, 50)
        table[:, :10] += 0.8
        found = benjamini_hochberg(scipy_stats.ttest_1samp(table, 0.0).pvalue) <= 0.1
        shares.append(found[10:].sum() / max(1, found.sum()))
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / math.sqrt(runs)
    assert np.mean(shares) > 0.03


# means


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("n", [12, 24, PAIRS])
def test_means_are_covered(name: str, n: int):
    values = DRAWS[name](np.random.default_rng(n), (n, 1500))
    assert within(covered(bootstrap_means(values, resamples=1000), 0.0), 1500, 0.93, 0.97)


def test_means_are_not_covered_where_the_docstring_says_so():
    rng = np.random.default_rng(5)
    few = bootstrap_means(rng.exponential(size=(8, 1500)), resamples=1000)
    assert 0.88 < covered(few, 1.0) < 0.93
    long_tail = bootstrap_means(rng.lognormal(size=(PAIRS, 1500)), resamples=1000)
    assert 0.88 < covered(long_tail, math.exp(0.5)) < 0.93
    rare = (rng.random((8, 1500)) < 0.2) + 0.05 * rng.normal(size=(8, 1500))
    assert 0.75 < covered(bootstrap_means(rare, resamples=1000), 0.2) < 0.9


SIZES = {
    "equal": [4] * 13,
    "toy-like": [1] * 24 + [2] * 4 + [5] * 4,
    "unequal": [10, 8, 6, 6, 5, 4, 3, 3, 2, 2, 1, 1, 1],
    "one large": [20] + [1] * 32,
}


@pytest.mark.parametrize("name", ["normal", "skewed"])
@pytest.mark.parametrize("sizes", SIZES)
def test_means_over_clusters_are_covered_where_the_plain_bootstrap_is_not(sizes: str, name: str):
    rng, runs = np.random.default_rng(6), 1500
    of = np.repeat(np.arange(len(SIZES[sizes])), SIZES[sizes])
    shared, own = DRAWS[name](rng, (len(SIZES[sizes]), runs)), DRAWS[name](rng, (PAIRS, runs))
    values = math.sqrt(0.5) * shared[of] + math.sqrt(0.5) * own
    assert within(covered(cluster_bootstrap_means(values, of, resamples=1000), 0.0), runs, 0.93, 0.97)
    assert covered(bootstrap_means(values, resamples=1000), 0.0) < 0.87


def test_independent_pairs_lose_nothing_by_clusters():
    of = np.repeat(np.arange(13), 4)
    values = np.random.default_rng(7).normal(size=(PAIRS, 1500))
    assert within(covered(cluster_bootstrap_means(values, of, resamples=1000), 0.0), 1500, 0.93, 0.97)


# rates


@pytest.mark.parametrize("n", [8, 20, PAIRS, 200])
def test_rates_are_covered_on_average_and_nowhere_badly(n: int):
    """Exact: the binomial distribution instead of draws. Every interval of a rate oscillates with the true rate."""
    limits = np.array([[i.low, i.high] for i in (wilson(k, n) for k in range(n + 1))])
    rates = np.linspace(0.05, 0.95, 181)
    weights = scipy_stats.binom.pmf(np.arange(n + 1), n, rates[:, None])
    cover = (weights * ((limits[:, 0] <= rates[:, None]) & (rates[:, None] <= limits[:, 1]))).sum(axis=1)
    assert 0.94 < cover.mean() < 0.96
    assert cover.min() > (0.89 if n < PAIRS else 0.91)


def _answers(rng: np.random.Generator, of: np.ndarray, share: float, rates: list[float]) -> np.ndarray:
    """Yes or no of every prompt at every rate; `share` of what decides is the cluster's, half of all is the prompt's own."""
    normal = [rng.normal(size=(2, of.max() + 1))[:, of], rng.normal(size=(2, len(of)))]
    both = [np.stack([x[0], math.sqrt(0.5) * (x[0] + x[1])]) for x in normal]  # of two rates, correlated by .7
    score = math.sqrt(share) * both[0] + math.sqrt(1 - share) * both[1]
    return (score[: len(rates)] < scipy_stats.norm.ppf(rates)[:, None]).astype(float)


@pytest.mark.parametrize("share", [0.0, 0.9])
@pytest.mark.parametrize("sizes", ["equal", "toy-like", "unequal"])
def test_rates_and_changes_over_clusters_are_covered(sizes: str, share: float):
    rng, runs = np.random.default_rng(15), 300
    of = np.repeat(np.arange(len(SIZES[sizes])), SIZES[sizes])
    for old, new in ((0.5, 0.5), (0.8, 0.5), (0.95, 0.8)):
        drawn = [_answers(rng, of, share, [old, new]) for _ in range(runs)]
        rates = covered([rate(x[0], of) for x in drawn], old)
        changes = covered([paired_change(x[0], x[1], of) for x in drawn], new - old)
        assert within(rates, runs, 0.93, 0.99), (old, rates)
        assert within(changes, runs, 0.94, 0.99), (old, new, changes)
        if share == 0.9 and sizes != "toy-like":
            assert covered([wilson(int(x[0].sum()), len(of)) for x in drawn], old) < 0.9
            assert covered([paired_change(x[0], x[1]) for x in drawn], new - old) < 0.9


# separation and effect sizes


@pytest.mark.parametrize("sizes", [(15, 30), (PAIRS, PAIRS), (90, 14)])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_areas_are_covered(sizes: tuple[int, int], spread: float):
    rng, runs = np.random.default_rng(8), 600
    for true in (0.5, 0.8, 0.95, 0.98):
        shift = math.sqrt(1 + spread**2) * scipy_stats.norm.ppf(true)
        a, b = rng.normal(shift, spread, (runs, sizes[0])), rng.normal(size=(runs, sizes[1]))
        share = covered([auroc(x, y) for x, y in zip(a, b, strict=True)], true)
        assert within(share, runs, 0.93, 0.98 if true < 0.9 else 0.995), (true, share)


def test_areas_over_pairs_are_covered_where_independent_scores_are_too_wide():
    """Half of the variance is the pair's, in both its scores alike: 52 clean and 52 corrupt prompts."""
    rng, runs, of = np.random.default_rng(16), 600, range(PAIRS)
    for true in (0.5, 0.8):
        shift = math.sqrt(2) * scipy_stats.norm.ppf(true)
        pair, own = rng.normal(size=(runs, PAIRS)), rng.normal(size=(2, runs, PAIRS))
        a, b = shift + math.sqrt(0.5) * (pair + own[0]), math.sqrt(0.5) * (pair + own[1])
        share = covered([auroc(x, y, clusters=(of, of)) for x, y in zip(a, b, strict=True)], true)
        plain = covered([auroc(x, y) for x, y in zip(a, b, strict=True)], true)
        assert within(share, runs, 0.93, 0.97), (true, share)
        assert plain > 0.975


@pytest.mark.parametrize("sizes", ["equal", "unequal"])
@pytest.mark.parametrize("shared", [False, True])
def test_areas_over_templates_are_covered_where_independent_scores_are_not(sizes: str, *, shared: bool):
    """Half of the variance is the template's, of either side's scores alone or of the two together."""
    rng, runs = np.random.default_rng(17), 500
    of = np.repeat(np.arange(13), SIZES[sizes])
    for true in (0.5, 0.8, 0.95):
        shift, found, plain = math.sqrt(2) * scipy_stats.norm.ppf(true), [], []
        for _ in range(runs):
            first, second = rng.normal(size=(2, 13))
            second = -first if shared else second  # a template that raises one side lowers the other
            a = shift + math.sqrt(0.5) * (first[of] + rng.normal(size=PAIRS))
            b = math.sqrt(0.5) * (second[of] + rng.normal(size=PAIRS))
            found.append(auroc(a, b, clusters=(of, of)))
            plain.append(auroc(a, b))
        assert within(covered(found, true), runs, 0.93, 0.995 if true < 0.9 else 1.0), true
        assert covered(plain, true) < (0.88 if true < 0.9 else 0.94)


def test_areas_over_clusters_of_any_make_up_are_covered():
    """Two scores in each of 52 clusters, each a positive or a negative by chance."""
    rng, runs, of = np.random.default_rng(18), 600, np.repeat(np.arange(PAIRS), 2)
    for true in (0.5, 0.8):
        shift, found = math.sqrt(2) * scipy_stats.norm.ppf(true), []
        for _ in range(runs):
            positive = rng.random(len(of)) < 0.5
            x = shift * positive + math.sqrt(0.5) * (rng.normal(size=PAIRS)[of] + rng.normal(size=len(of)))
            found.append(auroc(x[positive], x[~positive], clusters=(of[positive], of[~positive])))
        assert within(covered(found, true), runs, 0.93, 0.98), true


def test_areas_of_few_scores_err_to_the_wide_side():
    rng, runs = np.random.default_rng(9), 600
    for true in (0.5, 0.8):
        shift = math.sqrt(2) * scipy_stats.norm.ppf(true)
        found = [auroc(rng.normal(shift, 1, 8), rng.normal(size=8)) for _ in range(runs)]
        assert within(covered(found, true), runs, 0.96, 0.99)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(("true", "n"), [(0.0, PAIRS), (0.5, PAIRS), (1.0, PAIRS), (0.5, 12), (1.0, 24)])
def test_standardised_differences_are_covered(name: str, true: float, n: int):
    rng, runs = np.random.default_rng(10), 500
    pairs = [cohens_d_paired(true + DRAWS[name](rng, n)) for _ in range(runs)]
    sets = [cohens_d(true + DRAWS[name](rng, n), DRAWS[name](rng, n)) for _ in range(runs)]
    high = 0.97 if n == PAIRS else 0.99
    assert within(covered(pairs, true), runs, 0.93, high)
    assert within(covered(sets, true), runs, 0.93, high)


def test_the_textbook_interval_of_d_fails_where_values_are_skewed():
    """Why the limits are the jackknife's: noncentral t, exact for normal values, is no more than a guess for others."""
    rng, n, runs = np.random.default_rng(11), PAIRS, 1000
    t = []
    for _ in range(runs):
        x = 1 + DRAWS["left"](rng, n)
        t.append(math.sqrt(n) * x.mean() / x.std(ddof=1))
    place = scipy_stats.nct.cdf(t, n - 1, math.sqrt(n))
    assert np.mean((place > 0.025) & (place < 0.975)) < 0.8


def test_hedges_correction_removes_the_bias_of_small_sets():
    rng = np.random.default_rng(12)
    found = [cohens_d_paired(rng.normal(1.0, 1, 6)).estimate for _ in range(4000)]
    raw = [x.mean() / x.std(ddof=1) for x in rng.normal(1.0, 1, (4000, 6))]
    error = 3 * np.std(found) / math.sqrt(4000)
    assert np.mean(found) == pytest.approx(1.0, abs=error)
    assert np.mean(raw) > 1.0 + 2 * error


def test_rank_correlations_are_covered():
    rng, runs = np.random.default_rng(13), 400
    for name, shift in (("normal", 0.5), ("heavy", 1.5), ("skewed", 0.4), ("left", 1.0)):
        x, y = (shift + DRAWS[name](draw, 400_000) for draw in (np.random.default_rng(0), np.random.default_rng(1)))
        for n, low, high in ((PAIRS, 0.93, 0.98), (24, 0.93, 0.985), (8, 0.93, 1.0)):
            # its mean over samples of n: every value's own sign, and the signs of sums of two
            true = float((2 * np.sign(x).mean() + (n - 1) * np.sign(x + y).mean()) / (n + 1))
            found = [rank_biserial_paired(shift + DRAWS[name](rng, n)) for _ in range(runs)]
            share = covered(found, true)
            assert within(share, runs, low, high), (n, name, shift, share)


def test_rank_correlations_of_two_sets_are_covered_like_areas():
    rng, runs = np.random.default_rng(14), 600
    shift = math.sqrt(2) * scipy_stats.norm.ppf(0.7)
    found = [rank_biserial(rng.normal(shift, 1, PAIRS), rng.normal(size=PAIRS)) for _ in range(runs)]
    assert within(covered(found, 0.4), runs, 0.93, 0.97)
