"""Edits of heads that need no other prompt: what a head gives where nothing tells what it would have given.

    opposite mean   its mean over the prompts of the other class (a positive prompt gets the negatives', and back)
    mean            its mean over all prompts of the set
    zero            nothing
    direction       what it gives, less what it writes along a direction: z ← z − ⟨z, w⟩w, w ∝ W_O^h v

They answer different questions and give different verdicts: say which was used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.donors import mean_activations
from circuits.errors import UndefinedError
from circuits.interventions import Ablate, Patch
from circuits.model import Model
from circuits.model.value_path import output_path, pulled_back
from circuits.prompts.align import TokenPairs
from circuits.sites import Site

How = Literal["opposite mean", "mean", "zero", "direction"]


def head_edits(
    model: Model, tokens: TokenPairs, heads: Iterable[Site], how: How, *,
    positions: Literal["last", "all"] = "last", positive: Bool[Tensor, " pair"] | None = None,
    direction: Float[Tensor, " d_model"] | None = None,
) -> dict[Site, Patch | Ablate]:  # fmt: skip
    """The edit of every head, for the clean prompts of `tokens`.

    `positive` tells the two classes apart for "opposite mean", `direction` is that of "direction". Means are taken column
    by column from the last. Raises UndefinedError where a way lacks what it needs, or a head cannot write the direction.
    """
    chosen = list(heads)
    match how:
        case "zero":
            return {h: Patch(h, positions, torch.zeros(model.shape.d_head)) for h in chosen}
        case "direction":
            if direction is None:
                raise UndefinedError('how="direction" needs a direction')
            return {h: Ablate(h, _written_along(model, h, direction), positions) for h in chosen}
        case "mean":
            means = mean_activations(model, tokens, chosen, side="clean")
            return {h: Patch(h, positions, means[h]) for h in chosen}
        case "opposite mean":
            if positive is None or not positive.any() or positive.all():
                raise UndefinedError('how="opposite mean" needs prompts of both classes')
            of = [mean_activations(model, tokens.select(rows), chosen, side="clean") for rows in (positive, ~positive)]
            # row 1, that of positive prompts, is the negatives' mean
            return {h: Patch(h, positions, torch.stack([means[h] for means in of])[positive.long()]) for h in chosen}


def _written_along(model: Model, site: Site, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " d_head"]:
    """What to remove from z so that nothing is written along the direction; its length means nothing."""
    path = output_path(model, site.layer)
    # a post-norm's scale is one number per prompt: at any scale the same is removed
    norm = path.frozen(torch.ones(model.shape.n_heads, model.shape.d_head).to(model.device, model.dtype))
    return (path.w_o[site.index or 0] @ pulled_back(norm, direction)).float()
