"""Which direction carries the behaviour? Difference of means, one candidate per layer and position, scored causally.

    candidate[layer, pos] = mean over pairs of (resid entering layer at pos, clean − corrupt)

    bypass  metric of the clean prompts with the candidate ablated everywhere (low: the behaviour is gone)
    induce  metric of the corrupt prompts with the candidate added at its layer (high: the behaviour appears)
    kl      divergence of the corrupt prompts' next-token distribution under ablation (low: nothing else broke)

Chosen: the lowest bypass among candidates that induce and whose kl is small. Candidates of norm zero (layer 0 at a shared
token) are undefined and never divided by. The choice is made on the same pairs it is shown on: `held_out` gives each
pair a direction estimated without it.
Source: Arditi et al., arXiv 2406.11717; "Analysing the Refusal Circuit in Gemma 2b IT".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import heatmap
from circuits.engine import capture, sweep
from circuits.engine.divergence import Divergence
from circuits.errors import UndefinedError
from circuits.frames import long_frame
from circuits.interventions import Add, Cell, ablate_everywhere
from circuits.linalg import random_directions
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.selection import Filter, Selection, select
from circuits.sites import Site
from circuits.tables import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_SMALL: Final = 1e-3
"""A difference of means shorter than this share of the residual's own norm is no direction."""


@final
@dataclass(frozen=True, kw_only=True)
class DirectionChoice(Result):
    """Candidates with their scores, and the one chosen. NaN scores: undefined candidates."""

    candidates: Float[Tensor, "layer position d_model"]
    bypass: Float[Tensor, "layer position"]
    induce: Float[Tensor, "layer position"]
    kl: Float[Tensor, "layer position"]
    held_out: Float[Tensor, "pair d_model"]
    """At the chosen layer and position, estimated without each pair's fold."""
    null_bypass: Float[Tensor, " direction"]
    """Mean metric of the clean prompts with each random direction ablated everywhere; the chosen one, being the best of
    many candidates, is fairly compared with the lowest of these."""
    clean: float
    """Mean metric of the clean prompts."""
    corrupt: float
    positions: tuple[int, ...]
    """From the end."""
    layer: int
    position: int
    max_kl: float

    @property
    def direction(self) -> Float[Tensor, " d_model"]:
        """The chosen difference of means, at its own norm."""
        return self.candidates[self.layer, self.positions.index(self.position)]

    @property
    def selection(self) -> Selection:
        """Which filter rejected how many, the survivors, the choice and its ties."""
        return _select(self.bypass, self.induce, self.kl, self.positions, corrupt=self.corrupt, max_kl=self.max_kl)

    def to_frame(self) -> pd.DataFrame:
        """One row per candidate: norm, bypass, induce, kl, whether it passed the filters, and which was chosen."""
        axes = {"layer": list(range(self.bypass.shape[0])), "pos": list(self.positions)}
        named = {
            "norm": self.candidates.norm(dim=-1), "bypass": self.bypass, "induce": self.induce, "kl": self.kl,
        }  # fmt: skip
        passed = {"passed": self.selection.passed}
        frame = long_frame(axes, {n: t.double().numpy() for n, t in named.items()} | passed)
        return frame.assign(chosen=(frame["layer"] == self.layer) & (frame["pos"] == self.position))

    def figure(self) -> go.Figure:
        """Share of the clean − corrupt gap that ablating each candidate removes."""
        frame = self.to_frame()
        removed = (self.clean - frame["bypass"]) / (self.clean - self.corrupt)
        return heatmap(
            frame.assign(removed=removed), x="pos", y="layer", value="removed", marked="chosen",
            title="Ablating each candidate direction everywhere, clean prompts",
            x_title="position (from the end)", y_title="layer entered", unit="share of the metric's gap removed", quantile=1.0,
            caption=self.provenance.caption,
        )  # fmt: skip


def choose_direction(
    model: Model,
    tokens: TokenPairs,
    metric: Metric,
    *,
    max_kl: float = 0.1,
    folds: int = 5,
    null_draws: int = 10,
    seed: int = 0,
) -> DirectionChoice:
    """Score every layer × position after the subject and choose. `bypass` and `induce` are in units of the metric.

    Raises UndefinedError where no candidate passes, saying which filter stopped how many and what to loosen.
    """
    difference = _differences(model, tokens)
    columns = list(range(int(tokens.subject.max()) + 1, tokens.n_pos)) or [tokens.last]
    candidates = difference.mean(0)[:, columns]
    size = _size(model, tokens)
    defined = candidates.norm(dim=-1) > _SMALL * size
    where = [(int(at[0]), int(at[1])) for at in defined.nonzero()]
    if not where:
        raise UndefinedError(
            "clean and corrupt residuals agree at every position after the subject: no direction there"
        )
    layers = range(model.shape.n_layers)
    ablations: list[Cell] = [ablate_everywhere(candidates[at], layers) for at in where]
    additions: list[Cell] = [(Add(Site("resid_pre", layer), candidates[layer, p]),) for layer, p in where]
    nulls: list[Cell] = [
        ablate_everywhere(v, layers) for v in random_directions(null_draws, model.shape.d_model, seed=seed)
    ]
    removed = sweep(model, tokens, metric, [*ablations, *nulls], direction="noise")
    added = sweep(model, tokens, metric, additions, direction="denoise")
    harm = sweep(model, tokens, Divergence(model, tokens), ablations, direction="denoise", audited=False)
    scores = torch.full((3, *defined.shape), float("nan"))
    for i, values in enumerate((removed.value[: len(where)], added.value, harm.value)):
        scores[i, defined] = values.mean(-1)
    bypass, induce, kl = scores
    clean, corrupt = float(removed.base.mean()), float(removed.source.mean())
    if not clean > corrupt:
        raise UndefinedError(
            f"the metric is not higher on the clean prompts ({clean:.3g}) than on the corrupt ones ({corrupt:.3g})\n"
            "clean prompts show the behaviour: swap the columns, or choose a metric that rises with it"
        )
    positions = tuple(c - tokens.n_pos for c in columns)
    layer, p = _select(bypass, induce, kl, positions, corrupt=corrupt, max_kl=max_kl).index
    return DirectionChoice(
        provenance=provenance(model, tokens, metric, removed.certificate.line),
        candidates=candidates, bypass=bypass, induce=induce, kl=kl,
        held_out=_held_out(difference[:, layer, columns[p]], folds),
        null_bypass=removed.value[len(where) :].mean(-1), clean=clean, corrupt=corrupt,
        positions=positions, layer=layer, position=positions[p], max_kl=max_kl,
    )  # fmt: skip


def _differences(model: Model, tokens: TokenPairs) -> Float[Tensor, "pair layer pos d_model"]:
    """Clean − corrupt residual entering every block, per pair."""
    runs = [capture(model, ids, tokens.mask).resid[:-1] for ids in (tokens.clean, tokens.corrupt)]
    return (torch.stack(runs[0], 1) - torch.stack(runs[1], 1)).float().cpu()


def _size(model: Model, tokens: TokenPairs) -> Float[Tensor, "layer one"]:
    """Typical norm of the residual entering each block, at the last position."""
    run = capture(model, tokens.clean, tokens.mask)
    return torch.stack([x[:, -1].float().norm(dim=-1).mean() for x in run.resid[:-1]])[:, None].cpu()


def _select(
    bypass: Float[Tensor, "layer position"], induce: Float[Tensor, "layer position"],
    kl: Float[Tensor, "layer position"], positions: tuple[int, ...], *, corrupt: float, max_kl: float,
) -> Selection:  # fmt: skip
    """The lowest bypass among candidates that raise the metric and whose kl is small."""
    score, raised, harm = (t.double().numpy() for t in (bypass, induce, kl))
    filters = (
        Filter("kl", harm, "at most", max_kl, "max_kl"),
        Filter("induce", raised, "more than", corrupt, remedy="check that the metric rises with the behaviour"),
    )
    axes = {"layer": range(len(score)), "position": positions}
    return select(score, filters, axes=axes, what="candidate directions")


def _held_out(difference: Float[Tensor, "pair d_model"], folds: int) -> Float[Tensor, "pair d_model"]:
    """For each pair, the mean difference over the pairs of the other folds (pairs dealt in turn).

    NaN for a single pair: nothing is left to estimate from.
    """
    n = len(difference)
    fold = torch.arange(n) % max(2, min(folds, n))
    return torch.stack([difference[fold != fold[i]].mean(0) for i in range(n)])
