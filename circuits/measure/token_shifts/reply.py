"""Prompts that go on: the unedited greedy reply appended to them, with every edit left where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.engine.generate import reply, until_end
from circuits.errors import SiteError
from circuits.interventions import Cell, Columns, Intervention, Patch, Where
from circuits.model import Model
from circuits.prompts.token_pairs import TokenPairs


def greedy(model: Model, tokens: TokenPairs, n: int) -> tuple[Int[Tensor, "pair pos"], Bool[Tensor, "pair pos"]]:
    """The first n tokens of the unedited reply, and which of them stand before its end (the one that ends it included)."""
    said = reply(model, tokens.clean, tokens.mask, max_new_tokens=n).cpu()
    said = torch.nn.functional.pad(said, (0, n - said.shape[1]))  # all replies may end before: what is added is after the end
    return said, until_end(model, said)


def continued(tokens: TokenPairs, said: Int[Tensor, "pair pos"]) -> TokenPairs:
    """The same prompts, both sides of every pair, with these tokens after them."""
    n = said.shape[1]
    ids = [torch.cat([side, said.to(side)], 1) for side in (tokens.clean, tokens.corrupt)]
    more = torch.ones_like(said, dtype=torch.bool)
    blank = tuple("" for _ in range(n))
    return replace(
        tokens, clean=ids[0], corrupt=ids[1], mask=torch.cat([tokens.mask, more], 1),
        instruction=torch.cat([tokens.instruction, ~more], 1), subject=torch.full_like(tokens.subject, tokens.n_pos + n - 1),
        clean_text=tuple(row + blank for row in tokens.clean_text),
        corrupt_text=tuple(row + blank for row in tokens.corrupt_text),
    )  # fmt: skip


def carried(model: Model, tokens: TokenPairs, cell: Cell, n: int) -> Cell:
    """The cell for prompts with n more tokens: edits stay where they were, and edits of all positions go on, as `generate`'s.

    Patches act on the prompt alone. Raises SiteError for a pattern, whose keys would be others.
    """
    return tuple(_carried(model, tokens, i, n) for i in cell)


def _carried(model: Model, tokens: TokenPairs, i: Intervention, n: int) -> Intervention:
    if not isinstance(i, Patch):
        return replace(i, positions=_still(i.positions, tokens, n))
    if i.site.kind == "pattern" or i.value is None:
        raise SiteError(
            f"{i.site.label}: along a reply only patches with a value, and not of a pattern, have a meaning; "
            "ask for one reply position"
        )
    tail = model.shape.tail(i.site, tokens.n_pos)
    value = i.value.broadcast_to((*tokens.mask.shape, *tail))
    padded = torch.cat([value, value.new_zeros(len(value), n, *tail)], 1)
    where = Columns(tuple(range(tokens.n_pos))) if i.positions == "all" else _still(i.positions, tokens, n)
    return Patch(i.site, where, padded)


def _still(where: Where, tokens: TokenPairs, n: int) -> Where:
    """Positions that mean in the longer prompts what they meant; counts from the end are moved, others stay."""
    if isinstance(where, Columns):
        return Columns(tuple(c + tokens.n_pos if c < 0 else c for c in where.columns))
    if isinstance(where, str):
        return where if where == "all" else -1 - n
    chosen: Sequence[int] = [where] if isinstance(where, int) else where
    return [p - n if p < 0 else p for p in chosen]


def require_positions(cells: Sequence[Cell]) -> None:
    """Raise SiteError for positions that instructions without pairs do not have, and for patches from another run."""
    for i in (i for cell in cells for i in cell):
        if isinstance(i.positions, str) and i.positions not in ("last", "all"):
            raise SiteError(
                f"{i.site.label}: unpaired prompts have no {i.positions!r} position; use last, all or numbers"
            )
        if isinstance(i, Patch) and i.value is None:
            raise SiteError(
                f"{i.site.label}: an unpaired prompt has no other run to patch from; give the patch a value"
            )
