"""Statistics on plain numbers: intervals, effect sizes, permutation tests, corrections for many cells, survival.

    bootstrap_mean(values)            a mean with its interval; `bootstrap_means` for one column per cell
    cluster_bootstrap_mean(values, …) the same where pairs share templates; `cluster_bootstrap_means`
    mean_interval(values, clusters)   either of these, by whether there are clusters; `mean_intervals`
    wilson(refused, n)                a rate with its interval; `rate(answers, clusters)` where prompts share templates
    auroc(positive, negative)         how well a score separates two sets, with its interval
    cohens_d, rank_biserial           how large a difference is, of two sets or (`_paired`) of differences
    sign_flip_test(values)            is the mean zero? `sign_flip_p` for the bare number
    permutation_test(a, b)            do two groups have the same mean? `permutation_p`
    max_t_test(values)                which cells of a whole sweep are not zero, all errors counted together; `max_t`
    benjamini_hochberg(p), holm(p)    corrections for p-values that were computed one by one
    survival(values, claim)           how often a cell keeps its claim when the pairs are drawn again

Numbers come as lists, arrays or frame columns, never as tensors. Every random draw has a seed, so that a
report says the same thing twice. A number that does not exist is an UndefinedError, not a NaN that travels
on; a `PValue` says when its pairs are too few for any p to be small.
"""

from circuits.stats.adjust import benjamini_hochberg, holm
from circuits.stats.cluster import cluster_bootstrap_mean, cluster_bootstrap_means, mean_interval, mean_intervals
from circuits.stats.effect import cohens_d, cohens_d_paired, rank_biserial, rank_biserial_paired
from circuits.stats.interval import Interval, bootstrap_mean, bootstrap_means, wilson
from circuits.stats.permutation import (
    max_t,
    max_t_test,
    permutation_p,
    permutation_test,
    sign_flip_p,
    sign_flip_test,
)
from circuits.stats.ranking import auroc
from circuits.stats.rates import rate
from circuits.stats.significance import ALPHA, PValue
from circuits.stats.stability import AmongLargest, MeanAbove, MeanAtLeast, Survival, SurvivesMaxT, survival

__all__ = [
    "ALPHA",
    "AmongLargest",
    "Interval",
    "MeanAbove",
    "MeanAtLeast",
    "PValue",
    "Survival",
    "SurvivesMaxT",
    "auroc",
    "benjamini_hochberg",
    "bootstrap_mean",
    "bootstrap_means",
    "cluster_bootstrap_mean",
    "cluster_bootstrap_means",
    "cohens_d",
    "cohens_d_paired",
    "holm",
    "max_t",
    "max_t_test",
    "mean_interval",
    "mean_intervals",
    "permutation_p",
    "permutation_test",
    "rank_biserial",
    "rank_biserial_paired",
    "rate",
    "sign_flip_p",
    "sign_flip_test",
    "survival",
    "wilson",
]
