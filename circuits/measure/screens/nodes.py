"""Nodes: what would replacing one activation of the base run by the source run's change? To first order.

    atp                 ⟨source − base, gradient at base⟩
    atp-qk              the same, but for queries and keys the attention is computed anew and its change is multiplied
                        with the gradient at the attention weights: softmax is not linearised
    atp-graddrop        mean of |estimate| over backward passes, each without what one block adds to the residual stream;
                        of a node within a block those without its own are left out, where it would be 0
    eap-ig-inputs       the gradient averaged over inputs on the way from base to source
    eap-ig-activations  … over activations on that way, all heads of a site together: with many steps the scores of a
                        site's heads add up to the exact effect of patching all of it

Sources: AtP, Nanda (attribution patching); QK fix and GradDrop, Kramár et al., arXiv 2403.00745; integrated gradients,
Hanna et al., arXiv 2403.17806; on activations as in Marks et al., arXiv 2403.19647.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.edits import check
from circuits.engine.patterns import pattern_under
from circuits.engine.sweep import Direction
from circuits.errors import UndefinedError
from circuits.interventions import Patch
from circuits.measure.screens.passes import Runs, Value, only, require, screened, shares, total
from circuits.measure.screens.result import Screen
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.sites import Site, SiteKind, parse
from circuits.tables import provenance

NodeMethod = Literal["atp", "atp-qk", "atp-graddrop", "eap-ig-inputs", "eap-ig-activations"]
NODE_METHODS: Final[tuple[NodeMethod, ...]] = get_args(NodeMethod)
_HEADED: Final[tuple[SiteKind, ...]] = ("q", "k", "v", "z")
_OUTSIDE: Final = ("embed", "resid_pre", "resid_mid", "resid_post")
"""Kinds that are in no block's own branch: no block's dropping makes them 0."""
At = dict[Site, Value]


def all_nodes(model: Model) -> list[str]:
    """The embedding, q, k, v and z of every head, and every MLP; without kinds that this model's modules do not show."""
    found = ["embed"]
    for layer in range(model.shape.n_layers):
        kinds: list[SiteKind] = [kind for kind in _HEADED if kind not in model.parts.lacking]
        found += [Site(kind, layer, h).label for kind in kinds for h in range(model.shape.count(Site(kind, layer)))]
        found.append(Site("mlp_out", layer).label)
    return found


def screen_nodes(
    model: Model, tokens: TokenPairs, metric: Metric, *, method: NodeMethod = "atp", nodes: Sequence[str] | None = None,
    direction: Direction = "noise", positions: Positions = "all", steps: int = 5,
) -> Screen:  # fmt: skip
    """Estimate the effect of every node (`all_nodes`, or labels of sites), replaced at `positions`. Units of the metric.

    Passes over all prompts: two forward, and one forward and backward (qk: one more forward for queries and for keys;
    graddrop: one backward for each block; integrated gradients: `steps` of both, on activations for every site). Raises,
    before anything is run, UndefinedError for an unknown method, fewer than one step or a metric without a gradient,
    SiteError for fewer than two nodes or one that does not exist.
    """
    names = all_nodes(model) if nodes is None else list(nodes)
    require(model, tokens, metric, method, NODE_METHODS, steps, names)
    sites = [parse(name) for name in names]
    check(model, tokens, tuple(Patch(site, positions) for site in sites))
    n_layers = model.shape.n_layers
    if method == "atp-graddrop" and n_layers < 2:
        raise UndefinedError(f"{model.name} has one block: without it nothing is left to estimate from; use atp")
    whole = list(dict.fromkeys(site.whole for site in sites))
    queried = [s for s in whole if s.kind in ("q", "k")] if method == "atp-qk" else []
    patterns = [Site("pattern", layer) for layer in sorted({site.layer for site in queried})]
    for pattern in patterns:
        model.parts.locate(pattern)
    where = tokens.position_mask(positions).to(model.device)

    def score(runs: Runs) -> Float[Tensor, "pair cell"]:
        here = where[list(runs.pairs)]
        changes = {site: only(here, runs.difference(site)) for site in whole}
        if method == "atp-graddrop":
            kept = torch.tensor([n_layers - (site.kind not in _OUTSIDE) for site in sites], device=model.device)
            found = runs.gradients(whole, dropped=range(n_layers)).at
            return torch.stack([_products(sites, changes, at).abs() for at in found]).sum(0) / kept
        if method == "eap-ig-activations":
            return _products(sites, changes, {site: _on_activations(runs, site, here, steps) for site in whole})
        if method == "eap-ig-inputs":
            return _products(sites, changes, _on_inputs(runs, whole, steps))
        (at,) = runs.gradients([*whole, *patterns]).at
        scores = _products(sites, changes, at)
        for site in queried:  # in place of the tangent: the change of attention and the gradient at it
            pattern = Site("pattern", site.layer)
            new = pattern_under(model, runs.base, site, runs.between(site, 1.0, here))
            by_head = ((new - runs.base.seen[pattern]) * at[pattern]).sum((1, 3))
            by_head = by_head.unflatten(1, (model.shape.count(site), -1)).sum(2)  # of keys: the heads of their group
            for i, node in enumerate(sites):
                if node.whole == site:
                    scores[:, i] = total(_part(by_head, node))
        return scores

    value, base, source = screened(
        model, tokens, metric, direction, [*whole, *patterns, Site("embed")], len(names), score
    )
    integrated = {"eap-ig-inputs": steps, "eap-ig-activations": steps * len(whole)}.get(method, 1)
    return Screen(
        provenance=provenance(model, tokens, metric), score=value, base=base, source=source, names=tuple(names),
        senders=(), receivers=(), method=method, direction=direction, positions=str(positions),
        steps=steps if method.startswith("eap-ig") else 1, forward_passes=integrated + 2 + -(-len(queried) // n_layers),
        backward_passes=n_layers if method == "atp-graddrop" else integrated,
    )  # fmt: skip


def _products(sites: Sequence[Site], changes: At, at: At) -> Float[Tensor, "pair cell"]:
    """⟨change, gradient⟩ of every site, or of its head or neuron."""
    products = {site: (change * at[site]).sum(1) for site, change in changes.items()}
    return torch.stack([total(_part(products[site.whole], site)) for site in sites], 1)


def _part(product: Float[Tensor, "pair ..."], site: Site) -> Float[Tensor, "pair ..."]:
    return product if site.index is None else product[:, site.index, None]


def _on_activations(runs: Runs, site: Site, here: Bool[Tensor, "pair pos"], steps: int) -> Value:
    """The gradient at a site, averaged over what it is on the way from base to source."""
    passes = (runs.gradients([], {site: runs.between(site, share, here)}) for share in shares(steps))
    return torch.stack([found.at[0][site] for found in passes]).mean(0)


def _on_inputs(runs: Runs, sites: Sequence[Site], steps: int) -> At:
    """Gradients at all sites, averaged over embeddings on the way from base to source."""
    embed = Site("embed")
    summed: At = {}
    for share in shares(steps):
        (at,) = runs.gradients(sites, {embed: runs.between(embed, share)}).at
        summed = {site: at[site] + summed[site] if summed else at[site] for site in sites}
    return {site: gradient / steps for site, gradient in summed.items()}
