"""The handle on a loaded autoencoder: where it reads, and what it makes of an activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import SiteError
from circuits.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Sae:
    """A sparse autoencoder of one site: act ≈ decode(encode(act)), and act = decode(encode(act)) + error(act).

    Decoding is affine in the features. Where the autoencoder normalises what it reads (`normalised`), the scale of that
    affine map is taken from the activation itself: `decode` then needs it, and a feature's `direction` is in units of
    that scale. In single precision; results lie where the activation does.
    """

    name: str
    site: Site
    n_features: int
    size: tuple[int, ...]
    """The axes of the site's activation: d_model, d_mlp, or head and d_head."""
    architecture: str
    """As sae-lens calls it: standard, gated, topk, abstopk or jumprelu."""
    normalised: bool
    """Whether decoding depends on the activation that was encoded, not on the features alone."""
    trained_on: str
    """The model that its card names; "" where it names none."""
    hash: str
    """Twelve hex digits of the sha256 of its weights."""
    inner: Any
    """sae-lens' module, on the model's device."""

    def encode(self, act: Float[Tensor, ...]) -> Float[Tensor, "... feature"]:
        """The features of activations of the site, whose axes come last. Raises SiteError for activations of another."""
        with torch.no_grad():
            return self.inner.encode(self._flat(act)).float().to(act.device)

    def decode(self, features: Float[Tensor, "... feature"], *, like: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """What features stand for, in the place of the activation `like`, whose scale is used where there is one.

        Raises SiteError where `features` are not those of one activation each.
        """
        flat = self._flat(like)
        if tuple(features.shape) != (*flat.shape[:-1], self.n_features):
            raise SiteError(
                f"{self.name}: features of shape {tuple(features.shape)} are not {self.n_features} for each of "
                f"{tuple(flat.shape[:-1])} activations; give the activation that each row stands in the place of"
            )
        with torch.no_grad():
            if self.normalised:
                self.inner.process_sae_in(flat)  # leaves the scale for the decoding that follows
            found = self.inner.decode(features.to(flat.device, flat.dtype)).float()
        return found.reshape(like.shape).to(like.device)

    def error(self, act: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """What the features leave over: act − decode(encode(act))."""
        return act.float() - self.decode(self.encode(act), like=act)

    def scale(self, like: Float[Tensor, ...]) -> Float[Tensor, "... one"]:
        """By how much decoding stretches every direction in the place of `like`: 1, but where `normalised`."""
        flat = self._flat(like)
        if not self.normalised:
            return torch.ones(*flat.shape[:-1], 1, device=like.device)
        nothing = torch.zeros(*flat.shape[:-1], self.n_features, device=like.device)
        unit = nothing.clone()
        longest = int(self.inner.W_dec.norm(dim=-1).argmax())
        unit[..., longest] = 1
        added = (self.decode(unit, like=like) - self.decode(nothing, like=like)).reshape(flat.shape)
        along = self.direction(longest).to(like.device)
        return (added @ along)[..., None] / (along @ along)

    def direction(self, index: int) -> Float[Tensor, " size"]:
        """What one unit of feature `index` adds, as one vector, heads in turn. Raises SiteError for no such feature."""
        self.require([index])
        return self._rows([index])[0]

    @property
    def directions(self) -> Float[Tensor, "feature size"]:
        """What one unit of every feature adds, on the CPU; a copy."""
        return self._rows(list(range(self.n_features)))

    def require(self, features: list[int]) -> None:
        """Raise SiteError naming the features that do not exist."""
        wrong = [i for i in features if not 0 <= i < self.n_features]
        if wrong:
            raise SiteError(f"{self.name} has features 0 to {self.n_features - 1}; there is no {wrong[0]}")

    def label(self, index: int) -> str:
        """How a graph names a feature: `L3.F127`."""
        return f"L{self.site.layer}.F{index}"

    @property
    def title(self) -> str:
        """One line for under a figure."""
        whose = f", trained on {self.trained_on}" if self.trained_on else ", not said on which model it was trained"
        return f"{self.name} ({self.architecture}, {self.n_features} features of {self.site.label}{whose}; {self.hash})"

    def __repr__(self) -> str:
        return f"Sae({self.title})"

    def _rows(self, ids: list[int]) -> Float[Tensor, "feature size"]:
        rows = self.inner.W_dec.detach()[ids].float().cpu()
        rescaled = getattr(self.inner.cfg, "rescale_acts_by_decoder_norm", False)
        return rows / rows.norm(dim=-1, keepdim=True) if rescaled else rows

    def _flat(self, act: Float[Tensor, ...]) -> Float[Tensor, "... size"]:
        n = len(self.size)
        if tuple(act.shape[-n:]) != self.size:
            raise SiteError(
                f"{self.name} reads {self.site.label}, whose activations end in {self.size}; got {tuple(act.shape)}"
            )
        weight = self.inner.W_dec
        return act.detach().to(weight.device, weight.dtype).flatten(-n)
