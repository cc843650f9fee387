"""How far classes lie apart: silhouette and leave-one-out accuracy of the nearest mean, of many labellings at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from circuits.measure.classes.activations import Array, Labels


def silhouettes(x: Array, labels: Labels, n_classes: int) -> Array:
    """Mean silhouette [sample] of points [prompt, size] under labels [sample, prompt]; Euclidean distances.

    (b − a)/max(a, b) of every point: a is its mean distance to the others of its class, b to the nearest other class.
    Source: Rousseeuw 1987.
    """
    apart = _distances(x)
    chosen = _one_hot(labels, n_classes)  # [sample, prompt, class]
    sizes = chosen.sum(axis=1, keepdims=True)
    totals = apart @ chosen
    own = (totals * chosen).sum(-1) / ((sizes * chosen).sum(-1) - 1)
    other = np.where(chosen > 0, np.inf, totals / sizes).min(axis=-1)
    largest = np.maximum(own, other)
    return np.where(largest > 0, (other - own) / np.where(largest > 0, largest, 1.0), 0.0).mean(axis=-1)


def nearest_mean(x: Array, labels: Labels, n_classes: int) -> NDArray[np.bool_]:
    """Whether each point is nearest to the mean of its own class, itself left out of that mean; [sample, prompt].

    Points [prompt, size], labels [sample, prompt]. A tie goes against the point.
    """
    gram = x @ x.T
    chosen = _one_hot(labels, n_classes)
    sizes = np.broadcast_to(chosen.sum(axis=1, keepdims=True), chosen.shape)
    with_sums = gram @ chosen  # ⟨x, sum of each class⟩
    squares = np.broadcast_to((with_sums * chosen).sum(axis=1, keepdims=True), chosen.shape)
    own = np.diag(gram)[:, None]
    left = sizes - chosen
    product = (with_sums - chosen * own) / left
    square = (squares - chosen * (2 * with_sums - own)) / left**2
    distance = square - 2 * product  # ‖x‖² is the same for all classes
    mine = (distance * chosen).sum(-1)
    return mine < np.where(chosen > 0, np.inf, distance).min(axis=-1)


def _distances(x: Array) -> Array:
    gram = (x - x.mean(axis=0)) @ (x - x.mean(axis=0)).T
    own = np.diag(gram)
    squared = own[:, None] + own - 2 * gram
    np.fill_diagonal(squared, 0.0)
    return np.sqrt(np.maximum(squared, 0.0))


def _one_hot(labels: Labels, n_classes: int) -> Array:
    return (labels[..., None] == np.arange(n_classes)).astype(np.float64)
