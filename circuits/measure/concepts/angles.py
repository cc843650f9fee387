"""Are two concepts one direction? The angle between their differences of means, by layer, and what noise alone gives.

    d₁ = mean(harmful) − mean(harmless)    d₂ = mean(incapable) − mean(harmless)    cos = ⟨d₁, d₂⟩/(‖d₁‖‖d₂‖)

Both directions hold the sampling noise of the class they share. Where no class differs from any other, cos is therefore
about (1/n₀)/√((1/n₁ + 1/n₀)(1/n₂ + 1/n₀)): for classes of one size ½, an angle of 60°, and not 90°. In turn the noise of
the other classes pulls cos towards 0. Three estimates are given:

    cosine     as it is usually computed, biased in both ways
    corrected  every inner product without its noise (no prompt is multiplied with itself), so that neither bias is left
               but for that of a ratio; NaN where a squared norm without its noise is not positive
    split      d₁ from one half of the shared class, d₂ from the other, mean over random halvings: ⟨d₁, d₂⟩ has no bias, but
               cos is too close to 0

Two nulls, which test different things (p-values are of `cosine`; `…_holm` over layers):

    swapped   labels of the two `of` classes are shuffled among themselves. H₀: harmful and incapable prompts come from one
              distribution, so that there is one concept. p_distinct: is cos lower than that?
    shuffled  all labels are shuffled. H₀: no class differs from any other. p_labels, two-sided, asks of the angle;
              p_first and p_second of each direction's squared norm: is there a direction at all?

Neither null says that two real directions have nothing in common; that is `corrected` with its interval. And nothing here
tells a shared concept of saying no from whatever else both classes share against the third, such as length or style.
Source: the extension of "Refusal in Language Models Is Mediated by a Single Direction" to incapability
(angle by layer); Arditi et al., arXiv 2406.11717 (difference of means).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import lines
from circuits.engine.collect import last_residuals
from circuits.errors import CircuitError, UndefinedError
from circuits.measure.concepts.chance import adjusted, degrees, limits, tail
from circuits.measure.concepts.contrasts import (
    Array,
    Labels,
    drawn_again,
    gram,
    halved,
    inner,
    means,
    relabelled,
    resampled,
)  # fmt: skip
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Result
from circuits.stats.significance import ALPHA
from circuits.tables import of_instructions

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FEWEST: Final = 5
"""Prompts of a class: with fewer, resampling them says nothing."""
_SMALL: Final = 1e-3
"""A difference of means shorter than this share of the residual's own norm is no direction."""


@final
@dataclass(frozen=True, kw_only=True)
class ConceptAngles(Result):
    """Cosine of two concepts' directions entering every block, with its draws; NaN where a direction is undefined."""

    cosine: Float[Tensor, " layer"]
    corrected: Float[Tensor, " layer"]
    split: Float[Tensor, " layer"]
    norm: Float[Tensor, "concept layer"]
    """Of the differences of means, noise included."""
    squared: Float[Tensor, "concept layer"]
    """Squared norm without its noise, which may be below zero."""
    bootstrap: Float[Tensor, "sample layer"]
    """`cosine` of prompts drawn again within each class."""
    bootstrap_corrected: Float[Tensor, "sample layer"]
    swapped: Float[Tensor, "sample layer"]
    shuffled: Float[Tensor, "sample layer"]
    shuffled_squared: Float[Tensor, "sample concept layer"]
    concepts: tuple[tuple[str, str], tuple[str, str]]
    """(of, against), twice."""
    counts: dict[str, int]
    """Prompts of each class."""
    undefined: tuple[int, ...]
    """Layers where a difference of means is nothing beside the residual: before any block all prompts end in one token."""

    @property
    def expected(self) -> float:
        """Cosine that sampling noise alone gives where all classes spread alike."""
        first, second = ({of: 1.0, against: -1.0} for of, against in self.concepts)
        shared = sum(first[k] * second[k] / self.counts[k] for k in first if k in second)
        sizes = [sum(1 / self.counts[k] for k in concept) for concept in (first, second)]
        return shared / float(np.sqrt(sizes[0] * sizes[1]))

    def to_frame(self) -> pd.DataFrame:
        """One row per layer: the three cosines and angles (degrees) with 95 % intervals, norms, nulls and p-values.

        `swapped_…` and `shuffled_…`: the middle 95 % and the mean of `cosine` under either null.
        """
        import pandas as pd

        frame = pd.DataFrame({"layer": range(len(self.cosine))})
        for name, draws in (("cosine", self.bootstrap), ("corrected", self.bootstrap_corrected), ("split", None)):
            value = _numpy(getattr(self, name))
            angle = name.replace("cosine", "angle") if name == "cosine" else f"angle_{name}"
            frame[name], frame[angle] = value, degrees(value)
            if draws is not None:
                low, high = limits(_numpy(draws))
                frame[f"{name}_low"], frame[f"{name}_high"] = low, high
                frame[f"{angle}_low"], frame[f"{angle}_high"] = degrees(high), degrees(low)
        for i, which in enumerate(("first", "second")):
            frame[f"norm_{which}"], frame[f"squared_norm_{which}"] = _numpy(self.norm[i]), _numpy(self.squared[i])
        for name in ("swapped", "shuffled"):
            draws = _numpy(getattr(self, name))
            frame[f"{name}_low"], frame[f"{name}_high"] = limits(draws)
            frame[f"{name}_mean"] = draws.mean(axis=0)
        for name, p in self._p_values().items():
            frame[name], frame[f"{name}_holm"] = p, adjusted(p)
        return frame

    def to_summary(self) -> pd.DataFrame:
        """One row per layer: corrected angle and cosine with interval, adjusted p-values, and `verdict`.

        no direction: a squared norm is not above chance; one direction: not told apart; otherwise distinct, and related
        where the interval of `corrected` excludes 0, unrelated where it does not (which is no proof of it).
        """
        frame = self.to_frame()
        kept = [
            "layer", "cosine", "corrected", "corrected_low", "corrected_high", "angle", "angle_corrected",
            "angle_corrected_low", "angle_corrected_high", "p_first_holm", "p_second_holm", "p_distinct_holm",
        ]  # fmt: skip
        return frame[kept].assign(verdict=[_verdict(row) for row in frame.to_dict("records")])

    def figure(self) -> go.Figure:
        """Angle by layer: as it is usually computed, and without its noise; what noise alone gives as a line."""
        return self._drawn(
            "angle", "degrees", {"noise alone": float(np.degrees(np.arccos(self.expected))), "orthogonal": 90.0}
        )

    def cosine_figure(self) -> go.Figure:
        """The same as cosines, with the range of both nulls."""
        return self._drawn("cosine", "cosine", {"noise alone": self.expected, "orthogonal": 0.0}, nulls=True)

    def _drawn(self, what: str, unit: str, reference: dict[str, float], *, nulls: bool = False) -> go.Figure:
        import pandas as pd

        frame = self.to_frame()
        corrected = "angle_corrected" if what == "angle" else "corrected"
        series = {"as computed": (what, f"{what}_low", f"{what}_high")}
        series["noise removed"] = (corrected, f"{corrected}_low", f"{corrected}_high")
        if nulls:
            series["null: of-classes swapped"] = ("swapped_mean", "swapped_low", "swapped_high")
            series["null: all labels shuffled"] = ("shuffled_mean", "shuffled_low", "shuffled_high")
        parts = [
            frame[["layer"]].assign(y=frame[y], low=frame[low], high=frame[high], estimate=name)
            for name, (y, low, high) in series.items()
        ]
        names = " and ".join(f"{of} − {against}" for of, against in self.concepts)
        said = ", ".join(map(str, self.undefined))
        note = f" · undefined (no difference of means): layer {said}" if said else ""
        return lines(
            pd.concat(parts, ignore_index=True), x="layer", y="y", color="estimate", low="low", high="high",
            reference=reference, title=f"Between {names}, last position", x_title="layer entered", y_title=f"{what} ({unit})"
            if what != unit else unit, caption=self.provenance.caption + note,
        )  # fmt: skip

    def _p_values(self) -> dict[str, Array]:
        cosine, swapped, shuffled = (_numpy(x) for x in (self.cosine, self.swapped, self.shuffled))
        under, over = tail(shuffled <= cosine, cosine, shuffled), tail(shuffled >= cosine, cosine, shuffled)
        found = {
            "p_distinct": tail(swapped <= cosine, cosine, swapped),
            "p_labels": np.minimum(1.0, 2 * np.minimum(under, over)),
        }
        null, squared = _numpy(self.shuffled_squared), _numpy(self.squared)
        for i, which in enumerate(("first", "second")):
            found[f"p_{which}"] = tail(null[:, i] >= squared[i], squared[i], null[:, i])
        return found


def compare_concepts(
    model: Model, prompts: InstructionTokens, *, first: tuple[str, str] = ("harmful", "harmless"),
    second: tuple[str, str] = ("incapable", "harmless"), draws: int = 2000, seed: int = 0,
) -> ConceptAngles:  # fmt: skip
    """Angle and cosine between the directions of two concepts, (of, against), at the last position of every layer.

    Intervals are percentiles over prompts drawn again within their classes, `draws` times, as are both nulls. In a
    bootstrap of `corrected`, two draws of one prompt count as one prompt, so that its draws centre on the estimate.
    Measured where 95 % is claimed, for 10 to 50 Gaussian prompts of a class in 100 to 2000 dimensions: 97 to 99 % for
    `corrected`; for `cosine`, whose bias is drawn again on top of itself, from 0 % (90° read as 67°) up, so that its
    interval says how it varies and not where the truth is.
    Prompts are taken as independent. One forward pass over the prompts. Raises CircuitError, before it, for a class with
    fewer than five prompts, for concepts of one class, and for too few draws for any adjusted p to be small; UndefinedError
    where the classes differ at no layer.
    """
    needed = int(np.ceil(model.shape.n_layers / ALPHA))
    if draws < needed:
        raise CircuitError(
            f"{draws} draws over {model.shape.n_layers} layers allow no adjusted p ≤ {ALPHA:g}\ngive at least {needed}"
        )
    of = (first[0], second[0])
    if first[0] in second or second[0] in first or first[0] == first[1] or second[0] == second[1]:
        raise CircuitError(
            f"concepts {first} and {second}: what a concept is of may stand nowhere else\n"
            "name two classes, each against a third (or each its own)"
        )
    labels = tuple(dict.fromkeys((*of, first[1], second[1])))
    rows = {label: np.flatnonzero(prompts.labelled(label).numpy()) for label in labels}
    few = [f"{label}: {len(there)}" for label, there in rows.items() if len(there) < FEWEST]
    if few:
        raise CircuitError(
            f"{prompts.instructions.name}: too few prompts ({', '.join(few)})\ngive at least {FEWEST} of each class"
        )
    chosen = torch.zeros(len(prompts.ids), dtype=torch.bool)
    chosen[np.concatenate(list(rows.values()))] = True
    kept = prompts.only(chosen)
    counts = {label: len(there) for label, there in rows.items()}
    about = of_instructions(model, kept)
    activations = last_residuals(model, kept)
    of_prompt = np.array([labels.index(i.label) for i in kept.instructions])
    signs = np.array(
        [[float(label == of) - float(label == against) for label in labels] for of, against in (first, second)]
    )
    found = measured(activations, of_prompt, signs, draws=draws, seed=seed)
    if not found["cosine"].isfinite().any():
        raise UndefinedError(
            f"{kept.instructions.name}: the classes do not differ at the last position of any layer: no directions\n"
            "check that the instructions stand in the prompts"
        )
    undefined = tuple(int(i) for i in found["cosine"].isnan().nonzero()[:, 0])
    return ConceptAngles(provenance=about, concepts=(first, second), counts=counts, undefined=undefined, **found)


def measured(
    activations: Float[Tensor, "prompt layer d_model"], of_prompt: Labels, signs: Array, *, draws: int, seed: int
) -> dict[str, Tensor]:
    """Every tensor of `ConceptAngles`, of activations whose classes are `of_prompt` and whose directions are `signs`."""
    x = activations.double().numpy()
    n_classes, rng = signs.shape[1], np.random.default_rng(seed)
    grams = gram(x)
    one = inner(grams, means(of_prompt[None], n_classes), signs)
    squared = np.einsum("slaa->sal", one.plain)[0]
    size = np.linalg.norm(x, axis=-1).mean(axis=0)
    there = (squared > (_SMALL * size) ** 2).all(axis=0)  # of each layer
    halves, apart = halved(of_prompt, signs, rng)
    everyone = np.arange(n_classes)
    of = np.flatnonzero((signs > 0).any(axis=0))
    boot = resampled(grams, drawn_again(of_prompt, n_classes, rng), signs, draws)
    swapped = resampled(grams, relabelled(of_prompt, n_classes, of, rng), signs, draws)
    shuffled = resampled(grams, relabelled(of_prompt, n_classes, everyone, rng), signs, draws)
    split = resampled(grams, halves, apart, draws).cosine.mean(axis=0)
    found = {
        "cosine": one.cosine[0], "corrected": one.corrected[0], "split": split, "norm": np.sqrt(squared),
        "squared": np.einsum("slaa->sal", one.unbiased)[0], "bootstrap": boot.cosine, "bootstrap_corrected": boot.corrected,
        "swapped": swapped.cosine, "shuffled": shuffled.cosine,
        "shuffled_squared": np.einsum("slaa->sal", shuffled.unbiased),
    }  # fmt: skip
    # norms stand as they are where there is no direction: they say why
    return {
        name: torch.from_numpy(value if name == "norm" else np.where(there, value, np.nan))
        for name, value in found.items()
    }


def _numpy(t: Tensor) -> Array:
    return t.double().numpy()


def _verdict(row: dict[Any, Any]) -> str:
    if not np.isfinite(row["cosine"]):
        return "undefined"
    if max(row["p_first_holm"], row["p_second_holm"]) > ALPHA:
        return "no direction"
    if row["p_distinct_holm"] > ALPHA:
        return "one direction"
    if not np.isfinite(row["corrected_low"]):
        return "distinct"
    return "distinct, related" if row["corrected_low"] > 0 or row["corrected_high"] < 0 else "distinct, unrelated"
