"""Doses: one edit at one strength, and the sweeps of them that studies ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import CircuitError
from circuits.interventions import Add, Cell, Where, ablate_everywhere
from circuits.linalg import random_directions
from circuits.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Dose:
    """One edit at one strength. `layer` and `coefficient` say where it stands in its sweep, where it stands in one."""

    name: str
    cell: Cell
    layer: int | None = None
    coefficient: float | None = None
    series: str = "edit"
    """Doses of one series are compared along their coefficients."""


def coefficients(given: Any, what: str = "coefficients") -> tuple[float, ...]:
    """A list of numbers, each once and in order. Raises CircuitError for an empty list and for what is no finite number."""
    values = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    bad = [v for v in values if isinstance(v, bool) or not isinstance(v, Real) or not isfinite(v)]
    if bad or not values:
        said = f"{bad[0]!r} is not a finite number" if bad else "the list is empty"
        raise CircuitError(f"{what}: {said}\ngive one or more numbers, e.g. [0.75, 1, 1.25]")
    return tuple(sorted({float(v) for v in values}))


def ablations(
    directions: Mapping[int, Float[Tensor, " d_model"]], alphas: Sequence[float], n_layers: int,
    *, series: str = "direction",
) -> list[Dose]:  # fmt: skip
    """Ablation for the direction of each layer and every α, of everything written to the residual stream, at every position.

    Each write w becomes w − α⟨w,v⟩v, once: the stream holds 1 − α of its component. Taking it off the stream itself before
    every block is the same at α 1 alone: elsewhere what an earlier layer left is taken off again.
    """
    return [
        Dose(f"{series} of layer {layer}, α {a:g}", ablate_everywhere(v, range(n_layers), alpha=a), layer, a, series)
        for layer, v in directions.items()
        for a in coefficients(alphas, "alphas")
    ]


def random_ablations(draws: int, alphas: Sequence[float], n_layers: int, d_model: int, *, seed: int = 0) -> list[Dose]:
    """The same with random directions (an ablation has no norm to match): series `random 1`, `random 2` and so on."""
    drawn = enumerate(random_directions(draws, d_model, seed=seed), start=1)
    return [
        Dose(f"random {n}, α {a:g}", ablate_everywhere(v, range(n_layers), alpha=a), None, a, f"random {n}")
        for n, v in drawn
        for a in coefficients(alphas, "alphas")
    ]


def additions(
    vectors: Mapping[int, Float[Tensor, " d_model"]], scales: Sequence[float], *, positions: Where = "all",
    series: str = "vector",
) -> list[Dose]:  # fmt: skip
    """Scale · vector added to the residual entering the vector's layer, at its own norm times each scale."""
    lost = [layer for layer, v in vectors.items() if not bool(torch.isfinite(v).all())]
    if lost:
        raise CircuitError(f"the vector of layer {lost[0]} is not finite (undefined there?)\nleave that layer out")
    return [
        Dose(f"{series} of layer {layer}, {c:+g}", (Add(Site("resid_pre", layer), v, positions, c),), layer, c, series)
        for layer, v in vectors.items()
        for c in coefficients(scales, "scales")
    ]
