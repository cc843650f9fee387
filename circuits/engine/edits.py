"""What each intervention does to an activation.

`bind` resolves a cell against prompts and a source run: positions become a mask over [pair, pos], the source's
activation is looked up, and `resid_post` of block l becomes the residual entering block l + 1. `apply` then edits any
window of positions; replay, oracle and generation all call it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.capture import Run
from circuits.engine.transform import fits, moved, of_pair, transform
from circuits.engine.window import At
from circuits.errors import SiteError
from circuits.interventions import Cell, Columns, Intervention, Patch, Where
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.sites import ORDER, Site


@final
@dataclass(frozen=True, eq=False)
class Bound:
    """One intervention, ready to act. `site` is whole; `index` is its head or neuron."""

    intervention: Intervention
    site: Site
    index: int | None
    mask: Bool[Tensor, "pair pos"]
    keys: Bool[Tensor, "pair key"] | None
    everywhere: bool
    """Positions were "all": tokens generated later are edited too (except by Patch, whose source has none)."""
    value: Float[Tensor, ...] | None
    """For Patch: what the site (or its head) becomes, [pair, pos, …]."""

    @property
    def stage(self) -> int:
        """The residual index from which a run with this edit departs from the base run: entering block `stage`."""
        return self.site.layer

    @property
    def leaves(self) -> bool:
        """Whether it acts on what leaves its block rather than on what enters the next."""
        return self.intervention.site.kind == "resid_post"

    def grown(self, step: Float[Tensor, "pair pos ..."]) -> Bound:
        """The same edit for tokens generated after the prompt: at every one of them, in the rows it edits at all."""
        return replace(self, mask=self.mask.any(1, keepdim=True).expand(step.shape[:2]))

    def at_row(self, row: int, pair: int, n_rows: int) -> Bound:
        """The same edit for one pair alone, which stands in row `row` of a batch of `n_rows`."""
        mask = self.mask.new_zeros(n_rows, self.mask.shape[1])
        mask[row] = self.mask[pair]
        keys = None if self.keys is None else self.keys[pair].expand(n_rows, -1)
        value = None if self.value is None else self.value[pair].expand(n_rows, *self.value.shape[1:])
        return replace(self, mask=mask, keys=keys, value=value, intervention=of_pair(self.intervention, pair))

    @property
    def first(self) -> int | None:
        """First column edited in any pair; None where nothing is."""
        columns = self.mask.any(0).nonzero()
        return int(columns[0]) if len(columns) else None


def sites_of(cells: list[Cell]) -> set[Site]:
    """The whole sites whose source activations these cells need; every run keeps its residuals anyway."""
    needed = {i.site.whole for cell in cells for i in cell if isinstance(i, Patch) and i.value is None}
    return {site for site in needed if site.kind not in ("resid_pre", "resid_post")}


def bind(
    model: Model, tokens: TokenPairs, cell: Cell, source: Run | None, *, skip_before: int = 0
) -> tuple[Bound, ...]:
    """Resolve a cell. Patches from the source run skip columns before `skip_before`, where the two runs are the same.

    In the order in which they act. Raises SiteError as `check` does, and for a patch without a source run.
    """
    check(model, tokens, cell)
    bound = (_bind(model, tokens, intervention, source, skip_before) for intervention in cell)
    return tuple(sorted(bound, key=lambda b: (b.intervention.site.layer, ORDER[b.intervention.site.kind])))


def check(model: Model, tokens: TokenPairs, cell: Cell) -> None:
    """What can be wrong with a cell before anything is run.

    Raises SiteError: a layer, head or position that does not exist, a value or direction whose shape does not fit.
    """
    for i in cell:
        model.parts.locate(i.site)
        count = model.shape.count(i.site)
        if i.site.index is not None and not 0 <= i.site.index < count:
            what = {"post": "neurons", "k": "key-value heads", "v": "key-value heads"}.get(i.site.kind, "heads")
            raise SiteError(f"{i.site.label}: this model has {what} 0 to {count - 1}")
        columns_of(tokens, i.positions)
        tail = model.shape.tail(i.site, tokens.n_pos)
        if isinstance(i, Patch):
            if i.keys is not None:
                columns_of(tokens, i.keys)
            if i.value is not None:
                given = _broadcast(i.value, i.site, tokens, model)
                missing = columns_of(tokens, i.positions).to(given.device) & ~given.isfinite().flatten(2).all(-1)
                if missing.any():
                    pair, column = missing.nonzero()[0].tolist()
                    raise SiteError(
                        f"{i.site.label}: the value to patch is not finite on pair {pair}, column {column}; a mean by column "
                        "exists only where a prompt reaches"
                    )
        else:
            fits(i, tail[-1], tokens.n_pairs)


def _bind(model: Model, tokens: TokenPairs, i: Intervention, source: Run | None, skip_before: int) -> Bound:
    site = i.site
    mask = columns_of(tokens, i.positions).to(model.device)
    value: Tensor | None = None
    keys: Tensor | None = None
    if isinstance(i, Patch):
        if site.kind == "pattern":  # whole rows are those over real tokens: nothing is mixed in from padding
            keys = columns_of(tokens, "all" if i.keys is None else i.keys).to(model.device)
        if i.value is not None:
            value = _broadcast(i.value, site, tokens, model)
        elif source is None:
            raise SiteError(f"{site.label}: a Patch without a value needs a source run")
        else:
            value = activation_of(source, site)
            mask[:, :skip_before] = False
    whole = Site("resid_pre", site.layer + 1) if site.kind == "resid_post" else site.whole
    everywhere = isinstance(i.positions, str) and i.positions == "all"
    return Bound(moved(i, model), whole, site.index, mask, keys, everywhere, value)


def activation_of(run: Run, site: Site) -> Float[Tensor, "pair pos ..."]:
    """What a run kept of a site, or of one of its heads."""
    if site.kind in ("resid_pre", "resid_post"):
        return run.resid[site.layer + (site.kind == "resid_post")]
    return _indexed(run.seen[site.whole], site)


def _indexed(whole: Float[Tensor, "pair pos ..."], site: Site) -> Float[Tensor, "pair pos ..."]:
    """One head of it, or one neuron (its axis stays, of length one)."""
    if site.index is None:
        return whole
    return whole[..., site.index, :] if site.has_heads else whole[..., site.index, None]


def columns_of(tokens: TokenPairs, where: Where) -> Bool[Tensor, "pair pos"]:
    """The columns meant, never padding. Raises SiteError for one that does not exist."""
    if not isinstance(where, Columns):
        return tokens.position_mask(where)
    beyond = [c for c in where.columns if not -tokens.n_pos <= c < tokens.n_pos]
    if beyond:
        raise SiteError(f"column {beyond[0]} does not exist; these prompts have columns 0 to {tokens.n_pos - 1}")
    chosen = torch.zeros(tokens.n_pos, dtype=torch.bool)
    chosen[list(where.columns)] = True
    return tokens.mask & chosen


def _broadcast(
    value: Float[Tensor, ...], site: Site, tokens: TokenPairs, model: Model
) -> Float[Tensor, "pair pos ..."]:
    """A given value, as one per pair and position. Raises SiteError where its shape fits neither."""
    shape = (*tokens.mask.shape, *model.shape.tail(site, tokens.n_pos))
    try:
        return value.to(model.device, model.dtype).broadcast_to(shape)
    except RuntimeError as error:
        raise SiteError(f"{site.label}: a value of shape {tuple(value.shape)} does not broadcast to {shape}") from error


def apply(bound: Bound, activation: Float[Tensor, "pair pos ..."], at: At) -> Float[Tensor, "pair pos ..."]:
    """Edit what a site is on some columns: [pair, pos, d_model], or [pair, pos, head, …].

    Returns a new tensor; the input is left as it is.
    """
    if bound.site.kind == "pattern":
        return at.packed(_apply(bound, at.by_column(activation), at), activation)
    return _apply(bound, activation, at)


def _apply(bound: Bound, activation: Float[Tensor, "pair pos ..."], at: At) -> Float[Tensor, "pair pos ..."]:
    old = _indexed(activation, replace(bound.site, index=bound.index))
    where = bound.mask[:, at.columns]
    where = where.view(*where.shape, *[1] * (old.ndim - 2))
    if bound.keys is not None:
        seen = torch.arange(bound.keys.shape[1]) <= at.columns[:, None]  # what comes later cannot be attended to
        seen = seen.view(len(seen), *[1] * (old.ndim - 3), -1).to(where.device)
        where = where & bound.keys.view(len(bound.keys), *[1] * (old.ndim - 2), -1) & seen
    value = None if bound.value is None else bound.value[:, at.columns]
    new = torch.where(where, transform(bound.intervention, old, value), old)
    if bound.index is None:
        return new
    edited = activation.clone()
    _indexed(edited, replace(bound.site, index=bound.index)).copy_(new)
    return edited
