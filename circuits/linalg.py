"""Projections, planes and norms held at one scale; tensors only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError, UndefinedError


def component(
    vectors: Float[Tensor, "*batch d_model"], direction: Float[Tensor, " d_model"]
) -> Float[Tensor, "*batch"]:
    """Signed length along a direction: ⟨x, v⟩/‖v‖. Raises UndefinedError for a direction of norm zero."""
    norm = direction.norm()
    if not norm > 0:
        raise UndefinedError("the component along a direction of norm zero does not exist")
    return vectors @ (direction / norm)


def cosine(a: Float[Tensor, "*batch d_model"], b: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    """Cosine similarity; NaN (not 0) where either norm is zero, because there it does not exist."""
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def unit(direction: Float[Tensor, " size"] | Float[Tensor, "pair size"]) -> Float[Tensor, "*batch size"]:
    """The direction at norm 1, or each pair's own. Raises UndefinedError where a norm is (nearly) zero or not finite."""
    norm = direction.norm(dim=-1, keepdim=True)
    bad = (~norm.isfinite() | (norm < 1e-8)).flatten().nonzero().flatten().tolist()
    if bad:
        which = f" (pair {bad[0]})" if direction.ndim > 1 else ""
        raise UndefinedError(
            f"a direction of norm {norm.flatten()[bad[0]].item():.1e}{which} has no unit vector; "
            "choose another layer or position"
        )
    return direction / norm


def plane(
    first: Float[Tensor, " d_model"], second: Float[Tensor, " d_model"], *, least_angle: float = 1.0
) -> Float[Tensor, "2 d_model"]:
    """Two orthonormal rows: the first vector, and what of the second is perpendicular to it. fp32.

    Raises UndefinedError naming the angle where the lines along the two are closer than `least_angle` degrees: the second
    row would be made of what little tells them apart. Computed in double precision.
    """
    a, b = unit(first.double()), unit(second.double())
    between = line_angle(a, b)
    if not between >= least_angle:
        raise UndefinedError(
            f"the two vectors are {between:.1f}° from parallel (at least {least_angle:g}° is asked for): they span no "
            "plane worth the name; choose another second vector"
        )
    row = b - (b @ a) * a
    row = row - (row @ a) * a  # once more: what rounding left of the first
    return torch.stack([a, row / row.norm()]).float()


def line_angle(a: Float[Tensor, " d_model"], b: Float[Tensor, " d_model"]) -> float:
    """Degrees between the lines along two vectors, 0 to 90. Raises UndefinedError for a vector without direction."""
    u, v = unit(a.double()), unit(b.double())
    v = v if u @ v >= 0 else -v
    return math.degrees(2 * math.atan2(float((u - v).norm()), float((u + v).norm())))  # exact for small angles too


@final
@dataclass(frozen=True, eq=False)
class Principal:
    """Principal components, by falling variance; only those with any."""

    components: Float[Tensor, "component d_model"]
    explained: Float[Tensor, " component"]
    """Share of the sum of squares of what was decomposed; they add up to 1."""


def principal(vectors: Float[Tensor, "direction d_model"], *, unit_norm: bool, centred: bool) -> Principal:
    """Principal components of some vectors, each scaled to norm 1 first or not, their mean taken off or not. fp64.

    Uncentred, the first is close to the mean direction; centred, it is how the vectors differ: these are two answers. A
    component points to where the vector lies that is longest along it. Raises UndefinedError where nothing varies.
    """
    x = vectors.double().cpu()
    size = x.norm(dim=-1).max()
    if unit_norm:
        x = unit(x)
        size = x.norm(dim=-1).max()
    x = x - x.mean(0) if centred else x
    _, values, rows = torch.linalg.svd(x, full_matrices=False)
    kept = values > 1e-5 * size  # below it is what fp32 leaves of zero
    if not kept.any():
        raise UndefinedError("vectors that are all the same have no principal components; give more, or other ones")
    values, rows = values[kept], rows[kept]
    along = x @ rows.T
    longest = along.gather(0, along.abs().argmax(0)[None])[0]
    return Principal(rows * longest.sign()[:, None], values**2 / (values**2).sum())


def random_directions(n: int, d_model: int, *, seed: int) -> Float[Tensor, "direction d_model"]:
    """Unit vectors uniform on the sphere: the null for every claim about one direction."""
    draws = torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))
    return draws / draws.norm(dim=-1, keepdim=True)


@final
@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """A LayerNorm or RMSNorm with its scales held: norm(x) = gain ∘ (x − mean x)/scale + bias, affine in x.

    An RMSNorm keeps the mean (`centred` is False) and has no bias. Everything is in double precision, on the CPU.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    scale: Float[Tensor, "*batch"]
    """Of each vector it was frozen at."""

    def folded(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The norm without its scale and bias: gain ∘ (x − mean x)."""
        x = x.double().cpu()
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x)

    def transposed(self, g: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What a direction after the norm is before it, but for the scale: ⟨g, folded(x)⟩ = ⟨transposed(g), x⟩."""
        g = self.gain * g.double().cpu()
        return g - g.mean(-1, keepdim=True) if self.centred else g

    def linear(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What a part of the vectors becomes; the bias is left out. Axes of `scale` come first in x."""
        return self.folded(x) / self.scale.view(*self.scale.shape, *[1] * (x.ndim - self.scale.ndim))


def freeze_norm(norm: Callable[[Tensor], Tensor], at: Float[Tensor, "*batch d_model"]) -> FrozenNorm:
    """Read a norm off its own outputs, whatever its class calls its weights, with the scales it has at some vectors.

    norm(0) is the bias, norm(1, 1, …) tells whether it centres, and norm of signs that sum to zero is the gain, so that
    Gemma's 1 + weight needs no special case. Raises UndefinedError for a vector without a scale, ModelError for a norm
    of another form.
    """
    d_model = at.shape[-1]
    signs = torch.ones(d_model)
    signs[1::2] = -1
    if d_model % 2:
        signs[:3] = torch.tensor([1.0, 1.0, -2.0])
    with torch.no_grad():
        bias, level, waves = (
            norm(x.to(at.device, at.dtype)[None])[0].double().cpu()
            for x in (torch.zeros(d_model), torch.ones(d_model), signs)
        )
        out = norm(at).double().cpu() - bias
    gain = (waves - bias) / signs.double()  # up to one factor, which the scales take up
    centred = bool((level - bias).norm() < 1e-2 * gain.norm())
    unscaled = FrozenNorm(gain, bias, centred, torch.ones(at.shape[:-1], dtype=torch.double))
    folded = unscaled.folded(at)
    scale = (folded * folded).sum(-1) / (folded * out).sum(-1)
    if not (scale.isfinite() & (scale > 0)).all():
        raise UndefinedError("a norm of a vector without length has no scale to hold")
    frozen = FrozenNorm(gain, bias, centred, scale)
    error = ((frozen.linear(at) - out).abs().max() / out.abs().max()).item()
    if not error <= (1e-4 if at.dtype in (torch.float32, torch.float64) else 5e-2):
        raise ModelError(
            f"a norm of this model is not gain ∘ x / scale + bias (off by {error:.1e}): nothing can be read through it"
        )
    return frozen
