"""Statistics on plain numbers: intervals, permutation tests, and corrections for many cells.

    bootstrap_mean(values)            a mean with its interval; `bootstrap_means` for one column per cell
    wilson(refused, n)                a rate with its interval
    auroc(positive, negative)         how well a score separates two sets, with its interval
    sign_flip_p(values)               is the mean zero?
    permutation_p(a, b)               do two groups have the same mean?
    max_t(values)                     which cells of a whole sweep are not zero, all errors counted together
    benjamini_hochberg(p), holm(p)    corrections for p-values that were computed one by one

Numbers come as lists, arrays or frame columns, never as tensors. Every random draw has a seed, so that a
report says the same thing twice. A number that does not exist is an UndefinedError, not a NaN that travels
on.
"""

from circuits.stats.adjust import benjamini_hochberg, holm
from circuits.stats.interval import Interval, bootstrap_mean, bootstrap_means, wilson
from circuits.stats.permutation import max_t, permutation_p, sign_flip_p
from circuits.stats.ranking import auroc

__all__ = [
    "Interval",
    "auroc",
    "benjamini_hochberg",
    "bootstrap_mean",
    "bootstrap_means",
    "holm",
    "max_t",
    "permutation_p",
    "sign_flip_p",
    "wilson",
]
