"""Do a few principal components hold a concept? Its difference of means, seen through the first k components of a layer.

    d_k = Σ_{j≤k} ⟨c_j, d⟩ c_j    d = mean(of) − mean(against), c_j the components of all classes' activations

A difference of class means inside the plane of components, taken back to the residual stream, is d_k: the projection of the
difference of means. So cos(d_k, d) = ‖d_k‖/‖d‖ is the root of the share of d's squared norm within k components, and
with all of them d_k is d. The two "directions" are never independent evidence for each other.

Where class differences make most of the variance, the first components ARE the class differences: a concept that differs
less, or has fewer prompts, is then held less, however simple it is. `held_out` takes components from one half of every
class and d from the other, averaged over random halvings: the noise of d, which no foreign component holds, counts
against it there, where `share` counts it in favour.

Null: random directions with the activations' own covariance, which are what contrasts of arbitrarily labelled prompts
give; they too lie mostly within the first components.
Source: the extension of "Refusal in Language Models Is Mediated by a Single Direction" to incapability
(directions derived from components against differences of means, by layer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import lines
from circuits.errors import CircuitError
from circuits.frames import long_frame
from circuits.measure.classes.activations import Array, Labelled, Labels, Scaling, labelled, principal
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Result
from circuits.stats import holm

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@final
@dataclass(frozen=True, kw_only=True)
class PcaDirections(Result):
    """Each concept's difference of means and its projections on the first k components; NaN where there is no difference.

    The axis `component` counts the values of k in `ks`.
    """

    difference: Float[Tensor, "concept layer d_model"]
    """Of the activations as scaled, at its own norm."""
    derived: Float[Tensor, "concept layer component d_model"]
    """d_k."""
    share: Float[Tensor, "concept layer component"]
    """‖d_k‖²/‖d‖²."""
    held_out: Float[Tensor, "sample concept layer component"]
    """The same, of d from one half of the prompts in components of the other; a sample is a halving."""
    null_share: Float[Tensor, "direction layer component"]
    ks: tuple[int, ...]
    concepts: tuple[tuple[str, str], ...]
    """(of, against)."""
    scaling: str
    undefined: tuple[int, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per concept, layer and k.

        `share`, `cosine` and `angle` (degrees) of d_k with d; `held_out`, the mean over halvings, with `held_out_sd` over
        them; the null's mean and 95 % quantile, and p (one-sided: is more of d within k components than of such random
        directions?), with Holm's over layers.
        """
        share, null = self.share.double().numpy(), self.null_share.double().numpy()
        held = self.held_out.double().numpy()
        hits = (null[:, None] >= share - 1e-12).sum(axis=0)
        p = np.where(np.isfinite(share), (1 + hits) / (1 + len(null)), np.nan)
        axes = {"concept": [_name(c) for c in self.concepts], "layer": list(range(share.shape[1])), "k": list(self.ks)}
        cosine = np.sqrt(share)
        adjusted = p.copy()
        for at in np.ndindex(len(self.concepts), len(self.ks)):
            known = np.isfinite(p[at[0], :, at[1]])
            adjusted[at[0], known, at[1]] = holm(p[at[0], known, at[1]])
        return long_frame(axes, {
            "share": share, "cosine": cosine, "angle": np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))),
            "held_out": held.mean(axis=0), "held_out_sd": held.std(axis=0), "null_mean": null.mean(axis=0),
            "null_high": np.quantile(null, 0.95, axis=0), "p": p,
            "p_holm": adjusted,
        })  # fmt: skip

    def to_summary(self) -> pd.DataFrame:
        """One row per concept and layer, for the second of `ks` (or the only one): what is usually drawn."""
        frame = self.to_frame()
        return frame[frame["k"] == self.ks[min(1, len(self.ks) - 1)]].reset_index(drop=True)

    def figure(self) -> go.Figure:
        """Cosine of d_k and d by layer, a panel per concept; dashed, what random directions of that covariance give."""
        import pandas as pd

        frame = self.to_frame().assign(k=lambda f: [f"k = {k}" for k in f["k"]])
        own = frame.assign(drawn="concept", shown=frame["cosine"])
        null = frame.assign(drawn="random (mean)", shown=np.sqrt(frame["null_mean"]))
        return lines(
            pd.concat([own, null], ignore_index=True), x="layer", y="shown", color="k", dash="drawn", facet="concept",
            title=f"Direction within the first k components against the difference of means ({self.scaling})",
            x_title="layer entered", y_title="cosine = √(share of squared norm)", caption=self.provenance.caption,
        )  # fmt: skip


def compare_pca_directions(
    model: Model, prompts: InstructionTokens, *,
    concepts: Sequence[tuple[str, str]] = (("harmful", "harmless"), ("incapable", "harmless")),
    ks: Sequence[int] = (1, 2, 5, 10), scaling: Scaling = "centred", halvings: int = 10, draws: int = 1000, seed: int = 0,
) -> PcaDirections:  # fmt: skip
    """Each concept's direction inside the first k components of the activations of all classes named in `concepts`.

    Components beyond those there are count as all. Costs one forward pass over the prompts. Raises CircuitError, before it,
    for a class with fewer than five prompts, a scaling that is none, k below 1, a concept of a class against itself, and
    no halvings or draws; UndefinedError where all prompts have one activation at every layer.
    """
    chosen = tuple(dict.fromkeys(ks))
    if not chosen or min(chosen) < 1 or halvings < 1 or draws < 1:
        raise CircuitError(f"k {chosen}, {halvings} halvings, {draws} draws: give at least one of each, and k from 1")
    same = [c for c in concepts if c[0] == c[1]]
    if same or not concepts:
        raise CircuitError(f"concept {same[0] if same else 'none'}: name two different classes, (of, against)")
    found = labelled(model, prompts, tuple(dict.fromkeys(label for c in concepts for label in c)), scaling)
    return PcaDirections(
        provenance=found.about, ks=chosen, concepts=tuple(concepts), scaling=scaling, undefined=found.undefined,
        **measured(found, concepts, chosen, halvings=halvings, draws=draws, seed=seed),
    )  # fmt: skip


def measured(
    found: Labelled, concepts: Sequence[tuple[str, str]], ks: Sequence[int], *, halvings: int, draws: int, seed: int
) -> dict[str, Tensor]:
    """Every tensor of `PcaDirections`."""
    n, n_layers, d_model = found.x.shape
    rng = np.random.default_rng(seed)
    pairs = [(found.labels.index(of), found.labels.index(against)) for of, against in concepts]
    shape = (len(pairs), n_layers)
    difference = np.full((*shape, d_model), np.nan)
    derived, share = np.full((*shape, len(ks), d_model), np.nan), np.full((*shape, len(ks)), np.nan)
    held, null = np.full((halvings, *shape, len(ks)), np.nan), np.full((draws, n_layers, len(ks)), np.nan)
    halves = [_half(found.of_prompt, rng) for _ in range(halvings)]
    for layer in np.flatnonzero(found.defined):
        x = found.x[:, layer]
        axes = principal(x).axes
        random = rng.normal(size=(draws, n)) @ (x - x.mean(axis=0))
        null[:, layer] = _shares(random, axes, ks)
        d = difference[:, layer] = _differences(x, found.of_prompt, pairs)
        inside = d @ axes.T
        derived[:, layer] = np.stack([inside[:, :k] @ axes[:k] for k in ks], axis=1)
        share[:, layer] = _shares(d, axes, ks)
        for i, half in enumerate(halves):
            held[i, :, layer] = np.mean([_other_half(x, found, pairs, ks, rows) for rows in (half, ~half)], axis=0)
    tensors = {"difference": difference, "derived": derived, "share": share, "held_out": held, "null_share": null}
    return {name: torch.from_numpy(value) for name, value in tensors.items()}


def _other_half(x: Array, found: Labelled, pairs: Sequence[tuple[int, int]], ks: Sequence[int], rows: Any) -> Array:
    """Shares of the differences of means of the prompts that are not in `rows`, in the components of those that are."""
    mine = x[rows] if found.scaling == "raw" else x[rows] - x[rows].mean(axis=0)
    d = _differences(x[~rows], found.of_prompt[~rows], pairs)
    return _shares(d, principal(mine).axes, ks)


def _half(of_prompt: Labels, rng: np.random.Generator) -> Any:
    """A random half of every class."""
    half = np.zeros(len(of_prompt), dtype=bool)
    for c in np.unique(of_prompt):
        there = rng.permutation(np.flatnonzero(of_prompt == c))
        half[there[: len(there) // 2]] = True
    return half


def _differences(x: Array, of_prompt: Labels, pairs: Sequence[tuple[int, int]]) -> Array:
    """[concept, d_model]."""
    return np.stack([x[of_prompt == a].mean(axis=0) - x[of_prompt == b].mean(axis=0) for a, b in pairs])


def _shares(d: Array, axes: Array, ks: Sequence[int]) -> Array:
    """Share of each ‖d‖² within the first k components, [direction, k]; NaN for no direction at all."""
    total = (d**2).sum(axis=-1)
    inside = ((d @ axes.T) ** 2).cumsum(axis=-1)[:, [min(k, len(axes)) - 1 for k in ks]]
    return np.minimum(inside / np.where(total > 0, total, np.nan)[:, None], 1.0)


def _name(concept: tuple[str, str]) -> str:
    return " − ".join(concept)
