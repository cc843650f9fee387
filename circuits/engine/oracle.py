"""The slow way: one whole forward pass per cell, nothing resumed, nothing batched. What the fast way is held against."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.edits import Bound, apply
from circuits.engine.window import At
from circuits.model import Model
from circuits.model.hooks import Edit, hooked, require_fired
from circuits.sites import Site


def cell_logits(
    model: Model, ids: Int[Tensor, "pair pos"], mask: Bool[Tensor, "pair pos"], bound: tuple[Bound, ...],
    reads: Mapping[Site, Edit] | None = None,
) -> Float[Tensor, "pair d_vocab"]:  # fmt: skip
    """Logits at the last position of a full forward pass with a bound cell's edits; `reads` see what these leave."""
    edits = full_hooks(bound, ids.shape[1])
    hooks = {**edits, **{site: _then(edits.get(site), read) for site, read in (reads or {}).items()}}
    with hooked(model.parts, hooks) as fired:
        logits = model.logits(ids, mask, keep=1)[:, -1]
    require_fired(hooks, fired, model.name)
    return logits


def full_hooks(bound: tuple[Bound, ...], n_pos: int) -> Mapping[Site, Edit]:
    """Hooks that make a cell's edits in a whole forward pass over `n_pos` columns, and in the steps that follow it.

    A step that generates one more token sees only that token: there, edits of all positions go on, except patches,
    whose source has no activation for it.
    """
    sites: dict[Site, list[Bound]] = {}
    for b in bound:
        sites.setdefault(b.site, []).append(b)

    def at(edits: list[Bound]) -> Edit:
        seen_prompt: list[bool] = []

        def edit(activation: Tensor) -> Tensor:
            prompt = not seen_prompt and activation.shape[1] == n_pos
            seen_prompt.append(True)
            for b in edits:
                at = At(torch.arange(activation.shape[1]))
                if prompt:
                    activation = apply(b, activation, at)
                elif b.everywhere and b.value is None:
                    activation = apply(b.grown(activation), activation, at)
            return activation

        return edit

    return {_hookable(site, edits): at(edits) for site, edits in sites.items()}


def _hookable(site: Site, edits: list[Bound]) -> Site:
    """The final residual enters no block: hook what leaves the last one instead."""
    if edits[0].leaves:
        return Site("resid_post", site.layer - 1)
    return site


def _then(edit: Edit | None, read: Edit) -> Edit:
    def both(activation: Tensor) -> Tensor | None:
        new = None if edit is None else edit(activation)
        read(activation if new is None else new)
        return new

    return both
