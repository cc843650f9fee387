"""Which stage matters? Patch all attention or all MLP outputs of a group of layers together, at one position.

    value[pair, group, kind, position] = metric of the base run with those outputs taken from the source

Under noising a setting that recovers at least half of the corrupt behaviour is called necessary. Groups see what single
blocks hide (redundancy, self-repair), at the price of resolution; their borders are a choice, so they are a parameter.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", patching groups of transformer blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine import sweep
from circuits.engine.sweep import Direction
from circuits.errors import SiteError
from circuits.frames import sweep_summary
from circuits.interventions import Patch
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.result import Result
from circuits.sites import Site
from circuits.tables import KINDS, patched_frame, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NECESSARY: Final = 0.5


@final
@dataclass(frozen=True, kw_only=True)
class GroupPatching(Result):
    """Metric of the base run with a group's outputs replaced; the `kind` axis is attn_out, mlp_out."""

    value: Float[Tensor, "pair group kind position"]
    source: Float[Tensor, " pair"]
    base: Float[Tensor, " pair"]
    groups: dict[str, tuple[int, ...]]
    positions: tuple[str, ...]
    direction: Direction

    def to_frame(self) -> pd.DataFrame:
        """One row per pair, group, kind and position: layers, value (metric), fraction (recovered)."""
        axes = {"group": list(self.groups), "kind": list(KINDS), "position": list(self.positions)}
        frame = patched_frame(axes, self.value, self.base, self.source)
        spans = {name: _span(layers) for name, layers in self.groups.items()}
        return frame.assign(layers=frame["group"].map(spans), direction=self.direction)

    def to_summary(self, *, clusters: Sequence[int] | None = None) -> pd.DataFrame:
        """One row per group, kind and position: mean fraction, interval, p, and whether the mean reaches one half.

        That is the write-up's rule; it does not look at the interval. p is over all cells (`frames.sweep_summary`);
        `clusters` names the cluster of each pair, such as its subject; without, pairs of one template are drawn together.
        """
        given = self.clusters if clusters is None else clusters
        table = sweep_summary(self.to_frame(), ["position", "group", "kind", "layers"], clusters=given)
        table = table.assign(necessary=table["mean"] >= NECESSARY, direction=self.direction)
        order = {name: i for i, name in enumerate([*self.positions, *self.groups, *KINDS])}
        return table.sort_values(["position", "group", "kind"], key=lambda c: c.map(order)).reset_index(drop=True)

    def figure(self) -> go.Figure:
        """Fraction recovered by group and kind, one panel per position, with the one-half line."""
        table = self.to_summary()
        return bars(
            table.assign(group=table["group"] + " " + table["layers"]),
            x="group", y="mean", color="kind", facet="position", low="low", high="high", threshold=NECESSARY,
            title=f"Groups of blocks patched, {self.direction[:-1]}ing",
            x_title="group of layers", y_title="fraction recovered", caption=self.provenance.caption,
        )  # fmt: skip


def _span(layers: tuple[int, ...]) -> str:
    """`L0–L5` for consecutive layers, else each of them."""
    if len(layers) > 1 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"L{layers[0]}–L{layers[-1]}"
    return " ".join(f"L{layer}" for layer in layers)


def thirds(n_layers: int) -> dict[str, range]:
    """The write-up's groups, scaled: early, middle and late thirds of the layers (0–6, 6–12, 12–18 on 18 layers).

    A model of fewer than three layers has no middle.
    """
    a, b = round(n_layers / 3), round(2 * n_layers / 3)
    found = {"early": range(a), "middle": range(a, b), "late": range(b, n_layers)}
    return {name: layers for name, layers in found.items() if layers}


def patch_groups(
    model: Model,
    tokens: TokenPairs,
    metric: Metric,
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    positions: Sequence[Positions] = ("subject", "last"),
    direction: Direction = "noise",
) -> GroupPatching:
    """Patch every group × {attention, MLP} × position. Without `groups`: thirds of the layers. Units of the metric.

    Raises SiteError naming a group without layers or with layers this model lacks.
    """
    chosen = groups if groups is not None else thirds(model.shape.n_layers)
    if not chosen:
        raise SiteError("no group given; pass groups={'early': range(0, 6), …}")
    layers = {name: model.check_layers(members, f"group {name!r}") for name, members in chosen.items()}
    cells = [
        tuple(Patch(Site(kind, layer), position) for layer in members)
        for members in layers.values()
        for kind in KINDS
        for position in positions
    ]
    swept = sweep(model, tokens, metric, cells, direction=direction)
    return GroupPatching(
        provenance=provenance(model, tokens, metric, swept.certificate.line),
        value=swept.value.T.reshape(tokens.n_pairs, len(layers), len(KINDS), len(positions)),
        source=swept.source, base=swept.base, groups=layers, positions=tuple(map(str, positions)), direction=direction,
    )  # fmt: skip
