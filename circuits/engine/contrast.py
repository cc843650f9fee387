"""Differences of class means: directions, halves, draws.

A direction is a weighted sum of prompts, +1/n for each of one class and −1/m for each of the other, so that every draw
(labels shuffled, prompts resampled, halves) is a row of weights. Within a layer all lengths and inner products of such
sums follow from the Gram matrix of the prompts; in double precision, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import CircuitError
from circuits.prompts.instructions import InstructionSet

SMALL: Final = 1e-5
"""A difference of means shorter than this share of the residual's own norm is rounding, and no direction."""


def two_classes(
    instructions: InstructionSet, of: str, against: str, *, least: int
) -> tuple[Bool[Tensor, " row"], Bool[Tensor, " prompt"]]:
    """Which instructions belong to either class, and which of those are `of`; those of other labels are left out.

    Raises CircuitError for one label twice, and for fewer than `least` of either.
    """
    labels = [i.label for i in instructions]
    if of == against:
        raise CircuitError(f"{of!r} against itself has no direction; choose two labels")
    few = [f"{labels.count(label)} {label}" for label in (of, against) if labels.count(label) < least]
    if few:
        raise CircuitError(f"{instructions.name}: {' and '.join(few)} prompts; give at least {least} of each class")
    chosen = [label for label in labels if label in (of, against)]
    return torch.tensor([label in (of, against) for label in labels]), torch.tensor([label == of for label in chosen])


def weights(of: Bool[Tensor, " prompt"], used: Bool[Tensor, " prompt"] | None = None) -> Float[Tensor, " prompt"]:
    """What each prompt counts in mean(of) − mean(against), over the prompts used."""
    used = torch.ones_like(of) if used is None else used
    first, second = (of & used).double(), (~of & used).double()
    return first / first.sum() - second / second.sum()


def directions(
    resid: Float[Tensor, "prompt layer d_model"], w: Float[Tensor, " prompt"]
) -> Float[Tensor, "layer d_model"]:
    """The weighted sum of the prompts at every layer."""
    return torch.einsum("p,pld->ld", w, resid.double())


def sizes(resid: Float[Tensor, "prompt layer d_model"]) -> Float[Tensor, " layer"]:
    """Mean norm of the prompts' residual entering each block."""
    return resid.double().norm(dim=-1).mean(0)


def difference_of_means(
    resid: Float[Tensor, "prompt layer d_model"], of: Bool[Tensor, " prompt"]
) -> Float[Tensor, "layer d_model"]:
    """mean(of) − mean(against) at every layer; NaN where it is no more than rounding (`SMALL`)."""
    found = directions(resid, weights(of))
    found[found.norm(dim=-1) <= SMALL * sizes(resid)] = torch.nan
    return found


def gram(
    a: Float[Tensor, "prompt layer d_model"], b: Float[Tensor, "prompt layer d_model"]
) -> Float[Tensor, "layer prompt prompt"]:
    """⟨a_i, b_j⟩ at every layer, each from its own mean over all prompts: sums with weights that add to 0 do not see it."""
    left, right = (x.double() - x.double().mean(0) for x in (a, b))
    return torch.einsum("pld,qld->lpq", left, right)


def along(
    products: Float[Tensor, "layer prompt prompt"], w: Float[Tensor, "sample prompt"]
) -> Float[Tensor, "sample layer"]:
    """wᵀ G w of every row of weights: the inner product of the two directions they make."""
    return torch.einsum("sp,lpq,sq->sl", w, products, w)


def between(a: Float[Tensor, "layer d_model"], b: Float[Tensor, "layer d_model"]) -> Float[Tensor, "layer layer"]:
    """Cosine of every direction of the first with every one of the second; NaN where one has no length."""
    return (a / a.norm(dim=-1, keepdim=True)) @ (b / b.norm(dim=-1, keepdim=True)).T


def resamples(of: Bool[Tensor, " prompt"], draws: int, *, seed: int) -> Float[Tensor, "sample prompt"]:
    """Weights of bootstrap draws: as many prompts of each class again, with replacement."""
    rng = np.random.default_rng(seed)
    found = torch.zeros(draws, len(of), dtype=torch.double)
    for which, sign in ((of, 1.0), (~of, -1.0)):
        place = which.nonzero()[:, 0].numpy()
        counts = rng.multinomial(len(place), np.full(len(place), 1 / len(place)), size=draws)
        found[:, place] = torch.from_numpy(sign * counts / len(place))
    return found


def shuffles(of: Bool[Tensor, " prompt"], draws: int, *, seed: int) -> Iterator[Int[Tensor, " prompt"]]:
    """Permutations of the prompts: `of[p]` are labels shuffled, `fold[p]` the folds that go with them."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield torch.from_numpy(rng.permutation(len(of)))


def halves(of: Bool[Tensor, " prompt"], *, seed: int) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
    """Weights of the directions of two disjoint halves of both classes; the odd prompt of a class is left out."""
    rng = np.random.default_rng(seed)
    parts = torch.zeros(2, len(of), dtype=torch.bool)
    for which in (of, ~of):
        place = rng.permutation(which.nonzero()[:, 0].numpy())
        half = len(place) // 2
        parts[0, place[:half]] = parts[1, place[half : 2 * half]] = True
    return weights(of, parts[0]), weights(of, parts[1])
