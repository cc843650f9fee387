"""What each intervention does to an activation.

`bind` resolves a cell against prompts and a source run: positions become a mask over [pair, pos], the source's
activation is looked up, and `resid_post` of block l becomes the residual entering block l + 1. `apply` then edits any
window of positions of any number of rows; replay, oracle and generation all call it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import assert_never, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.capture import Run
from circuits.errors import SiteError
from circuits.interventions import Ablate, Add, Cell, Clamp, Columns, Intervention, Patch, Rotate, Where
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Bound:
    """One intervention, ready to act. `site` is whole; `stage` orders it within the forward pass."""

    intervention: Intervention
    site: Site
    head: int | None
    mask: Bool[Tensor, "pair pos"]
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
        """The same edit for tokens generated after the prompt: at every one of them."""
        return replace(self, mask=self.mask.new_ones(step.shape[:2]))

    def at_row(self, row: int, pair: int, n_rows: int) -> Bound:
        """The same edit for one pair alone, which stands in row `row` of a batch of `n_rows`."""
        mask = self.mask.new_zeros(n_rows, self.mask.shape[1])
        mask[row] = self.mask[pair]
        value = None if self.value is None else self.value[pair].expand(n_rows, *self.value.shape[1:])
        return replace(self, mask=mask, value=value)

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

    Raises SiteError: a layer, head or position that does not exist, or a patch without a source run.
    """
    return tuple(_bind(model, tokens, intervention, source, skip_before) for intervention in cell)


def check(model: Model, tokens: TokenPairs, cell: Cell) -> None:
    """What can be wrong with a cell before anything is run. Raises SiteError as `bind` does."""
    for i in cell:
        model.parts.locate(i.site)
        if i.site.head is not None and not 0 <= i.site.head < model.shape.n_heads:
            raise SiteError(f"{i.site.label}: this model has heads 0 to {model.shape.n_heads - 1}")
        _mask(tokens, i.positions)
        if isinstance(i, Patch) and i.value is not None:
            _broadcast(i.value, i.site, tokens, model)


def _bind(model: Model, tokens: TokenPairs, i: Intervention, source: Run | None, skip_before: int) -> Bound:
    check(model, tokens, (i,))
    site = i.site
    mask = _mask(tokens, i.positions).to(model.device)
    value: Tensor | None = None
    if isinstance(i, Patch):
        if i.value is not None:
            value = _broadcast(i.value, site, tokens, model)
        elif source is None:
            raise SiteError(f"{site.label}: a Patch without a value needs a source run")
        else:
            value = activation_of(source, site)
            mask[:, :skip_before] = False
    kind = site.kind
    whole = Site("resid_pre", site.layer + 1) if kind == "resid_post" else site.whole
    moved = _to(i, model)
    return Bound(moved, whole, site.head, mask, everywhere=i.positions == "all", value=value)


def activation_of(run: Run, site: Site) -> Float[Tensor, "pair pos ..."]:
    """What a run kept of a site, or of one of its heads."""
    if site.kind in ("resid_pre", "resid_post"):
        return run.resid[site.layer + (site.kind == "resid_post")]
    whole = run.seen[site.whole]
    return whole if site.head is None else whole[..., site.head, :]


def _to(i: Intervention, model: Model) -> Intervention:
    """The same intervention with its tensors on the model's device and in its dtype."""
    match i:
        case Patch():
            return i
        case Ablate() | Clamp():
            return replace(i, direction=i.direction.to(model.device, model.dtype))
        case Add():
            return replace(i, vector=i.vector.to(model.device, model.dtype))
        case Rotate():
            return replace(i, plane=i.plane.to(model.device, model.dtype))
        case _ as never:
            assert_never(never)


def _mask(tokens: TokenPairs, where: Where) -> Bool[Tensor, "pair pos"]:
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
    size = model.shape.d_head if site.kind == "z" else model.shape.d_model
    tail = (model.shape.n_heads, size) if site.kind == "z" and site.head is None else (size,)
    try:
        return value.to(model.device, model.dtype).broadcast_to((*tokens.mask.shape, *tail))
    except RuntimeError as error:
        raise SiteError(
            f"{site.label}: a value of shape {tuple(value.shape)} does not broadcast to {(*tokens.mask.shape, *tail)}"
        ) from error


def apply(bound: Bound, activation: Float[Tensor, ...], columns: Int[Tensor, " pos"]) -> Float[Tensor, ...]:
    """Edit an activation [pair, pos, d_model], or z [pair, pos, head, d_head], on some columns; rows may come before.

    Returns a new tensor; the input is left as it is.
    """
    old = activation if bound.head is None else activation[..., bound.head, :]
    where = bound.mask[:, columns, None]
    if bound.site.kind == "z" and bound.head is None:
        where = where[..., None]
    value = None if bound.value is None else bound.value[:, columns]
    new = torch.where(where, _transform(bound.intervention, old, value), old)
    if bound.head is None:
        return new
    edited = activation.clone()
    edited[..., bound.head, :] = new
    return edited


def _transform(
    i: Intervention, old: Float[Tensor, "... d_model"], value: Tensor | None
) -> Float[Tensor, "... d_model"]:
    match i:
        case Patch():
            if value is None:
                raise SiteError(f"{i.site.label}: this patch was not given what to patch")
            return value.to(old.dtype).expand_as(old)
        case Ablate():
            return old - i.alpha * (old @ i.direction)[..., None] * i.direction
        case Add():
            return old + i.scale * i.vector
        case Clamp():
            return old + (i.value - old @ i.direction)[..., None] * i.direction
        case Rotate():
            turn = math.radians(i.degrees)
            inside = old @ i.plane.T
            c, s = math.cos(turn), math.sin(turn)
            matrix = old.new_tensor([[c, -s], [s, c]])
            return old + (inside @ matrix.T - inside) @ i.plane
        case _ as never:
            assert_never(never)
