"""How far two classes lie apart along a direction that did not see the prompt: held-out projections, and their Cohen's d.

A prompt is projected on the direction of the folds without it, from the midpoint of their two class means. Folds are
dealt in turn within each class, so that both prompts of a pair (`InstructionTokens.from_pairs`) share one.

The projections of different folds are not independent, because each fold's prompts made the directions of the others: an
interval that takes them as independent is too narrow (√2 times where noise makes the direction). So d has the jackknife
over prompts of the whole procedure, directions included.
"""

from __future__ import annotations

from math import exp, lgamma, sqrt
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy import special
from torch import Tensor

from circuits.engine.contrast import weights
from circuits.errors import CircuitError


def folds_of(of: Bool[Tensor, " prompt"], folds: int) -> Int[Tensor, " prompt"]:
    """The fold of each prompt, dealt in turn within each class. Raises CircuitError for fewer than two folds."""
    most = int(min(of.sum(), (~of).sum()))
    if not 2 <= folds <= most:
        raise CircuitError(f"{folds} folds for classes of {most} prompts and more; choose 2 to {most}")
    rank = torch.where(of, of.long().cumsum(0), (~of).long().cumsum(0)) - 1
    return rank % folds


def projected(
    products: Float[Tensor, "layer prompt prompt"], of: Bool[Tensor, " prompt"], fold: Int[Tensor, " prompt"] | None,
    used: Bool[Tensor, " prompt"] | None = None,
) -> Float[Tensor, "prompt layer"]:  # fmt: skip
    """Every prompt on the unit direction of the other folds, from the midpoint of their means; without folds on that of all.

    Directions are made from the prompts `used`, all of them by default.

    NaN (or worse) at layers without a direction: mask them.
    """
    used = torch.ones_like(of) if used is None else used
    fold = torch.zeros(len(of), dtype=torch.long) if fold is None else fold
    several = int(fold.max()) > 0
    found = torch.empty(len(of), products.shape[0], dtype=torch.double)
    for f in range(int(fold.max()) + 1):
        here = fold == f
        w = weights(of, used & ~here if several else used)
        onto = torch.einsum("lpq,q->lp", products, w)
        middle = onto @ (w.abs() / 2)
        length = torch.einsum("p,lp->l", w, onto).clamp(min=0).sqrt()
        found[here] = ((onto - middle[:, None]) / length[:, None]).T[here]
    return found


def separation(values: Float[Tensor, "*batch prompt"], of: Bool[Tensor, " prompt"]) -> Float[Tensor, "*batch"]:
    """Cohen's d with Hedges' correction, as `stats.cohens_d`, of many at once; NaN where nothing varies."""
    a, b = values[..., of].double(), values[..., ~of].double()
    df = a.shape[-1] + b.shape[-1] - 2
    squares = ((a - a.mean(-1, keepdim=True)) ** 2).sum(-1) + ((b - b.mean(-1, keepdim=True)) ** 2).sum(-1)
    correction = exp(lgamma(df / 2) - lgamma((df - 1) / 2)) / sqrt(df / 2)
    pooled, gap = (squares / df).sqrt(), a.mean(-1) - b.mean(-1)
    return torch.where(pooled > 1e-12 * gap.abs(), correction * gap / pooled, torch.nan)


def held_out_d(
    products: Float[Tensor, "layer prompt prompt"], of: Bool[Tensor, " prompt"], fold: Int[Tensor, " prompt"],
    *, level: float = 0.95,
) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"], Float[Tensor, " layer"]]:  # fmt: skip
    """Cohen's d of the held-out projections and its limits, d ± t·SE with the jackknife's standard error.

    Measured where 95 % is claimed, for normal values (24 and 80 prompts, 30 and 300 dimensions, d from 0 to 7): 97 to 100 %,
    most where noise makes the direction, because there the jackknife overstates the variance. Independent projections'
    (`stats.cohens_d`): 76 to 93 %.
    """
    d = separation(projected(products, of, fold).T, of)
    error, parts = torch.zeros_like(d), list[tuple[Tensor, int]]()
    for which in (of, ~of):
        without: list[Tensor] = []
        for i in which.nonzero()[:, 0].tolist():
            kept = torch.ones_like(of)
            kept[i] = False
            values = projected(products, of, fold, kept)[kept].T
            without.append(separation(values, of[kept]))
        w = torch.stack(without)
        n = len(w)
        parts.append(((n - 1) / n * ((w - w.mean(0)) ** 2).sum(0), n))
        error = error + parts[-1][0]
    df: Any = error**2 / (parts[0][0] ** 2 / (parts[0][1] - 1) + parts[1][0] ** 2 / (parts[1][1] - 1))
    half = torch.from_numpy(special.stdtrit(df.numpy(), 0.5 + level / 2)) * error.sqrt()
    return d, d - half, d + half
