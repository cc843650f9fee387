"""The formulas: what each intervention makes of a vector, with one parameter for all pairs or one for each."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import fields
from typing import Any, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import SiteError
from circuits.interventions import Ablate, Add, Aim, Clamp, Intervention, Number, Patch, Rotate
from circuits.model import Model

VECTORS = {"direction": 1, "vector": 1, "plane": 2}
"""Parameters that are vectors, with their axes; one more in front, and they are one per pair."""


def parameters(i: Intervention) -> dict[str, Tensor]:
    """The tensors among an intervention's parameters (not the value of a Patch, which has positions)."""
    found = {f.name: getattr(i, f.name) for f in fields(i)}
    return {name: t for name, t in found.items() if isinstance(t, Tensor) and not isinstance(i, Patch)}


def fits(i: Intervention, size: int, n_pairs: int) -> None:
    """Raise SiteError naming the parameter whose shape fits neither the site nor the pairs."""
    for name, t in parameters(i).items():
        axes = VECTORS.get(name, 0)
        one = {0: (), 1: (size,), 2: (2, size)}[axes]
        if tuple(t.shape) not in (one, (n_pairs, *one)):
            raise SiteError(
                f"{i.site.label}: {name} has shape {tuple(t.shape)}; it must be {one}, or {(n_pairs, *one)} for one per pair"
            )
        if not t.isfinite().all():
            raise SiteError(f"{i.site.label}: {name} is not finite")


def moved(i: Intervention, model: Model) -> Intervention:
    """The same intervention with its tensors on the model's device and in its dtype."""
    return _replaced(i, {name: t.to(model.device, model.dtype) for name, t in parameters(i).items()})


def of_pair(i: Intervention, pair: int | list[int]) -> Intervention:
    """The same intervention with every parameter that is one per pair replaced by that pair's, or those pairs'."""
    return _replaced(i, {name: t[pair] for name, t in parameters(i).items() if t.ndim > VECTORS.get(name, 0)})


def per_pair(i: Intervention, n_pairs: int) -> dict[str, Tensor]:
    """Every parameter with the pairs as its first axis, whether it was given once or for each."""
    found: dict[str, Tensor] = {}
    for f in fields(i):
        given = getattr(i, f.name)
        if isinstance(i, Patch) or not isinstance(given, int | float | Tensor):
            continue
        t = torch.as_tensor(given, dtype=torch.get_default_dtype()) if not isinstance(given, Tensor) else given
        found[f.name] = t if t.ndim > VECTORS.get(f.name, 0) else t.expand(n_pairs, *t.shape)
    return found


def _replaced(i: Any, changed: dict[str, Tensor]) -> Any:
    """A copy with other tensors, not checked again: what was a unit vector or a plane is one up to rounding."""
    new = copy(i)
    for name, t in changed.items():
        object.__setattr__(new, name, t)
    return new


def transform(
    i: Intervention, old: Float[Tensor, "pair pos *head size"], value: Float[Tensor, "pair pos *head size"] | None
) -> Float[Tensor, "pair pos *head size"]:
    """What an activation becomes."""

    def vector(t: Tensor) -> Tensor:
        return t if t.ndim == 1 else t.view(len(t), *[1] * (old.ndim - 2), -1)

    def number(x: Number) -> Tensor | float:
        return x.view(-1, *[1] * (old.ndim - 1)) if isinstance(x, Tensor) and x.ndim else x

    match i:
        case Patch():
            if value is None:
                raise SiteError(f"{i.site.label}: this patch was not given what to patch")
            return value.to(old.dtype).expand_as(old)
        case Ablate():
            v = vector(i.direction)
            return old - number(i.alpha) * _along(old, v) * v
        case Add():
            return old + number(i.scale) * vector(i.vector)
        case Clamp():
            v = vector(i.direction)
            return old + (number(i.value) - _along(old, v)) * v
        case Rotate() | Aim():
            first, second = (vector(row) for row in i.plane.unbind(-2))
            turn = number(i.degrees if isinstance(i.degrees, Tensor) else old.new_tensor(i.degrees)) * math.pi / 180
            x, y = _along(old, first), _along(old, second)
            c, s = torch.cos(torch.as_tensor(turn)), torch.sin(torch.as_tensor(turn))
            if isinstance(i, Aim):
                length = torch.hypot(x, y)
                return old + (length * c - x) * first + (length * s - y) * second
            return old + (c * x - s * y - x) * first + (s * x + c * y - y) * second
        case _ as never:
            assert_never(never)


def _along(a: Float[Tensor, "pair pos *head size"], v: Float[Tensor, ...]) -> Float[Tensor, "pair pos *head one"]:
    """⟨a,v⟩, for a direction that broadcasts over all axes but the last."""
    return (a * v).sum(-1, keepdim=True)
