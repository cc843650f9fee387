"""Activations of labelled prompts at the last position, scaled by a named convention, and their principal components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray

from circuits.engine.collect import last_residuals
from circuits.errors import CircuitError, UndefinedError
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Provenance
from circuits.tables import of_instructions

Array = NDArray[np.float64]
Labels = NDArray[np.intp]
"""The class of each prompt, by number."""
Scaling = Literal["centred", "raw", "unit norm"]
"""centred: the mean of all prompts taken off; raw: components around zero, the first of which is mostly that mean; unit
norm: every activation divided by its norm first, then centred."""
SCALINGS: Final = ("centred", "raw", "unit norm")
FEWEST: Final = 5
"""Prompts of a class: with fewer, neither separation nor a mean says much."""
_SMALL: Final = 1e-3
"""Activations that differ by less than this share of their norm are one activation."""


@final
@dataclass(frozen=True, eq=False)
class Labelled:
    """Scaled activations [prompt, layer, d_model] with their classes, and where they came from."""

    x: Array
    of_prompt: Labels
    labels: tuple[str, ...]
    text: tuple[str, ...]
    scaling: Scaling
    defined: NDArray[np.bool_]
    """Of each layer: whether its activations differ at all."""
    about: Provenance

    @property
    def undefined(self) -> tuple[int, ...]:
        """Layers whose activations are one and the same in all prompts."""
        return tuple(np.flatnonzero(~self.defined).tolist())


def require_scaling(scaling: str) -> None:
    """Raise CircuitError for a convention that is none."""
    if scaling not in SCALINGS:
        raise CircuitError(f"no scaling called {scaling!r}\nwrite one of: {', '.join(SCALINGS)}")


def labelled(model: Model, prompts: InstructionTokens, labels: Sequence[str], scaling: Scaling) -> Labelled:
    """One forward pass over the prompts of these classes.

    Raises CircuitError, before it, for a scaling that is none, for fewer than two classes and for a class with fewer than
    five prompts; UndefinedError where all prompts have one activation at every layer.
    """
    require_scaling(scaling)
    counts = {label: int(prompts.labelled(label).sum()) for label in labels}
    few = [f"{label}: {n}" for label, n in counts.items() if n < FEWEST]
    if few or len(counts) < 2:
        raise CircuitError(
            f"{prompts.instructions.name}: too few prompts of a class ({', '.join(few) or 'one class alone'})\n"
            f"give {FEWEST} of each of two classes or more"
        )
    kept = prompts.only(torch.tensor([i.label in counts for i in prompts.instructions]))
    about = of_instructions(model, kept)
    x = last_residuals(model, kept).double().numpy()
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    apart = np.linalg.norm(x - x.mean(axis=0), axis=-1).max(axis=0)
    defined = apart > _SMALL * norm.mean(axis=(0, 2))
    if not defined.any():
        raise UndefinedError(
            f"{kept.instructions.name}: the prompts have one activation at the last position of every layer: no classes\n"
            "check that the instructions stand in the prompts"
        )
    return Labelled(
        x=scaled(x, scaling), of_prompt=np.array([list(counts).index(i.label) for i in kept.instructions]),
        labels=tuple(counts), text=tuple(i.text for i in kept.instructions), scaling=scaling,
        defined=defined, about=about,
    )  # fmt: skip


def scaled(x: Array, scaling: Scaling) -> Array:
    """Activations [prompt, …, d_model] as a convention has them."""
    if scaling == "raw":
        return x
    if scaling == "unit norm":
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return x - x.mean(axis=0)


@final
@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of [prompt, d_model], by falling variance; those that rounding alone makes are left out."""

    scores: Array
    """[prompt, component]."""
    axes: Array
    """[component, d_model], orthonormal."""
    variance: Array
    """Share of the squared length of all activations (of their variance, where they are centred)."""


def principal(x: Array) -> Components:
    """By singular values; the sign of each component is such that its largest coordinate is positive."""
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    rank = int((s > s[0] * max(x.shape) * np.finfo(np.float64).eps).sum())
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    sign = np.sign(vh[np.arange(rank), np.abs(vh).argmax(axis=1)])
    return Components(u * s * sign, vh * sign[:, None], s**2 / (s**2).sum())
