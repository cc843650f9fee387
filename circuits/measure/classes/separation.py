"""Do classes of prompts lie apart? Principal components of every layer, and two scores of separation with their null.

    silhouette   mean over prompts of (b − a)/max(a, b): a to its own class, b to the nearest other (−1 to 1)
    accuracy     share of prompts nearest to the mean of their own class, themselves left out of it (Wilson interval)

Each in the space of all components (`full`) and in the picture's plane of the first two (`plane`): a picture can hide a
separation that is there, and with more directions than prompts distances in the full space are mostly noise. Components do
not see labels, but they do see the prompt that is left out.

Null: labels shuffled over prompts, the same way at every layer. A prompt's own answer depends on the others', so that
Wilson's interval is a little too narrow. What separates the classes may be anything in which the sets of prompts differ.
Source: the extension of "Refusal in Language Models Is Mediated by a Single Direction" to incapability
(clusters of activations by layer); Rousseeuw 1987 (silhouette).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import lines, scatter_grid
from circuits.errors import CircuitError
from circuits.measure.classes.activations import Array, Labelled, Scaling, labelled, principal
from circuits.measure.classes.scores import nearest_mean, silhouettes
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.instructions import LABELS
from circuits.result import Result
from circuits.stats import holm, wilson
from circuits.stats.significance import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SPACES: Final = ("full", "plane")


@final
@dataclass(frozen=True, kw_only=True)
class ClassSeparation(Result):
    """First two components of every prompt by layer, and how far its classes lie apart; NaN where layers are undefined."""

    coordinates: Float[Tensor, "prompt layer component"]
    """On the first two components; their signs mean nothing."""
    variance: Float[Tensor, "layer component"]
    """Share of the variance (of the squared length, where `scaling` is raw) in each of the two."""
    silhouette_full: Float[Tensor, " layer"]
    silhouette_plane: Float[Tensor, " layer"]
    right_full: Bool[Tensor, "prompt layer"]
    """Nearest to the mean of the own class, left out of it; False at undefined layers."""
    right_plane: Bool[Tensor, "prompt layer"]
    null_silhouette_full: Float[Tensor, "sample layer"]
    null_silhouette_plane: Float[Tensor, "sample layer"]
    null_accuracy_full: Float[Tensor, "sample layer"]
    null_accuracy_plane: Float[Tensor, "sample layer"]
    labels: tuple[str, ...]
    """Of each prompt."""
    text: tuple[str, ...]
    scaling: str
    undefined: tuple[int, ...]
    """Layers where all prompts have one activation: before any block they end in one token."""

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt and layer: label, text, `pc1`, `pc2`, and whether its class is found (`right_…`)."""
        import pandas as pd

        n, n_layers = self.right_full.shape
        xy = self.coordinates.double().numpy()
        return pd.DataFrame({
            "prompt": np.repeat(range(n), n_layers), "layer": np.tile(range(n_layers), n),
            "label": np.repeat(self.labels, n_layers), "pc1": xy[..., 0].ravel(), "pc2": xy[..., 1].ravel(),
            "right_full": self.right_full.numpy().ravel(), "right_plane": self.right_plane.numpy().ravel(),
            "text": np.repeat(np.array(self.text, dtype=object), n_layers),
        })  # fmt: skip

    def to_summary(self) -> pd.DataFrame:
        """One row per layer and space: both scores, their null (mean and 95 % quantile), p (one-sided) and Holm's over layers.

        `accuracy_low` and `accuracy_high` are Wilson's; `found_LABEL` is the accuracy among the prompts of one class.
        `variance` is that of the two components together.
        """
        import pandas as pd

        table = pd.DataFrame([row for space in SPACES for row in self._rows(space)])
        for score in ("silhouette", "accuracy"):
            for space in SPACES:
                here = (table["space"] == space) & table[f"p_{score}"].notna()
                table.loc[here, f"p_{score}_holm"] = holm(table.loc[here, f"p_{score}"].to_numpy())
        return table

    def _rows(self, space: str) -> list[dict[str, Any]]:
        right = getattr(self, f"right_{space}").numpy()
        values = {"silhouette": getattr(self, f"silhouette_{space}").double().numpy(), "accuracy": right.mean(axis=0)}
        null = {score: getattr(self, f"null_{score}_{space}").double().numpy() for score in values}
        of = np.array(self.labels)
        rows: list[dict[str, Any]] = []
        for layer in range(right.shape[1]):
            known = layer not in self.undefined
            interval = wilson(int(right[:, layer].sum()), len(right))
            row: dict[str, Any] = {"layer": layer, "space": space, "n": len(right)}
            for score, value in values.items():
                draws = null[score][:, layer]
                hits = int((draws >= value[layer] - 1e-12).sum())
                row |= {
                    score: value[layer], f"null_{score}": draws.mean(), f"null_{score}_high": np.quantile(draws, 0.95),
                    f"p_{score}": (1 + hits) / (1 + len(draws)),
                }  # fmt: skip
            row |= {"accuracy_low": interval.low, "accuracy_high": interval.high}
            row |= {f"found_{label}": right[of == label, layer].mean() for label in dict.fromkeys(self.labels)}
            given = ("layer", "space", "n")
            row = {k: v if known or k in given else np.nan for k, v in row.items()}
            rows.append(row | {"variance": float(self.variance[layer].sum())})
        return rows

    def figure(self) -> go.Figure:
        """All prompts on the first two components of every layer, coloured by class."""
        frame = self.to_frame()
        shares = self.variance.double().numpy()
        notes = [
            "one activation" if layer in self.undefined else f"{a:.0%} + {b:.0%}" for layer, (a, b) in enumerate(shares)
        ]
        what = "squared length" if self.scaling == "raw" else "variance"
        return scatter_grid(
            frame.assign(panel=[f"layer {i}" for i in frame["layer"]], note=[notes[i] for i in frame["layer"]]),
            x="pc1", y="pc2", color="label", facet="panel", facet_note="note",
            title=f"Activations at the last position ({self.scaling}), first two principal components",
            x_title="component 1", y_title="component 2",
            caption=f"{self.provenance.caption} · percentages: share of the {what} · crosses: means",
        )  # fmt: skip

    def score_figure(self) -> go.Figure:
        """Silhouette and accuracy by layer, in both spaces, with the 95 % quantile of shuffled labels."""
        import pandas as pd

        table = self.to_summary()
        parts: list[pd.DataFrame] = []
        for score in ("silhouette", "accuracy"):
            for space, own in table.groupby("space", sort=False):
                kept = own[["layer"]].assign(score=score, space=space)
                low, high = (own[f"accuracy_{e}"] if score == "accuracy" else own[score] for e in ("low", "high"))
                parts.append(kept.assign(value=own[score], low=low, high=high, labels="given"))
                null = own[f"null_{score}_high"]
                parts.append(kept.assign(value=null, low=null, high=null, labels="shuffled (95 %)"))
        return lines(
            pd.concat(parts, ignore_index=True), x="layer", y="value", color="space", dash="labels", facet="score",
            low="low", high="high", title=f"Separation of {', '.join(dict.fromkeys(self.labels))}",
            x_title="layer entered", y_title="score", caption=self.provenance.caption,
        )  # fmt: skip


def separate_classes(
    model: Model, prompts: InstructionTokens, *, labels: Sequence[str] = LABELS, scaling: Scaling = "centred",
    draws: int = 1000, seed: int = 0,
) -> ClassSeparation:  # fmt: skip
    """Separation of the classes `labels` at the last position of every layer, on activations scaled as named.

    Costs one forward pass over the prompts. Raises CircuitError, before it, for a class with fewer than five prompts, fewer
    than two classes, a scaling that is none, and too few `draws` for any adjusted p to be small; UndefinedError where
    all prompts have one activation at every layer.
    """
    needed = int(np.ceil(model.shape.n_layers / ALPHA))
    if draws < needed:
        raise CircuitError(
            f"{draws} draws over {model.shape.n_layers} layers allow no adjusted p ≤ {ALPHA:g}\ngive at least {needed}"
        )
    found = labelled(model, prompts, labels, scaling)
    return ClassSeparation(
        provenance=found.about, labels=tuple(found.labels[c] for c in found.of_prompt), text=found.text, scaling=scaling,
        undefined=found.undefined, **measured(found, draws=draws, seed=seed),
    )  # fmt: skip


def measured(found: Labelled, *, draws: int, seed: int) -> dict[str, Tensor]:
    """Every tensor of `ClassSeparation`."""
    n, n_layers = found.x.shape[:2]
    n_classes = len(found.labels)
    rng = np.random.default_rng(seed)
    labels = np.concatenate([found.of_prompt[None], rng.permuted(np.tile(found.of_prompt, (draws, 1)), axis=1)])
    coordinates, variance = np.full((n, n_layers, 2), np.nan), np.full((n_layers, 2), np.nan)
    silhouette, accuracy = (np.full((2, 1 + draws, n_layers), np.nan) for _ in range(2))
    right = np.zeros((2, n, n_layers), dtype=bool)
    for layer in np.flatnonzero(found.defined):
        parts = principal(found.x[:, layer])
        plane: Array = np.zeros((n, 2))
        plane[:, : parts.scores.shape[1]] = parts.scores[:, :2]
        coordinates[:, layer] = plane
        variance[layer] = [*parts.variance[:2], 0.0][:2]
        for space, points in enumerate((parts.scores, plane)):
            silhouette[space, :, layer] = silhouettes(points, labels, n_classes)
            nearest = nearest_mean(points, labels, n_classes)
            accuracy[space, :, layer], right[space, :, layer] = nearest.mean(-1), nearest[0]
    tensors: dict[str, Any] = {"coordinates": coordinates, "variance": variance}
    for space, name in enumerate(SPACES):
        tensors |= {f"silhouette_{name}": silhouette[space, 0], f"right_{name}": right[space]}
        tensors |= {f"null_silhouette_{name}": silhouette[space, 1:], f"null_accuracy_{name}": accuracy[space, 1:]}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
