"""What makes a feature fire? Patch heads and MLPs before the site, and read the feature at the last position.

    value[pair, sender, feature] = the feature in the base run with the sender's output taken from the source run

The effect is whole: by every way from the sender to the feature, through later attention, norms and the encoder's own
threshold. Every sender is one whole forward pass, nothing is resumed or linearised.
It misleads as patching heads does: senders that stand in for each other look unnecessary one by one; and a feature at its
threshold answers to small changes by all or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import heatmap
from circuits.engine import read
from circuits.engine.sweep import Direction
from circuits.errors import SiteError, UndefinedError
from circuits.frames import fraction, long_frame, said_of_dots, sweep_summary
from circuits.interventions import Cell, Patch
from circuits.model import Model
from circuits.prompts.token_pairs import Positions, TokenPairs
from circuits.result import Result
from circuits.sae import Sae
from circuits.sites import ORDER, Site, head
from circuits.tables import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@final
@dataclass(frozen=True, kw_only=True)
class FeatureInputs(Result):
    """Features at the last position of the base run, with one sender's output at `positions` from the source run."""

    value: Float[Tensor, "pair sender feature"]
    base: Float[Tensor, "pair feature"]
    source: Float[Tensor, "pair feature"]
    senders: tuple[str, ...]
    features: tuple[int, ...]
    positions: str
    direction: Direction
    sae: str
    site_kind: str
    layer: int

    def to_frame(self) -> pd.DataFrame:
        """One row per pair, sender and feature: value (activation), fraction of source − base; NaN where they agree."""
        v, b, s = (t.double().numpy() for t in (self.value, self.base, self.source))
        shares = np.stack([fraction(v[..., i], b[:, i], s[:, i]) for i in range(len(self.features))], -1)
        axes = {"pair": list(range(len(b))), "sender": list(self.senders), "feature": list(self.features)}
        frame = long_frame(axes, {"value": v, "base": b[:, None], "source": s[:, None], "fraction": shares})
        return frame.assign(label=[f"L{self.layer}.F{i}" for i in frame["feature"]], positions=self.positions)

    def to_summary(self, *, clusters: Sequence[int] | None = None) -> pd.DataFrame:
        """One row per sender and feature: mean fraction, interval, and p over all of them (`frames.sweep_summary`)."""
        given = self.clusters if clusters is None else clusters
        return sweep_summary(self.to_frame(), ["sender", "feature", "label"], clusters=given)

    def figure(self) -> go.Figure:
        """Fraction of each feature's change that each sender brings."""
        table = self.to_summary()
        return heatmap(
            table, x="label", y="sender", value="mean", low="low", high="high", p="p", marked="survives",
            title=f"What feeds features, {self.direction[:-1]}ing at {self.positions}", x_title="feature", y_title="sender",
            unit="share of the feature's change", quantile=1.0,
            caption=f"{self.provenance.caption} · {self.sae} · {said_of_dots(table, self.clusters)}",
        )  # fmt: skip

    def graph_rows(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows of nodes and edges for `component_graph`: senders, features, and an edge of kind `feeds` for each two.

        The effect is the mean fraction, with interval and p; filter the edges before they are drawn.
        """
        import pandas as pd

        table = self.to_summary()
        at = "" if self.positions == "all" else f"@{self.positions}"
        nodes = [{"id": f"{name}{at}"} for name in self.senders]
        where = {"kind": "feature", "layer": self.layer, "site": self.site_kind}
        nodes += [{"id": f"L{self.layer}.F{i}@last", "feature": i} | where for i in self.features]
        edges = pd.DataFrame({
            "source": table["sender"] + at, "target": table["label"] + "@last", "kind": "feeds", "effect": table["mean"],
            "low": table["low"], "high": table["high"], "p": table["p"],
        })  # fmt: skip
        return pd.DataFrame(nodes), edges


def feature_inputs(
    model: Model, tokens: TokenPairs, sae: Sae, features: Sequence[int], *, senders: Sequence[Site] | None = None,
    positions: Positions = "last", direction: Direction = "denoise",
) -> FeatureInputs:  # fmt: skip
    """Patch `senders` (all heads and MLPs before the site) at `positions` one by one, and read `features` at the last one.

    Costs one forward pass per sender for the base prompts and one for the source. Raises SiteError for features or
    senders that do not exist, or that come after the site, before anything is run; UndefinedError where no feature
    differs between the two runs.
    """
    ids = list(dict.fromkeys(int(i) for i in features))
    if not ids:
        raise SiteError("no features to read; name some (a FeaturePatching says which matter)")
    sae.require(ids)
    chosen = before(model, sae.site) if senders is None else list(senders)
    late = [sender.label for sender in chosen if _place(sender) >= _place(sae.site)]
    if late:
        raise SiteError(f"{', '.join(late[:3])}: not before {sae.site.label}, so it feeds none of its features")
    if not chosen:
        raise SiteError(f"no head or MLP comes before {sae.site.label}; choose an autoencoder of a later site")
    on, other = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")

    def found(cell: Cell, prompts: Any) -> Tensor:
        seen = read(model, tokens, cell, [sae.site], on=prompts, columns=[-1]).seen[sae.site]
        return sae.encode(seen)[:, 0, ids]

    base, source = found((), on), found((), other)
    if not (base != source).any():
        raise UndefinedError(f"{sae.name}: none of these features differs between clean and corrupt; choose others")
    value = torch.stack([found((Patch(sender, positions),), on) for sender in chosen], 1)
    return FeatureInputs(
        provenance=provenance(model, tokens, None, f"{len(chosen)} whole forward passes, one per sender"),
        value=value, base=base, source=source, senders=tuple(s.label for s in chosen), features=tuple(ids),
        positions=str(positions), direction=direction, sae=sae.title, site_kind=sae.site.kind, layer=sae.site.layer,
    )  # fmt: skip


def before(model: Model, site: Site) -> list[Site]:
    """Every head and MLP whose output the site can depend on, in the model's order."""
    known = [
        sender
        for layer in range(model.shape.n_layers)
        for sender in [*(head(layer, h) for h in range(model.shape.n_heads)), Site("mlp_out", layer)]
    ]
    return [sender for sender in known if _place(sender) < _place(site)]


def _place(site: Site) -> tuple[int, int]:
    return site.layer, ORDER[site.kind]
