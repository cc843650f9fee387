"""What senders add when they are ablated: in the pair's corrupt run, on the mean over corrupt prompts, or nothing.

1. resample: what the sender adds in the pair's corrupt run.
2. mean: what it adds where the embedding, every head's z, attn_out and mlp_out are their means over the corrupt prompts,
   column by column from the last (the pair's own among them).
3. zero: nothing; what is in no sender (the biases of attention) stays.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Run
from circuits.engine.donors import mean_activations
from circuits.engine.edges.names import post_normed
from circuits.engine.edges.written import SITES, Written
from circuits.engine.edits import activation_of
from circuits.model import Model
from circuits.model.value_path import output_path
from circuits.prompts.align import TokenPairs
from circuits.sites import Site, SiteKind

Ablation = Literal["resample", "mean", "zero"]
ABLATIONS: Final[tuple[Ablation, ...]] = get_args(Ablation)
Activations = dict[Site, Float[Tensor, "..."]]
"""resid_pre of block 0, and z, attn_out and mlp_out of every block, whole."""
Streams = Float[Tensor, "_ pair pos d_model"]
"""[2·layer + (0 attention, 1 MLP), pair, pos, d_model]: what each part of each block reads, and last the final stream."""
Writes = Float[Tensor, "sender pair pos d_model"]
"""[sender, pair, pos, d_model], senders in the order of `all_senders`."""


def sites(model: Model) -> list[Site]:
    """What of a run has to be kept for `writes`; its residuals are kept anyway."""
    kinds: tuple[SiteKind, ...] = SITES
    return [Site(kind, layer) for layer in range(model.shape.n_layers) for kind in kinds]


def of_run(model: Model, run: Run) -> Activations:
    """The activations of a run."""
    return {site: activation_of(run, site) for site in (Site("resid_pre"), *sites(model))}


def mean_of(model: Model, tokens: TokenPairs) -> Activations:
    """Their means over the corrupt prompts of `tokens`, by column, as one prompt."""
    found = mean_activations(model, tokens, [Site("resid_pre"), *sites(model)], side="corrupt")
    return {site: mean.to(model.device, model.dtype)[None] for site, mean in found.items()}


def zero_of(model: Model, written: Written, run: Run) -> Activations:
    """Nothing, but for attn_out what is in no sender: the biases, through any post-norm at the scale of `run`."""
    found = {site: torch.zeros_like(activation) for site, activation in of_run(model, run).items()}
    for layer in range(model.shape.n_layers):
        site = Site("attn_out", layer)
        if post_normed(model, layer):
            heads = written.heads(layer, found[Site("z", layer)][None])
            found[site] = -written.post_norm(layer, heads, found[site][None])[0]
        else:
            found[site] += output_path(model, layer).b_o.to(found[site])
    return found


def writes(model: Model, written: Written, of: Activations, n_pairs: int, start: int) -> Writes:
    """What every sender adds where activations are these, on columns from `start`."""

    def rows(site: Site) -> Float[Tensor, "row pair pos ..."]:
        return of[site][None, :, start:].expand(-1, n_pairs, *[-1] * (of[site].ndim - 1))

    found = [rows(Site("resid_pre"))]
    for layer in range(model.shape.n_layers):
        heads = written.heads(layer, rows(Site("z", layer)), start)
        found += heads.unbind(-2)
        if post_normed(model, layer):
            found.append(written.post_norm(layer, heads, rows(Site("attn_out", layer)), start))
        found.append(rows(Site("mlp_out", layer)))
    return torch.cat(found)


def streams(model: Model, of: Activations, n_pairs: int, start: int) -> Streams:
    """The residual stream that attention and MLP of every block read where activations are these, and the final one.

    [2·layer + (0 attention, 1 MLP), pair, pos, d_model]; side by side, an MLP reads what its attention reads.
    """

    def pairs(site: Site) -> Float[Tensor, "pair pos d_model"]:
        return of[site][:, start:].expand(n_pairs, -1, -1)

    found = [pairs(Site("resid_pre"))]
    for layer in range(model.shape.n_layers):
        after = found[-1] + pairs(Site("attn_out", layer))
        found += [found[-1] if "resid_mid" in model.parts.lacking else after, after + pairs(Site("mlp_out", layer))]
    return torch.stack(found)
