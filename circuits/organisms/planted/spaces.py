"""Features as directions of a residual stream whose norms do nothing but scale.

    x = LEVEL·b₀ + Σ v_f b_f        b orthonormal; b₀ (feature `one`) is far longer than all the rest together

Then ‖x‖ is LEVEL to one part in 10⁵, a pre-norm gives √d/LEVEL·x, and a matrix that undoes it reads v_f. Under LayerNorm
all b have mean zero, so that centring takes nothing away. A norm after a component, as in Gemma 2, sees a constant too
(`BALLAST`, which its own weight of 0 there then removes), so that it scales what the component writes by one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.organisms.planted.circuit import FEATURES, Kind, Reading

D_MODEL: Final = 96
N_DIRECTIONS: Final = D_MODEL - 2
"""Named features first; the rest have no name: words differ there, and so do the writes of idle components."""
LEVEL: Final = 1000.0
BALLAST: Final = 30.0
_POST_NORM: Final = 100.0
"""About the weight of norms after a component: the larger, the less their scale depends on what is written."""


@final
@dataclass(frozen=True, eq=False)
class Norm:
    """Weights and biases of one norm, axis by axis; in Gemma 2 the checkpoint holds weight − 1 and no bias."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]


def combination(reading: Reading) -> Float[Tensor, " direction"]:
    """Coefficients by name as a vector over all directions."""
    vector = torch.zeros(N_DIRECTIONS, dtype=torch.float64)
    for feature, coefficient in reading.items():
        vector[FEATURES.index(feature)] = coefficient
    return vector


def basis(kind: Kind, generator: torch.Generator) -> Float[Tensor, "direction d_model"]:
    """Orthonormal directions: `one` along an axis (under LayerNorm: two of opposite sign), the others turned at random."""
    held = 2 if kind == "gpt2" else 1
    free = D_MODEL - held
    random = torch.randn(free, free, generator=generator, dtype=torch.float64)
    if kind == "gpt2":
        random[:, 0] = 1  # all others are orthogonal to it: their mean is zero
    turned = torch.linalg.qr(random).Q.T[1:N_DIRECTIONS]
    found = torch.zeros(N_DIRECTIONS, D_MODEL, dtype=torch.float64)
    found[0, :held] = torch.tensor([1.0, -1.0][:held], dtype=torch.float64) / held**0.5
    found[1:, held:] = turned
    return found


def pre_norm(kind: Kind, generator: torch.Generator) -> Norm:
    """Weights far from 1, and under LayerNorm biases, so that a method which forgets them is seen to."""
    weight = 0.5 + torch.rand(D_MODEL, generator=generator, dtype=torch.float64)
    bias = 0.1 * torch.randn(D_MODEL, generator=generator, dtype=torch.float64)
    return Norm(weight, bias if kind == "gpt2" else torch.zeros_like(bias))


def post_norm(generator: torch.Generator) -> Norm:
    """Removes the ballast, which lies along the first axis."""
    weight = _POST_NORM * (0.5 + torch.rand(D_MODEL, generator=generator, dtype=torch.float64))
    weight[0] = 0
    return Norm(weight, torch.zeros_like(weight))


def reading(
    wanted: Float[Tensor, "*batch direction"], base: Float[Tensor, "direction d_model"], norm: Norm
) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch"]]:
    """Rows (and their biases) that take these features from the normalised residual stream."""
    wanted = wanted.clone()
    wanted[..., 0] /= LEVEL  # `one` is 1 where the stream has LEVEL
    rows = wanted @ base * (LEVEL / D_MODEL**0.5) / norm.weight
    return rows, -(rows @ norm.bias)


def writing(
    wanted: Float[Tensor, "*batch direction"], base: Float[Tensor, "direction d_model"], norm: Norm | None
) -> Float[Tensor, "*batch d_model"]:
    """Vectors that add these features to the residual stream, through the norm after the component where there is one."""
    vectors = wanted @ base
    if norm is None:
        return vectors
    scaled = vectors * (BALLAST / D_MODEL**0.5) / norm.weight
    scaled[..., 0] = 0
    return scaled
