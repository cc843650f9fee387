"""Inner products of differences of class means, with the sampling noise in them and without; numbers only.

Everything a resampling needs is in the Gram matrix of the prompts: a class mean is a row of weights w, and the inner
product of two means is wᵀGw'. For one and the same class it holds tr(Σ)·Σw² of noise, where w sums to 1; with
tr(Σ) estimated as (Σ wᵢGᵢᵢ − wᵀGw)/(1 − Σw²) what is left has no bias, and two draws of one prompt count as one prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.intp]
"""The class of each prompt, by number."""
_AT_ONCE: Final = 1 << 21
"""Floats of weights held at once (16 MB)."""


@final
@dataclass(frozen=True, eq=False)
class Inner:
    """⟨dᵢ, dⱼ⟩ of the two directions, [sample, layer, 2, 2]: as computed, and without its noise."""

    plain: Array
    unbiased: Array

    @property
    def cosine(self) -> Array:
        """[sample, layer]; NaN where a norm is zero."""
        return cosine(self.plain)

    @property
    def corrected(self) -> Array:
        """[sample, layer]; NaN where a squared norm without its noise is not positive. Noise may carry it beyond ±1."""
        return cosine(self.unbiased)


def cosine(inner: Array) -> Array:
    """[…, 2, 2] → […]."""
    product = np.maximum(inner[..., 0, 0], 0.0) * np.maximum(inner[..., 1, 1], 0.0)
    return inner[..., 0, 1] / np.sqrt(np.where(product > 0, product, np.nan))


def gram(activations: Array) -> Array:
    """[prompt, layer, d_model] → [layer, prompt, prompt], around the mean of all prompts."""
    by_layer = np.moveaxis(activations - activations.mean(axis=0), 1, 0)
    return by_layer @ np.swapaxes(by_layer, 1, 2)


def inner(grams: Array, weights: Array, signs: Array) -> Inner:
    """Of directions `signs` [2, class] over class means `weights` [sample, class, prompt]."""
    spread = (weights**2).sum(-1)  # [sample, class]
    plain, unbiased = (np.empty((len(weights), len(grams), 2, 2)) for _ in range(2))
    with np.errstate(divide="ignore", invalid="ignore"):  # a class of one prompt drawn n times has no spread: NaN, kept
        for layer, g in enumerate(grams):
            means = weights @ g @ np.swapaxes(weights, 1, 2)  # [sample, class, class]
            own = np.einsum("scc->sc", means)
            noise = spread * (weights @ np.diag(g) - own) / np.where(spread < 1 - 1e-9, 1 - spread, np.nan)
            plain[:, layer] = signs @ means @ signs.T
            unbiased[:, layer] = plain[:, layer] - np.einsum("ac,sc,bc->sab", signs, noise, signs)
    return Inner(plain, unbiased)


def resampled(grams: Array, draw: Callable[[int], Array], signs: Array, samples: int) -> Inner:
    """`inner` of `samples` draws of weights; `draw(n)` gives n of them, [n, class, prompt]."""
    parts = [inner(grams, draw(n), signs) for n in _pieces(samples, signs.shape[1] * grams.shape[1])]
    return Inner(np.concatenate([p.plain for p in parts]), np.concatenate([p.unbiased for p in parts]))


def _pieces(samples: int, size: int) -> Iterator[int]:
    step = max(1, _AT_ONCE // size)
    for start in range(0, samples, step):
        yield min(step, samples - start)


def means(labels: Labels, n_classes: int) -> Array:
    """Weights of the class means, [sample, class, prompt], of labels [sample, prompt]; −1 is in no class."""
    chosen = (labels[:, None] == np.arange(n_classes)[:, None]).astype(np.float64)
    return chosen / chosen.sum(-1, keepdims=True)


def drawn_again(labels: Labels, n_classes: int, rng: np.random.Generator) -> Callable[[int], Array]:
    """Prompts drawn with replacement within their classes."""
    members = [np.flatnonzero(labels == c) for c in range(n_classes)]

    def draw(n: int) -> Array:
        weights = np.zeros((n, n_classes, len(labels)))
        for c, there in enumerate(members):
            weights[:, c, there] = rng.multinomial(len(there), np.full(len(there), 1 / len(there)), size=n) / len(there)
        return weights

    return draw


def relabelled(labels: Labels, n_classes: int, among: Labels, rng: np.random.Generator) -> Callable[[int], Array]:
    """Labels shuffled among the prompts of the classes `among`."""
    here = np.flatnonzero(np.isin(labels, among))

    def draw(n: int) -> Array:
        shuffled = np.tile(labels, (n, 1))
        shuffled[:, here] = rng.permuted(shuffled[:, here], axis=1)
        return means(shuffled, n_classes)

    return draw


def halved(labels: Labels, signs: Array, rng: np.random.Generator) -> tuple[Callable[[int], Array], Array]:
    """Weights and signs where each class that both directions use is two: a random half for each of them."""
    n_classes = signs.shape[1]
    shared = np.flatnonzero((signs != 0).all(axis=0))
    apart = np.concatenate([signs, np.zeros((2, len(shared)))], axis=1)
    for k, c in enumerate(shared):
        apart[1, n_classes + k], apart[1, c] = signs[1, c], 0.0

    def draw(n: int) -> Array:
        new = np.tile(labels, (n, 1))
        for k, c in enumerate(shared):
            there = np.flatnonzero(labels == c)
            order = rng.permuted(np.tile(there, (n, 1)), axis=1)[:, : len(there) // 2]
            np.put_along_axis(new, order, n_classes + k, axis=1)
        return means(new, apart.shape[1])

    return draw, apart
