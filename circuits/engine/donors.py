"""Activations from elsewhere, to be given to `Patch(site, value=…)`: the mean over a set, or another prompt of it.

    means = mean_activations(model, tokens, [head(9, 6)])
    sweep(model, tokens, metric, [(Patch(head(9, 6), "all", means[head(9, 6)]),)])

Prompts are lined up at their last token. Zero needs no run: `Patch(site, value=torch.zeros(()))`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import capture
from circuits.engine.edits import activation_of, check
from circuits.errors import SiteError
from circuits.interventions import Patch
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.sites import Site

Side = Literal["clean", "corrupt", "both"]


def mean_activations(
    model: Model, over: TokenPairs, sites: Iterable[Site], *, side: Side = "both", by: Literal["column", "all"] = "column"
) -> dict[Site, Float[Tensor, ...]]:
    """The mean of every site over the prompts of a set, in fp32.

    `by="column"`: one mean per column, [pos, …], over the prompts that reach it, NaN where none does (a patch there is an
    error);     "all": one for all positions, […]. Raises SiteError for a site the model lacks, before anything is run.
    """
    wanted = list(sites)
    total = {site: torch.zeros(()) for site in wanted}
    count = torch.zeros(over.n_pos)
    for seen in _seen(model, over, wanted, side):
        count = count + over.mask.float().sum(0)
        for site, activation in seen.items():
            weight = over.mask.float().view(*over.mask.shape, *[1] * (activation.ndim - 2))
            total[site] = total[site] + torch.where(weight > 0, activation, 0.0).sum(0)
    means: dict[Site, Tensor] = {}
    for site, summed in total.items():
        weight = count.view(-1, *[1] * (summed.ndim - 1))
        means[site] = summed.sum(0) / count.sum() if by == "all" else summed / weight  # 0/0 where no prompt reaches
    return means


def resampled_activations(
    model: Model, tokens: TokenPairs, donors: TokenPairs, sites: Iterable[Site], *,
    side: Literal["clean", "corrupt"] = "corrupt", seed: int = 0,
) -> dict[Site, Float[Tensor, "pair pos ..."]]:  # fmt: skip
    """For every pair of `tokens`, the activations of one prompt drawn from `donors`: one donor per pair for all sites.

    A donor is at least as long as the prompt it replaces, and never the same tokens. Raises SiteError naming a pair for
    which there is none, before anything is run.
    """
    wanted, rng = list(sites), random.Random(seed)  # noqa: S311  not for secrets
    ids = donors.clean if side == "clean" else donors.corrupt
    own = tokens.clean if side == "clean" else tokens.corrupt
    drawn: list[int] = []
    for pair in range(tokens.n_pairs):
        real = own[pair][tokens.mask[pair]]
        fit = [
            d for d in range(donors.n_pairs)
            if donors.lengths[d] >= len(real) and not torch.equal(ids[d][donors.mask[d]], real)
        ]  # fmt: skip
        if not fit:
            raise SiteError(
                f"pair {pair} has {len(real)} tokens and no other prompt of {donors.pairs.name} is as long; "
                "give donors with longer prompts"
            )
        drawn.append(rng.choice(fit))
    (seen,) = _seen(model, donors, wanted, side)
    return {site: _lined_up(activation[drawn], site, tokens.n_pos) for site, activation in seen.items()}


def _seen(model: Model, tokens: TokenPairs, sites: list[Site], side: Side) -> list[dict[Site, Tensor]]:
    check(model, tokens, tuple(Patch(site) for site in sites))
    both = {"clean": [tokens.clean], "corrupt": [tokens.corrupt], "both": [tokens.clean, tokens.corrupt]}[side]
    runs = (capture(model, ids, tokens.mask, sites) for ids in both)
    return [{site: activation_of(run, site).float().cpu() for site in sites} for run in runs]


def _lined_up(activation: Tensor, site: Site, n_pos: int) -> Tensor:
    """Columns counted from the last: those that are not there are zero, where no prompt reaches them."""

    def at(t: Tensor, axis: int) -> Tensor:
        missing = max(0, n_pos - t.shape[axis])
        shape = (*t.shape[:axis], missing, *t.shape[axis + 1 :])
        return torch.cat([t.new_zeros(shape), t.narrow(axis, max(0, t.shape[axis] - n_pos), n_pos - missing)], axis)

    activation = at(activation, 1)
    return at(activation, activation.ndim - 1) if site.kind == "pattern" else activation
