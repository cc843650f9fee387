"""Interventions are values: what to do, where, at which positions. They carry no behaviour.

    Patch(head(9, 6), "last")                       the other run's activation
    Ablate(Site("mlp_out", 3), direction)           a ← a − α⟨a,v⟩v
    Add(Site("resid_pre", 10), vector, scale=2)     a ← a + scale·vector
    Clamp(Site("resid_pre", 10), direction, 6.0)    a ← a + (value − ⟨a,v⟩)v
    Rotate(Site("resid_pre", 10), plane, degrees)   the part of a in the plane, turned

A cell is a tuple of interventions that act together; a sweep is a list of cells. The engine gives them meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from circuits.errors import SiteError, UndefinedError
from circuits.prompts.align import Positions
from circuits.sites import Site

EDITABLE = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z")
"""Site kinds that can be overwritten; the others are read."""


@final
@dataclass(frozen=True)
class Columns:
    """Columns of the left-padded axis, in every prompt that reaches that far; what a sweep over all positions uses."""

    columns: tuple[int, ...]


Where = Positions | Columns


def _check_site(site: Site) -> None:
    if site.kind not in EDITABLE:
        raise SiteError(f"{site.label} can be read but not edited; editable: {', '.join(EDITABLE)}")


def unit(direction: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """The direction at norm 1. Raises UndefinedError where the norm is (nearly) zero or not finite."""
    norm = direction.norm()
    if not norm.isfinite() or norm < 1e-8:
        raise UndefinedError(
            f"a direction of norm {norm.item():.1e} has no unit vector; choose another layer or position"
        )
    return direction / norm


@final
@dataclass(frozen=True, eq=False)
class Patch:
    """Replace by the source run's activation, or by `value` where one is given (broadcast over pairs)."""

    site: Site
    positions: Where = "all"
    value: Float[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        _check_site(self.site)


@final
@dataclass(frozen=True, eq=False)
class Ablate:
    """Remove `alpha` of the component along a direction (normalised here)."""

    site: Site
    direction: Float[Tensor, " d_model"]
    positions: Where = "all"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_site(self.site)
        object.__setattr__(self, "direction", unit(self.direction))


@final
@dataclass(frozen=True, eq=False)
class Add:
    """Add `scale` times a vector, at the vector's own norm."""

    site: Site
    vector: Float[Tensor, " d_model"]
    positions: Where = "all"
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_site(self.site)


@final
@dataclass(frozen=True, eq=False)
class Clamp:
    """Set the component along a direction (normalised here) to `value`."""

    site: Site
    direction: Float[Tensor, " d_model"]
    value: float
    positions: Where = "all"

    def __post_init__(self) -> None:
        _check_site(self.site)
        object.__setattr__(self, "direction", unit(self.direction))


@final
@dataclass(frozen=True, eq=False)
class Rotate:
    """Turn the part of the activation that lies in a plane (two orthonormal rows) by `degrees`, first row to second."""

    site: Site
    plane: Float[Tensor, "2 d_model"]
    degrees: float
    positions: Where = "all"

    def __post_init__(self) -> None:
        _check_site(self.site)
        gram = self.plane @ self.plane.T
        if (gram - gram.new_tensor([[1.0, 0.0], [0.0, 1.0]])).abs().max() > 1e-4:
            raise UndefinedError("a plane is two orthonormal rows; orthonormalise them first (linalg.plane)")


Intervention = Patch | Ablate | Add | Clamp | Rotate
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
