"""Which features make up a direction? Its cosines with them, and its best sum of few, beside random directions.

    cosine[feature]  = cos(v, direction of the feature)
    share[k]         = 1 − ‖v − Σ c_i d_i‖²/‖v‖²        the k features chosen by orthogonal matching pursuit, c fitted

A dictionary wider than the space explains any vector with as many features as the space has dimensions, so the share by k
says nothing by itself: it stands beside that of random directions (the share does not depend on the norm, so theirs
is matched whatever it is). Non-negative coefficients ask more: features only ever add.
It misleads: greedy choice is not the best choice, near-parallel features stand in for each other, and a direction made of
features need not be written through them. No prompt is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import lines
from circuits.errors import SiteError, UndefinedError
from circuits.linalg import cosine, random_directions
from circuits.measure.features.pursuit import pursue, unit_rows
from circuits.model import Model
from circuits.result import Provenance, Result
from circuits.sae import Sae

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@final
@dataclass(frozen=True, kw_only=True)
class Decomposition(Result):
    """One direction against the features of an autoencoder."""

    cosine: Float[Tensor, " feature"]
    """NaN for a feature whose direction is zero."""
    features: tuple[int, ...]
    """In the order in which they were chosen."""
    coefficient: Float[Tensor, " _"]
    """Of the chosen features together; Σ coefficient × direction approximates the direction at its own norm."""
    share: Float[Tensor, " _"]
    """Of the squared norm, by the first 1, 2, … chosen features."""
    null_share: Float[Tensor, "sample _"]
    """The same of random directions, each with features of its own."""
    sae: str
    layer: int
    nonnegative: bool

    def to_frame(self) -> pd.DataFrame:
        """One row per chosen feature: rank from 1, feature, label, cosine, coefficient, share by it and those before it."""
        import pandas as pd

        ids = list(self.features)
        return pd.DataFrame({
            "rank": range(1, len(ids) + 1), "feature": ids, "label": [f"L{self.layer}.F{i}" for i in ids],
            "cosine": self.cosine[ids].double().numpy(), "coefficient": self.coefficient.double().numpy(),
            "share": self.share.double().numpy(),
        })  # fmt: skip

    def to_summary(self) -> pd.DataFrame:
        """One row per k: share, the random directions' mean and 95 % range, and p, for this k alone.

        `p` is the chance that a random direction is explained as well by k features.
        """
        import pandas as pd

        share, null = self.share.double().numpy(), self.null_share.double().numpy()
        low, high = np.quantile(null, [0.025, 0.975], axis=0)
        p = (1 + (null >= share).sum(0)) / (1 + len(null))
        return pd.DataFrame({
            "k": range(1, len(share) + 1), "share": share, "null_mean": null.mean(0), "null_low": low, "null_high": high,
            "p": p,
        })  # fmt: skip

    def cosine_frame(self) -> pd.DataFrame:
        """One row per feature: its cosine with the direction, largest |cosine| first; undefined ones last."""
        import pandas as pd

        frame = pd.DataFrame({"feature": range(len(self.cosine)), "cosine": self.cosine.double().numpy()})
        return frame.iloc[frame["cosine"].abs().sort_values(ascending=False, kind="stable").index].reset_index(
            drop=True
        )

    def figure(self) -> go.Figure:
        """Share explained by k features, beside the range of random directions."""
        import pandas as pd

        table = self.to_summary()
        own = table.assign(low=table["share"], high=table["share"], series="direction")
        null = table.assign(share=table["null_mean"], low=table["null_low"], high=table["null_high"], series="random")
        return lines(
            pd.concat([own, null], ignore_index=True), x="k", y="share", color="series", low="low", high="high",
            title="How few features make up the direction", x_title="features, chosen greedily",
            y_title="share of the squared norm", caption=f"{self.provenance.caption} · {self.sae}",
        )  # fmt: skip


def decompose(
    model: Model, sae: Sae, direction: Float[Tensor, ...], *, k: int = 20, nonnegative: bool = True,
    null_draws: int = 200, seed: int = 0,
) -> Decomposition:  # fmt: skip
    """Compare a direction of the autoencoder's site with its features. No prompt is run.

    Raises SiteError for a direction of another size and for no features, UndefinedError for one of norm zero.
    """
    v = vector(sae, direction)
    if k < 1 or null_draws < 1:
        raise SiteError(f"{k} features and {null_draws} random directions say nothing; give at least one of each")
    directions = sae.directions
    units, norms = unit_rows(directions.double().numpy())
    found = pursue(v.numpy(), units, k, nonnegative=nonnegative)
    if not found.chosen:
        raise UndefinedError(
            f"{sae.name}: no feature points along this direction; try nonnegative=False, or its opposite"
        )
    n = len(found.chosen)
    null = [
        _padded(pursue(r.double().numpy(), units, n, nonnegative=nonnegative).share, n)
        for r in random_directions(null_draws, len(v), seed=seed)
    ]
    coefficient = np.array(found.coefficients) / norms[list(found.chosen)]
    return Decomposition(
        provenance=provenance_of(model, "no prompts"), cosine=cosine(directions, v.float().expand(len(directions), -1)),
        features=found.chosen, coefficient=torch.tensor(coefficient).float(), share=torch.tensor(found.share),
        null_share=torch.tensor(null), sae=sae.title, layer=sae.site.layer, nonnegative=nonnegative,
    )  # fmt: skip


def vector(sae: Sae, direction: Float[Tensor, ...]) -> Float[Tensor, " size"]:
    """The direction as one vector in double precision, heads in turn. Raises as `decompose` does."""
    v = direction.detach().double().cpu().flatten()
    if len(v) != sae.directions.shape[1]:
        raise SiteError(
            f"a direction of {sae.site.label} has {sae.directions.shape[1]} numbers; got {tuple(direction.shape)}"
        )
    if not (v.isfinite().all() and v.norm() > 1e-8):
        raise UndefinedError(f"a direction of norm {v.norm():.1e} has no parts; choose another layer")
    return v


def provenance_of(model: Model, prompts: str) -> Provenance:
    """Whose numbers these are, where no metric was measured."""
    return Provenance(
        model=model.title, model_hash=model.hash, dtype=str(model.dtype).removeprefix("torch."), device=str(model.device),
        pairs=prompts, metric="",
    )  # fmt: skip


def _padded(share: tuple[float, ...], n: int) -> list[float]:
    """A pursuit that ended early explains no more with more features."""
    return [*share, *[share[-1] if share else 0.0] * (n - len(share))]
