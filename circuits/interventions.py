"""Interventions are values: what to do, where, at which positions. They carry no behaviour.

    Patch(head(9, 6), "last")                       the other run's activation
    Patch(Site("pattern", 9, 6), "last", keys="subject")    one cell of the attention pattern
    Patch(Site("mlp_out", 3), value=zeros)          a given value: zero, a mean, another prompt's
    Ablate(Site("mlp_out", 3), direction)           a ← a − α⟨a,v⟩v
    Add(Site("resid_pre", 10), vector, scale=2)     a ← a + scale·vector
    Clamp(Site("resid_pre", 10), direction, 6.0)    a ← a + (value − ⟨a,v⟩)v
    Rotate(Site("resid_pre", 10), plane, degrees)   the part of a in the plane, turned by an angle
    Aim(Site("resid_pre", 10), plane, degrees)      the part of a in the plane, turned to an angle

Directions lie along a site's last axis: d_model for the residual stream, d_head for a head's z, q, k and v. Whatever
is a vector may be one per pair, [pair, d], and whatever is a number may be one per pair, [pair]; the value of a Patch, which
has positions, is broadcast to [pair, pos, d].

A cell is a tuple of interventions that act together; a sweep is a list of cells. The engine gives them meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import SiteError, UndefinedError
from circuits.linalg import unit
from circuits.prompts.align import Positions
from circuits.sites import Site


@final
@dataclass(frozen=True)
class Columns:
    """Columns of the left-padded axis, in every prompt that reaches that far; what a sweep over all positions uses."""

    columns: tuple[int, ...]


Where = Positions | Columns
Vector = Float[Tensor, " size"] | Float[Tensor, "pair size"]
"""Along a site's last axis; one for all pairs, or one for each."""
Number = float | Float[Tensor, ""] | Float[Tensor, " pair"]
"""One for all pairs, or one for each."""
Plane = Float[Tensor, "2 size"] | Float[Tensor, "pair 2 size"]
"""Two orthonormal rows; one plane for all pairs, or one for each."""


def _orthonormal(plane: Plane) -> None:
    """Raise UndefinedError for rows that span no plane, or are not orthonormal."""
    gram = plane @ plane.mT
    if not (gram - torch.eye(2).to(gram)).abs().max() <= 1e-4:
        raise UndefinedError("a plane is two orthonormal rows; orthonormalise them first (linalg.plane)")


def _check(site: Site) -> None:
    """Directions need an axis of more than one value to lie in."""
    if site.kind == "pattern":
        raise SiteError(f"{site.label}: an attention row has no directions; only Patch edits a pattern")
    if site.kind == "post" and site.index is not None:
        raise SiteError(f"{site.label}: one neuron is one number; edit it by Patch with a value, or give all neurons")


@final
@dataclass(frozen=True, eq=False)
class Patch:
    """Replace by the source run's activation, or by `value` where one is given.

    A value is broadcast to [pair, pos, …]: the site's axes after these, [head, d_head] say, or [d_head] for one head; one
    neuron keeps an axis of length one, and a pattern's last axis is the column attended to.
    """

    site: Site
    positions: Where = "all"
    value: Float[Tensor, ...] | None = None
    keys: Where | None = None
    """Of a pattern: which keys of the rows at `positions`; None replaces whole rows. Nothing is renormalised.

    Keys after a row's own column are left alone: they cannot be attended to."""

    def __post_init__(self) -> None:
        if self.keys is not None and self.site.kind != "pattern":
            raise SiteError(f"{self.site.label}: only a pattern has keys")


@final
@dataclass(frozen=True, eq=False)
class Ablate:
    """Remove `alpha` of the component along a direction (normalised here)."""

    site: Site
    direction: Vector
    positions: Where = "all"
    alpha: Number = 1.0

    def __post_init__(self) -> None:
        _check(self.site)
        object.__setattr__(self, "direction", unit(self.direction))


@final
@dataclass(frozen=True, eq=False)
class Add:
    """Add `scale` times a vector, at the vector's own norm."""

    site: Site
    vector: Vector
    positions: Where = "all"
    scale: Number = 1.0

    def __post_init__(self) -> None:
        _check(self.site)


@final
@dataclass(frozen=True, eq=False)
class Clamp:
    """Set the component along a direction (normalised here) to `value`."""

    site: Site
    direction: Vector
    value: Number
    positions: Where = "all"

    def __post_init__(self) -> None:
        _check(self.site)
        object.__setattr__(self, "direction", unit(self.direction))


@final
@dataclass(frozen=True, eq=False)
class Rotate:
    """Turn the part of the activation that lies in a plane (two orthonormal rows) by `degrees`, first row to second.

    Turns add up: made at two layers, what the first has turned the second turns on.
    """

    site: Site
    plane: Plane
    degrees: Number
    positions: Where = "all"

    def __post_init__(self) -> None:
        _check(self.site)
        _orthonormal(self.plane)


@final
@dataclass(frozen=True, eq=False)
class Aim:
    """Turn the part of the activation that lies in a plane to the angle `degrees`: 0 is the first row, 90 the second.

    Its length is kept, whatever its angle was: (x, y) ← √(x² + y²)·(cos, sin). A part of length zero has no angle and
    stays. Made twice it is as if made once.
    """

    site: Site
    plane: Plane
    degrees: Number
    positions: Where = "all"

    def __post_init__(self) -> None:
        _check(self.site)
        _orthonormal(self.plane)


Intervention = Patch | Ablate | Add | Clamp | Rotate | Aim
Cell = tuple[Intervention, ...]


def ablate_everywhere(direction: Float[Tensor, " d_model"], layers: Iterable[int], *, alpha: float = 1.0) -> Cell:
    """Ablate a direction from everything written to the residual stream, at every position: the intervened model.

    Once from what enters the first of `layers`, then from each attention and MLP output: given all layers, none ever
    holds it. Raises SiteError without layers.
    """
    chosen = list(layers)
    if not chosen:
        raise SiteError("no layers to ablate in; give range(model.shape.n_layers)")
    first = Ablate(Site("resid_pre", chosen[0]), direction, alpha=alpha)
    written = [
        Ablate(Site(kind, layer), direction, alpha=alpha) for layer in chosen for kind in ("attn_out", "mlp_out")
    ]
    return (first, *written)
