"""Angles, the cells that set them, and the prompts they are set on.

There are two rotations, and they are not the same edit:

    aim    the in-plane part gets the absolute angle θ and keeps its length: the write-up's edit. Where it was is lost.
    turn   the in-plane part is turned by θ from where it is; made at several layers, turns add up.

At several layers only "aim" holds the angle against what the layers write.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine import read
from circuits.errors import CircuitError, SiteError
from circuits.interventions import Aim, Cell, Rotate, Where
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.token_pairs import TokenPairs
from circuits.result import Provenance
from circuits.sites import Site
from circuits.tables import of_instructions, provenance

Mode = Literal["aim", "turn"]
Layers = Literal["all"] | Iterable[int]
Prompts = InstructionTokens | TokenPairs
"""Of pairs, the clean prompts are edited."""


def checked_angles(angles: Any) -> tuple[float, ...]:
    """Degrees. Raises CircuitError for none, and for what is no list of finite numbers, saying what to give."""
    give = "give degrees, e.g. range(0, 360, 10) or [0, 90, 180, 270]"
    if isinstance(angles, str) or not isinstance(angles, Iterable):
        raise CircuitError(f"angles: {angles!r} is no list of numbers; {give}")
    found: list[float] = []
    for angle in angles:
        if isinstance(angle, bool | str) or not hasattr(angle, "__float__"):
            raise CircuitError(f"angles: {angle!r} is no number; {give}")
        degrees = float(angle)
        if not math.isfinite(degrees):
            raise CircuitError(f"angles: {degrees} is not finite; {give}")
        found.append(degrees)
    if not found:
        raise CircuitError(f"angles: none given; {give}")
    return tuple(found)


def checked_layers(model: Model, layers: str | Iterable[int]) -> tuple[int, ...]:
    """The layers entered; "all" is every one. Raises SiteError for one that does not exist, for a word, and for none."""
    if isinstance(layers, str):
        if layers != "all":
            raise SiteError(f"layers: {layers!r}; give 'all' or a list of layers")
        return tuple(range(model.shape.n_layers))
    return model.check_layers(layers)


def checked_plane(model: Model, plane: Float[Tensor, "_ _"]) -> Float[Tensor, "2 d_model"]:
    """Raises SiteError for a plane of another width, UndefinedError for rows that are not orthonormal."""
    if tuple(plane.shape) != (2, model.shape.d_model):
        raise SiteError(
            f"plane: shape {tuple(plane.shape)}; it must be two rows of {model.shape.d_model} (planes(…)[name], linalg.plane)"
        )
    return Aim(Site("resid_pre", 0), plane, 0.0).plane.float().cpu()


def rotations(
    plane: Float[Tensor, "2 d_model"], angles: Iterable[float], *, mode: Mode, layers: Iterable[int], positions: Where
) -> list[Cell]:
    """One cell per angle: the residual entering each of `layers`. Raises CircuitError for a mode that is none."""
    kinds = {"aim": Aim, "turn": Rotate}
    if mode not in kinds:
        raise CircuitError(f"mode {mode!r}; 'aim' sets the angle of the in-plane part, 'turn' adds to it")
    entered = [Site("resid_pre", layer) for layer in layers]
    return [tuple(kinds[mode](site, plane, angle, positions) for site in entered) for angle in angles]


def as_pairs(prompts: Prompts) -> TokenPairs:
    """The form in which the engine takes prompts."""
    return prompts if isinstance(prompts, TokenPairs) else prompts.beside_themselves()


def labels_of(prompts: Prompts) -> tuple[str, ...]:
    """The label of every prompt; of pairs, whose clean prompts are run, "clean"."""
    if isinstance(prompts, TokenPairs):
        return ("clean",) * prompts.n_pairs
    return tuple(i.label for i in prompts.instructions)


def texts_of(prompts: Prompts) -> tuple[str, ...]:
    """The bare text of every prompt."""
    if isinstance(prompts, TokenPairs):
        return tuple(pair.clean for pair in prompts.pairs)
    return tuple(i.text for i in prompts.instructions)


def about(model: Model, prompts: Prompts, metric: Metric, certificate: str) -> Provenance:
    """Where a number comes from; instructions without pairs are independent draws."""
    if isinstance(prompts, TokenPairs):
        return provenance(model, prompts, metric, certificate)
    return of_instructions(model, prompts, metric, certificate)


def entering(model: Model, prompts: Prompts, layers: Iterable[int]) -> Float[Tensor, "layer prompt d_model"]:
    """The unedited residual entering each layer, at the last position; fp32, on the CPU."""
    sites = [Site("resid_pre", layer) for layer in layers]
    seen = read(model, as_pairs(prompts), (), sites, columns=[-1]).seen
    return torch.stack([seen[site][:, 0] for site in sites])
