"""What a model must be before anything is measured: on one device, and finite.

Not-a-number has one first place: find it and say it, instead of carrying it into every average.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import ModelError
from circuits.model import Model
from circuits.model.hooks import Edit, hooked
from circuits.sites import HOOK_NAMES, ORDER, Site, SiteKind


def require_one_device(model: Model) -> None:
    """Raise ModelError naming two parameters that lie on different devices: a replay moves rows between blocks freely."""
    first: dict[str, str] = {}
    for name, parameter in model.hf.named_parameters():
        first.setdefault(str(parameter.device), name)
    if len(first) > 1:
        where = ", ".join(f"{name} on {device}" for device, name in first.items())
        raise ModelError(f"{model.name} is spread over devices ({where}); load it on one, with load(..., device=...)")


def require_finite(
    model: Model, resid: tuple[Float[Tensor, "pair pos d_model"], ...], tokens: Int[Tensor, "pair pos"],
    mask: Bool[Tensor, "pair pos"],
) -> None:  # fmt: skip
    """Raise ModelError naming the first layer and site whose activation is not finite, and a weight if one is."""
    if resid[-1][mask].isfinite().all():
        return
    weight = next((name for name, p in model.hf.named_parameters() if not p.isfinite().all()), None)
    why = (
        f"its weight {weight} is not finite; load the checkpoint again"
        if weight
        else f"its weights are finite, so {model.dtype} overflows; load the model with another dtype"
    )
    raise ModelError(f"{model.name}: {_first(model, tokens, mask)} is not finite; {why}")


def _first(model: Model, tokens: Int[Tensor, "pair pos"], mask: Bool[Tensor, "pair pos"]) -> str:
    bad: list[Site] = []

    def look(site: Site) -> Edit:
        def read(activation: Tensor) -> None:
            real: Any = activation[mask]
            if not real.isfinite().all():
                bad.append(site)

        return read

    kinds: list[SiteKind] = [kind for kind in HOOK_NAMES if kind != "embed" and kind not in model.parts.lacking]
    sites = [Site("embed"), *(Site(kind, layer) for layer in range(model.shape.n_layers) for kind in kinds)]
    with torch.no_grad(), hooked(model.parts, {site: look(site) for site in sites}):
        model.logits(tokens, mask, keep=1)
    return min(bad, key=lambda s: (s.kind != "embed", s.layer, ORDER[s.kind])).label if bad else "the final residual"
