"""The same edit along random directions: what any change of this size does to the probabilities.

An ablation of a random direction removes little, because activations lie along few directions. Its α is therefore raised,
for every prompt, until the root mean square of what it changes over the edited positions, in the unedited run, is that of
the edit it is held against. The first token is left out of the mean where others are edited: its norm is often a hundred
times the others'. An addition keeps its vector's norm.

Sizes are matched edit by edit. Where a cell edits many sites, changes along its own direction may add up from layer to
layer while random ones partly cancel.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine import Run, capture
from circuits.engine.edits import activation_of, columns_of
from circuits.errors import CircuitError, UndefinedError
from circuits.interventions import Ablate, Add, Cell
from circuits.linalg import random_directions
from circuits.model import Model
from circuits.prompts.token_pairs import TokenPairs


def require_nulls(name: str, cell: Cell) -> None:
    """Raise CircuitError for an edit that has no random counterpart of its size."""
    for i in cell:
        if not isinstance(i, Ablate | Add):
            raise CircuitError(
                f"cell {name}: {type(i).__name__} at {i.site.label} has no random counterpart of its own size\n"
                "use Ablate or Add, or null_draws=0"
            )


def random_cells(model: Model, tokens: TokenPairs, cell: Cell, draws: int, *, seed: int) -> list[Cell]:
    """`draws` copies of a cell, each with random directions in place of its own; equal directions stay equal."""
    # residuals are kept by every run
    kept = {i.site for i in cell if i.site.kind not in ("resid_pre", "resid_post")}
    run = capture(model, tokens.clean, tokens.mask, kept)
    names = [_key(i) for i in cell if isinstance(i, Ablate | Add)]
    own = {key: k for k, key in enumerate(dict.fromkeys(names))}
    cells: list[Cell] = []
    for draw in range(draws):
        edits: list[Ablate | Add] = []
        for i in cell:
            if isinstance(i, Ablate | Add):
                size = (i.direction if isinstance(i, Ablate) else i.vector).shape[-1]
                # one stream per direction of the cell, so that its copies in several layers get the same one
                r = random_directions(draws, size, seed=seed * 1000 + own[_key(i)])[draw]
                edits.append(_turned(i, r, tokens, run))
        cells.append(tuple(edits))
    return cells


def _key(i: Ablate | Add) -> bytes:
    """Equal for equal directions, whatever their sites."""
    return _vector(i).detach().float().cpu().contiguous().numpy().tobytes()


def _vector(i: Ablate | Add) -> Tensor:
    return i.direction if isinstance(i, Ablate) else i.vector


def _turned(i: Ablate | Add, r: Float[Tensor, " size"], tokens: TokenPairs, run: Run) -> Ablate | Add:
    if isinstance(i, Add):
        return replace(i, vector=r * i.vector.float().norm(dim=-1, keepdim=True).cpu())
    where = _counted(columns_of(tokens, i.positions), tokens)
    activation = activation_of(run, i.site).float().cpu()  # [pair, pos, size]
    own = _rms(activation, i.direction.float().cpu().expand(tokens.n_pairs, -1), where)
    other = _rms(activation, r.expand(tokens.n_pairs, -1), where)
    if not (other > 0).all():
        raise UndefinedError(
            f"{i.site.label}: activations have no component along a random direction; nothing to match"
        )
    return replace(i, direction=r, alpha=torch.as_tensor(i.alpha, dtype=torch.float).cpu() * own / other)


def _counted(where: Bool[Tensor, "pair pos"], tokens: TokenPairs) -> Bool[Tensor, "pair pos"]:
    """The edited positions but the first token's, unless it is the only one."""
    first = tokens.mask.long().argmax(1)
    others = where.clone()
    others[torch.arange(len(where)), first] = False
    return torch.where(others.any(1, keepdim=True), others, where)


def _rms(
    activation: Float[Tensor, "pair pos size"], v: Float[Tensor, "pair size"], where: Bool[Tensor, "pair pos"]
) -> Float[Tensor, " pair"]:
    along = torch.einsum("psd,pd->ps", activation, v) * where
    return (along.square().sum(1) / where.sum(1)).sqrt()
