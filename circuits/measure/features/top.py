"""What do features fire on? The tokens of given prompts that activate each the most.

    density[feature]   share of real positions at which it is active
    example            a prompt and a token in it, marked ‹so›, with the activation there

It misleads: the largest activations are the tail. A feature that looks clean there may fire on much else, which its
density and mean tell; and only what the given prompts contain can be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.draw import distribution
from circuits.errors import SiteError
from circuits.measure.features.decomposition import provenance_of
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Result
from circuits.sae import Sae, prompt_batches

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_AROUND = 6
"""Tokens shown on either side of the one that is marked."""
_DRAWN = 6
"""Features in the figure."""


@final
@dataclass(frozen=True, kw_only=True)
class TopFeatures(Result):
    """Features with the prompts that activate them the most; an activation of 0 is no example."""

    features: tuple[int, ...]
    activation: Float[Tensor, "feature _"]
    """Of each feature's examples, the largest first."""
    prompt: Int[Tensor, "feature _"]
    position: Int[Tensor, "feature _"]
    """Where the example stands; positions counted from the end."""
    density: Float[Tensor, " feature"]
    mean: Float[Tensor, " feature"]
    """Mean activation over all real positions."""
    text: tuple[tuple[str, ...], ...]
    """[prompt][pos], "" at padding."""
    labels: tuple[str, ...]
    sae: str
    layer: int

    def to_frame(self) -> pd.DataFrame:
        """One row per feature and example: rank, prompt, its label, pos, token, context with the token marked, activation."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for row, feature in enumerate(self.features):
            for rank in range(self.activation.shape[1]):
                value = float(self.activation[row, rank])
                if value == 0:
                    continue
                prompt, pos = int(self.prompt[row, rank]), int(self.position[row, rank])
                pieces = self.text[prompt]
                rows.append({
                    "feature": feature, "label": f"L{self.layer}.F{feature}", "rank": rank + 1, "activation": value,
                    "prompt": prompt, "prompt_label": self.labels[prompt], "pos": pos, "token": pieces[pos],
                    "context": marked(pieces, pos), "density": float(self.density[row]), "mean": float(self.mean[row]),
                })  # fmt: skip
        return pd.DataFrame(rows)

    def to_summary(self) -> pd.DataFrame:
        """One row per feature: density, mean, largest activation, its tokens, and the labels of those prompts."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for feature, mine in self.to_frame().groupby("feature", sort=False):
            first = mine.iloc[0]
            rows.append({
                "feature": feature, "label": first["label"], "density": first["density"], "mean": first["mean"],
                "largest": first["activation"], "tokens": " ".join(dict.fromkeys(mine["token"].str.strip())),
                "prompt_labels": ", ".join(dict.fromkeys(mine["prompt_label"])),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Activations of the examples of the first features, with the labels of their prompts; hover shows the context."""
        frame = self.to_frame()
        shown = frame[frame["feature"].isin(self.features[:_DRAWN])]
        on = {str(r["label"]): str(r["prompt_labels"]) for r in self.to_summary().to_dict("records")}
        return distribution(
            shown.assign(feature=[f"{label}: {on[label]}" for label in shown["label"]], text=shown["context"]),
            value="activation", color="feature", title="What activates each feature the most",
            x_title="activation", caption=f"{self.provenance.caption} · {self.sae}",
        )  # fmt: skip


def marked(pieces: Sequence[str], pos: int, around: int = _AROUND) -> str:
    """The tokens around position `pos` (counted from the end), with that one in ‹ ›."""
    column = pos % len(pieces)
    start, end = max(0, column - around), min(len(pieces), column + around + 1)
    text = "".join(f"‹{piece}›" if i == column else piece for i, piece in enumerate(pieces[start:end], start))
    return ("…" if any(pieces[:start]) else "") + text + ("…" if end < len(pieces) else "")


def top_features(
    model: Model, sae: Sae, prompts: InstructionTokens, *, features: Sequence[int] | None = None, n: int = 20,
    examples: int = 5, skip_first: bool = True,
) -> TopFeatures:  # fmt: skip
    """The prompts that activate `features` the most; without them, the `n` features with the largest mean activation.

    At most one example of a feature is taken from one prompt. `skip_first` leaves out every prompt's first token, whose
    activation is the same in all of them. Raises SiteError for a feature that does not exist, or none.
    """
    if features is not None:
        sae.require(list(features))
    if examples < 1 or (n < 1 if features is None else not features):
        raise SiteError("no features or no examples asked for; give at least one")
    peak, column, total, fired, positions = _peaks(model, sae, prompts, skip_first=skip_first)
    mean = total / positions
    chosen = mean.argsort(descending=True, stable=True)[:n].tolist() if features is None else list(features)
    best, prompt = peak[:, chosen].T.topk(min(examples, len(peak)))
    return TopFeatures(
        provenance=provenance_of(model, f"{len(prompts.ids)} prompts ({prompts.hash})"), features=tuple(chosen),
        activation=best, prompt=prompt, position=column[:, chosen].T.gather(1, prompt) - prompts.ids.shape[1],
        density=(fired[chosen] / positions).float(), mean=mean[chosen].float(), text=prompts.text,
        labels=tuple(i.label for i in prompts.instructions), sae=sae.title, layer=sae.site.layer,
    )  # fmt: skip


def _peaks(
    model: Model, sae: Sae, prompts: InstructionTokens, *, skip_first: bool
) -> tuple[Float[Tensor, "prompt feature"], Int[Tensor, "prompt feature"], Tensor, Tensor, int]:
    """Each prompt's largest activation of every feature, its column, and the sums over all positions."""
    counted = _counted(prompts.mask, skip_first=skip_first)
    peaks: list[Tensor] = []
    columns: list[Tensor] = []
    total, fired = torch.zeros(sae.n_features, dtype=torch.double), torch.zeros(sae.n_features, dtype=torch.double)
    for rows, acts in prompt_batches(model, prompts, sae):
        found = acts.features * counted[list(rows)][..., None]
        best, where = found.max(1)
        peaks.append(best)
        columns.append(where)
        total += found.double().sum((0, 1))
        fired += (found != 0).double().sum((0, 1))
    return torch.cat(peaks), torch.cat(columns), total, fired, int(counted.sum())


def _counted(mask: Bool[Tensor, "prompt pos"], *, skip_first: bool) -> Bool[Tensor, "prompt pos"]:
    first = mask & (mask.long().cumsum(1) == 1)
    return mask & ~first if skip_first else mask
