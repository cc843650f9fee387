"""Do these heads write the direction more than others do? What every head adds along it at the last position.

    written[side, pair, layer, head] = ⟨post(z_h W_O^h), v⟩        post: the post-norm at its recorded scale, or nothing
    value  [pair, layer, head]       = ⟨d, v⟩     d = what the head writes, clean − corrupt
    matched[pair, layer, head]       = ⟨d, v⟩/‖d‖, every head's d at one length: a head that merely writes a lot gains nothing

Heads and `bias` sum to ⟨attn_out, v⟩. Heads are the units of the tests: labels are shuffled over all heads, and among
heads of one layer. Controls: the same statistic along random directions, and how often their own test rejects. A
direction from these very pairs favours whatever writes to it: give `DirectionChoice.held_out`. Writing is not acting: a
later layer need not read it. Heads that move the same thing write alike, so shuffled labels reject too often along any
direction that it touches: read `p` beside `rejected`, and `effect` beside the random range.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", direct heads write the refusal direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import distribution
from circuits.engine import capture
from circuits.errors import SiteError
from circuits.frames import long_frame, summary
from circuits.interventions import unit
from circuits.linalg import random_directions
from circuits.model import Model
from circuits.model.value_path import output_path
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.sites import Site, head
from circuits.stats import auroc, holm, mean_interval
from circuits.stats.labels import label_p
from circuits.tables import SIDES, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MEASURES: Final = ("value", "matched")
SCOPES: Final = ("all heads", "same layers")


@final
@dataclass(frozen=True, kw_only=True)
class HeadWrites(Result):
    """Written along the direction by every head, with the chosen heads and the same along random directions."""

    written: Float[Tensor, "side pair layer head"]
    bias: Float[Tensor, "side pair layer"]
    """What attention writes along it whatever its heads do."""
    length: Float[Tensor, "pair layer head"]
    """‖d‖: how much the head writes differently at all, clean − corrupt."""
    null_value: Float[Tensor, "direction layer head"]
    """Mean over pairs of ⟨d, r⟩ for random unit vectors r."""
    null_matched: Float[Tensor, "direction layer head"]
    chosen: tuple[str, ...]
    """Labels of the heads asked about."""
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and head: label, chosen, clean, corrupt, value (clean − corrupt), matched (NaN: no difference)."""
        clean, corrupt = self.written.double().numpy()
        size = self.length.double().numpy()
        matched = np.divide(clean - corrupt, size, out=np.full_like(size, np.nan), where=size > 0)
        axes = {name: list(range(n)) for name, n in zip(("pair", "layer", "head"), clean.shape, strict=True)}
        columns = {"clean": clean, "corrupt": corrupt, "value": clean - corrupt, "matched": matched, "length": size}
        frame = long_frame(axes, columns)
        labels = [head(layer, h).label for layer, h in zip(frame["layer"], frame["head"], strict=True)]
        return frame.assign(label=labels, chosen=[label in self.chosen for label in labels])

    def heads_frame(self) -> pd.DataFrame:
        """One row per head: mean value and mean matched over pairs, each with its interval."""
        frame, keys = self.to_frame(), ["layer", "head", "label", "chosen"]
        value = summary(frame, keys, "value", clusters=self.clusters).rename(columns={"mean": "value"})
        matched = summary(frame, keys, "matched", clusters=self.clusters).rename(columns={"mean": "matched"})
        return value.merge(matched, on=keys, how="left", suffixes=("", "_matched"))

    def to_summary(self) -> pd.DataFrame:
        """Four rows: value and matched, chosen against all other heads and against those of their own layers.

        `effect`: difference of means, with its interval over pairs; `auroc`: the chance that a chosen head is above
        another, with its interval over heads; `p` (labels shuffled) and `p_holm` over the rows; `random_low`,
        `random_high`: 95 % of effects along random directions; `p_random`: their share at least as large; `rejected`: the
        share of random directions whose own test has p < 0.05. NaN where no chosen head has another in its layer.
        """
        import pandas as pd

        frame = self.to_frame()
        table = pd.DataFrame([self._row(frame, m, s) for m in MEASURES for s in SCOPES])
        known = table["p"].notna()
        table.loc[known, "p_holm"] = holm(table.loc[known, "p"].to_numpy())
        return table

    def _row(self, frame: pd.DataFrame, measure: str, scope: str) -> dict[str, Any]:
        wide = frame.pivot_table(index="pair", columns=["layer", "head"], values=measure, dropna=False)
        layer = wide.columns.get_level_values("layer").to_numpy()
        names = [head(int(at[0]), int(at[1])).label for at in wide.columns]
        mark, values = np.isin(names, self.chosen), wide.to_numpy(float)
        known = np.isfinite(values).all(axis=0)
        strata = layer if scope == "same layers" else np.zeros_like(layer)
        weights = _weights(mark & known, ~mark & known, strata)
        base = {"measure": measure, "against": scope, "undefined": int((~known).sum())}
        if weights is None:
            return base | {"chosen": 0, "others": 0} | dict.fromkeys(_NUMBERS, float("nan"))
        used, some = weights != 0, np.flatnonzero(weights > 0)
        others = np.flatnonzero(weights < 0)
        mean = values.mean(axis=0)
        effect = mean_interval(values[:, used] @ weights[used], self.clusters, seed=self.seed)
        area = auroc(mean[some], mean[others])
        null = (self.null_value if measure == "value" else self.null_matched).double().flatten(1).numpy()[:, used]
        along = null @ weights[used]
        columns = np.concatenate([mean[None, used], null]).T
        p = label_p(columns, mark[used], strata[used], seed=self.seed)
        hits = int((np.abs(along) >= abs(effect.estimate)).sum())
        low, high = np.quantile(along, [0.025, 0.975])
        return base | {
            "chosen": len(some), "others": len(others), "effect": effect.estimate, "low": effect.low, "high": effect.high,
            "auroc": area.estimate, "auroc_low": area.low, "auroc_high": area.high, "p": p[0],
            "random_low": low, "random_high": high, "p_random": (1 + hits) / (1 + len(along)),
            "rejected": float((p[1:] < 0.05).mean()),
        }  # fmt: skip

    def figure(self) -> go.Figure:
        """Every head as a point: what it writes along the direction, chosen heads and others."""
        title = "What heads write along the direction, last position"
        return self._points("value", title, "written along the direction, clean − corrupt (residual units)")

    def matched_figure(self) -> go.Figure:
        """The same with every head's write at one length."""
        title = "The same, every head's write at one length"
        return self._points("matched", title, "share of the head's write that lies along the direction (cosine)")

    def _points(self, measure: str, title: str, unit: str) -> go.Figure:
        frame = self.heads_frame().rename(columns={"label": "text"})
        frame["heads"] = np.where(frame["chosen"], "chosen", "all others")
        return distribution(
            frame.sort_values("chosen", ascending=False), value=measure, color="heads",
            title=title, x_title=unit, caption=self.provenance.caption,
        )  # fmt: skip


_NUMBERS: Final = (
    "effect", "low", "high", "auroc", "auroc_low", "auroc_high", "p", "random_low", "random_high", "p_random", "rejected",
)  # fmt: skip


def _weights(chosen: Any, others: Any, strata: Any) -> Any:
    """Mean of the chosen less the mean of the others of their stratum, as one weight per head; None without any."""
    weights = np.zeros(len(chosen))
    groups = [g for g in np.unique(strata) if (chosen & (strata == g)).any() and (others & (strata == g)).any()]
    total = sum(int((chosen & (strata == g)).sum()) for g in groups)
    for g in groups:
        here, rest = chosen & (strata == g), others & (strata == g)
        weights[here] = 1 / total
        weights[rest] = -here.sum() / total / rest.sum()
    return weights if groups else None


def head_writes(
    model: Model,
    tokens: TokenPairs,
    direction: Float[Tensor, "*pair d_model"],
    *,
    heads: Sequence[Site],
    null_draws: int = 200,
    seed: int = 0,
) -> HeadWrites:
    """What each head writes along one direction, or along each pair's own, of which `heads` are asked about.

    Residual units, computed in double precision. Raises SiteError for heads that are none of the model's, are all of
    them or are not given, UndefinedError for a direction of norm zero; both before anything is run.
    """
    n_layers, n_heads = model.shape.n_layers, model.shape.n_heads
    every = {head(layer, h) for layer in range(n_layers) for h in range(n_heads)}
    wrong = [site.label for site in heads if site not in every]
    if wrong or not heads or len(set(heads)) == len(every):
        raise SiteError(
            f"{', '.join(wrong) or 'none or all heads'}: give some of this model's {n_layers} × {n_heads} heads, "
            "so that others are left to compare with"
        )
    along = unit(direction.double().cpu().expand(tokens.n_pairs, -1))
    random = random_directions(null_draws, model.shape.d_model, seed=seed).double()
    runs = [
        capture(model, ids, tokens.mask, [Site("z", layer) for layer in range(n_layers)])
        for ids in (tokens.clean, tokens.corrupt)
    ]
    shape = (tokens.n_pairs, n_layers, n_heads)
    # double: what differs between clean and corrupt may be small beside what is written
    written, bias = torch.zeros(len(SIDES), *shape).double(), torch.zeros(len(SIDES), *shape[:2]).double()
    length = torch.zeros(shape).double()
    null = torch.zeros(2, null_draws, n_layers, n_heads).double()
    for layer in range(n_layers):
        path = output_path(model, layer)
        products: list[Tensor] = []
        for side, run in enumerate(runs):
            product, rest = path.added(run.seen[Site("z", layer)][:, -1])
            written[side, :, layer] = torch.einsum("phd,pd->ph", product, along)
            bias[side, :, layer] = (rest * along).sum(-1)
            products.append(product)
        d = products[0] - products[1]
        size = d.norm(dim=-1)
        length[:, layer] = size
        null[0, :, layer] = torch.einsum("hd,nd->nh", d.mean(0), random)
        null[1, :, layer] = torch.einsum("hd,nd->nh", (d / size[..., None]).mean(0), random)
    return HeadWrites(
        provenance=provenance(model, tokens), written=written, bias=bias, length=length,
        null_value=null[0], null_matched=null[1], chosen=tuple(site.label for site in dict.fromkeys(heads)), seed=seed,
    )  # fmt: skip
