"""Which features carry the difference of two classes of prompts? Its exact parts, and how much few of them hold.

    D = mean act(of) − mean act(against) = Σ_i Δ_i d_i + offset + Δerror        exactly, at one position

Δ_i is the mean difference of feature i (times the scale, for an autoencoder that normalises), d_i its direction; `offset` is
what normalisation alone reads, zero without it. Two shares of the top k, ranked by |projection|:

    projection   Σ ⟨Δ_i d_i, D⟩/‖D‖²           adds up to 1 with offset and error: how far along D they reach
    norm         1 − ‖D − Σ Δ_i d_i‖²/‖D‖²     what is left of D when they are taken out; below 0 where they overshoot

The null shuffles the labels of the prompts: a difference of random halves is also a sum of features, and few may carry it.
Labels are shuffled over all prompts: of pairs that share their wording, that makes the null wider than it need be.
It misleads: shuffled differences are shorter, so shares compare shapes, not sizes; `p` of a feature compares sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.draw import lines
from circuits.errors import CircuitError, UndefinedError
from circuits.measure.features.decomposition import provenance_of
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Result
from circuits.sae import Acts, Sae, prompt_acts

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_SMALL = 1e-3
"""A class difference shorter than this share of the activation's own norm is none."""


@final
@dataclass(frozen=True, kw_only=True)
class ClassFeatures(Result):
    """The difference of class means at the last position, feature by feature."""

    difference: Float[Tensor, " size"]
    mean_of: Float[Tensor, " feature"]
    mean_against: Float[Tensor, " feature"]
    """Mean activation of each feature in either class."""
    active_of: Float[Tensor, " feature"]
    active_against: Float[Tensor, " feature"]
    """Share of prompts of either class in which each feature is active."""
    projection: Float[Tensor, " feature"]
    """Of each feature's part on the difference, as a share; with those of offset and error they add up to 1."""
    p: Float[Tensor, " feature"]
    """Of each feature's mean difference over its spread, against the largest of all features under shuffled labels."""
    order: tuple[int, ...]
    """Features by |projection|, the largest first."""
    top_projection: Float[Tensor, " _"]
    top_norm: Float[Tensor, " _"]
    """Shares of the top 1, 2, … features."""
    null_projection: Float[Tensor, "sample _"]
    null_norm: Float[Tensor, "sample _"]
    """The same of differences under shuffled labels, each ranked anew."""
    error_projection: float
    error_norm: float
    """‖Δerror‖²/‖D‖²."""
    offset_projection: float
    of: str
    against: str
    sae: str
    layer: int

    def to_frame(self) -> pd.DataFrame:
        """One row per feature that differs: rank, feature, label, both means and shares of prompts, projection, p."""
        import pandas as pd

        ids = [i for i in self.order if self.mean_of[i] != self.mean_against[i]]
        columns = ("mean_of", "mean_against", "active_of", "active_against", "projection", "p")
        return pd.DataFrame(
            {"rank": range(1, len(ids) + 1), "feature": ids, "label": [f"L{self.layer}.F{i}" for i in ids]}
            | {name: getattr(self, name)[ids].double().numpy() for name in columns}
        ).assign(of=self.of, against=self.against)

    def to_summary(self) -> pd.DataFrame:
        """One row per k: both shares of the top k, each with the shuffled labels' mean, 95 % range and p for this k alone.

        `p` is the chance that as many features carry as much of a difference of shuffled classes.
        """
        import pandas as pd

        table = pd.DataFrame({"k": range(1, len(self.top_norm) + 1)})
        for name in ("projection", "norm"):
            share = getattr(self, f"top_{name}").double().numpy()
            null = getattr(self, f"null_{name}").double().numpy()
            low, high = np.quantile(null, [0.025, 0.975], axis=0)
            table = table.assign(**{
                name: share, f"{name}_null_mean": null.mean(0), f"{name}_null_low": low, f"{name}_null_high": high,
                f"{name}_p": (1 + (null >= share).sum(0)) / (1 + len(null)),
            })  # fmt: skip
        return table

    def parts(self) -> pd.DataFrame:
        """One row per part of the difference: features, offset, error; their projections add up to 1."""
        import pandas as pd

        return pd.DataFrame({
            "part": ["features", "offset", "error"],
            "projection": [float(self.projection.double().sum()), self.offset_projection, self.error_projection],
        })  # fmt: skip

    def figure(self) -> go.Figure:
        """Share of the class difference that the top k features carry, beside shuffled labels."""
        import pandas as pd

        table = self.to_summary()
        shown: list[pd.DataFrame] = []
        for name, said in (("projection", "along the difference"), ("norm", "of its squared norm")):
            own = {
                "share": table[name],
                "low": table[name],
                "high": table[name],
                "series": f"{self.of} − {self.against}",
            }
            drawn = {end: table[f"{name}_null_{end}"] for end in ("low", "high")}
            null = {"share": table[f"{name}_null_mean"], **drawn, "series": "shuffled labels"}
            shown += [pd.DataFrame({"k": table["k"], "panel": said, **series}) for series in (own, null)]
        return lines(
            pd.concat(shown, ignore_index=True), x="k", y="share", color="series", facet="panel", low="low", high="high",
            title=f"How few features carry {self.of} − {self.against}", x_title="features, largest part first",
            y_title="share of the difference", caption=f"{self.provenance.caption} · {self.sae}",
        )  # fmt: skip


def decompose_difference(
    model: Model, sae: Sae, prompts: InstructionTokens, of: str = "harmful", against: str = "harmless", *,
    k: int = 20, null_draws: int = 200, seed: int = 0,
) -> ClassFeatures:  # fmt: skip
    """Split mean(of) − mean(against) of the site's activation at the last position into features, offset and error.

    Raises CircuitError for a label without two prompts, before anything is run; UndefinedError where the classes do not
    differ (at layer 0 the last token is the same in all prompts).
    """
    classes = [prompts.labelled(label) for label in (of, against)]
    few = [label for label, rows in zip((of, against), classes, strict=True) if int(rows.sum()) < 2]
    if few or of == against or k < 1 or null_draws < 1:
        raise CircuitError(
            f"{prompts.instructions.name}: {of} − {against} with k={k} and {null_draws} draws is not defined"
            + (f" ({', '.join(few)}: fewer than two prompts)" if few else "; give two labels, and at least one of each")
        )
    some = prompts.only(classes[0] | classes[1])
    acts = prompt_acts(model, some, sae, positions="last")
    is_of = some.labelled(of)
    split = _Split(sae, acts)
    size = split.act.norm(dim=-1).mean()
    d = split.difference(is_of[None])[0]
    if not d.norm() > _SMALL * size:
        raise UndefinedError(
            f"{sae.site.label}: the classes {of} and {against} agree at the last position (‖D‖ {d.norm():.1e} of {size:.1e})\n"
            "no difference to carry: choose an autoencoder of a later layer"
        )
    shuffled = torch.Generator().manual_seed(seed)
    draws = torch.stack([is_of[torch.randperm(len(is_of), generator=shuffled)] for _ in range(null_draws)])
    k = min(k, sae.n_features)
    own, null = split.shares(is_of[None], k), split.shares(draws, k)
    t, t_null = split.studentised(is_of[None])[0], split.studentised(draws).amax(-1)
    raw = [acts.features[rows, 0] for rows in (is_of, ~is_of)]
    squared = d @ d
    return ClassFeatures(
        provenance=provenance_of(model, f"{len(some.ids)} prompts, {of} and {against} ({some.hash})"),
        difference=d.float(), mean_of=raw[0].mean(0), mean_against=raw[1].mean(0),
        active_of=(raw[0] != 0).float().mean(0), active_against=(raw[1] != 0).float().mean(0),
        projection=own.projection[0].float(), order=tuple(own.order[0].tolist()),
        p=((1 + (t_null[:, None] >= t).sum(0)) / (1 + null_draws)).float(),
        top_projection=own.top_projection[0].float(), top_norm=own.top_norm[0].float(),
        null_projection=null.top_projection.float(), null_norm=null.top_norm.float(),
        error_projection=float(split.mean_gap(split.error, is_of[None])[0] @ d / squared),
        error_norm=float(split.mean_gap(split.error, is_of[None])[0].square().sum() / squared),
        offset_projection=float(split.mean_gap(split.offset, is_of[None])[0] @ d / squared),
        of=of, against=against, sae=sae.title, layer=sae.site.layer,
    )  # fmt: skip


@final
@dataclass(frozen=True, eq=False)
class _Shares:
    """By labelling: each feature's projection, their order by it, and the shares of the top k."""

    projection: Float[Tensor, "sample feature"]
    order: Int[Tensor, "sample feature"]
    top_projection: Float[Tensor, "sample _"]
    top_norm: Float[Tensor, "sample _"]


@final
class _Split:
    """Every prompt's activation as Σ scaled feature × direction + offset + error, in double precision."""

    def __init__(self, sae: Sae, acts: Acts) -> None:
        act = acts.act[:, 0]
        self.act = act.flatten(1).double()
        self.error = acts.error[:, 0].flatten(1).double()
        self.directions = sae.directions.double()
        self.scaled = (acts.features[:, 0] * sae.scale(act)).double()
        self.offset = self.act - self.error - self.scaled @ self.directions
        if not sae.normalised:
            self.offset -= self.offset.mean(
                0
            )  # the same bias for every prompt, but for rounding: no class has more of it

    def difference(self, is_of: Bool[Tensor, "sample prompt"]) -> Float[Tensor, "sample size"]:
        """D of every labelling."""
        return self.mean_gap(self.act, is_of)

    @staticmethod
    def mean_gap(
        values: Float[Tensor, "prompt size"], is_of: Bool[Tensor, "sample prompt"]
    ) -> Float[Tensor, "sample size"]:
        """mean(of) − mean(against) of every labelling."""
        of = is_of.double()
        weights = of / of.sum(1, keepdim=True) - (1 - of) / (1 - of).sum(1, keepdim=True)
        return weights @ values

    def shares(self, is_of: Bool[Tensor, "sample prompt"], k: int) -> _Shares:
        """Projections and shares of every labelling."""
        d = self.difference(is_of)
        gap = self.mean_gap(self.scaled, is_of)
        squared = (d * d).sum(-1, keepdim=True)
        projection = gap * (d @ self.directions.T) / squared
        order = projection.abs().argsort(dim=-1, descending=True, stable=True)
        top = order[:, :k]
        parts = gap.gather(1, top)[..., None] * self.directions[top]
        rest = d[:, None] - parts.cumsum(1)
        return _Shares(
            projection, order, projection.gather(1, top).cumsum(1), 1 - (rest * rest).sum(-1) / squared,
        )  # fmt: skip

    def studentised(self, is_of: Bool[Tensor, "sample prompt"]) -> Float[Tensor, "sample feature"]:
        """|mean difference| over the feature's spread over all prompts; 0 for a feature that is the same in all."""
        spread = self.scaled.std(0)
        gap = self.mean_gap(self.scaled, is_of).abs()
        return torch.where(spread > 0, gap / spread.clamp(min=1e-12), torch.zeros_like(gap))
