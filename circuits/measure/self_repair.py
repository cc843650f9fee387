"""Does the model write a direction back? Ablate it once, entering layer a, and read it entering every later layer b.

    recovered[a, b]  = c(b) in the run with v ablated entering a / c(b) in the intact run,  c(b) = ⟨resid entering b, v⟩
    difference[a, b] = c(b) ablated − c(b) intact, in residual units
    repaired[a, b]   = 1 − difference[a, b]/difference[a, a]: the share of what was removed that later blocks add *beyond
                       what they write in the intact run*

Read at the last position; the last b is the final residual. `recovered` also rises because later blocks write along v
anyway: the write-up's curve, and alone no evidence of repair. `repaired` is that evidence (below 0: the loss grows). Both
are undefined where the denominator is near zero, and counted. Null: random directions ablated and read the same way.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", "Refusal is Subject to Self-Repair".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, final, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import heatmap, lines
from circuits.engine import read
from circuits.errors import UndefinedError
from circuits.frames import long_frame, summary
from circuits.interventions import Ablate
from circuits.linalg import random_directions
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.result import Result
from circuits.sites import Site
from circuits.tables import SIDES, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SMALL: Final = 0.1
"""A component below this share of what a random direction typically has is no denominator."""
Value = Literal["recovered", "difference", "repaired"]
VALUES: Final[tuple[Value, ...]] = get_args(Value)
_RANGE: Final = {"null_low": 0.025, "null_median": 0.5, "null_high": 0.975}


@final
@dataclass(frozen=True, kw_only=True)
class SelfRepair(Result):
    """Component along a direction at the last position, intact and with it ablated once entering each layer."""

    intact: Float[Tensor, "side pair depth"]
    ablated: Float[Tensor, "side pair layer depth"]
    """[…, a, b]; NaN for b < a, which the ablation cannot reach."""
    typical: Float[Tensor, "side pair depth"]
    """Root mean square component along a random direction, ‖resid‖/√d_model: what a component is small against."""
    null_intact: Float[Tensor, "direction side pair depth"]
    null_ablated: Float[Tensor, "direction side pair layer depth"]
    positions: str
    """Where the direction was ablated."""

    def to_frame(self) -> pd.DataFrame:
        """One row per side, pair, ablated layer and read depth ≥ it: intact, ablated, recovered, difference, repaired."""
        n_sides, n_pairs, n_layers, n_depths = self.ablated.shape
        axes: dict[str, Any] = {
            "side": list(SIDES)[:n_sides], "pair": list(range(n_pairs)), "ablated_layer": list(range(n_layers)),
            "read_layer": list(range(n_depths)),
        }  # fmt: skip
        columns = {"intact": _expanded(self.intact, n_layers), "ablated": self.ablated} | {
            value: _of(value, self.intact, self.ablated, self.typical) for value in VALUES
        }
        frame = long_frame(axes, {name: t.double().numpy() for name, t in columns.items()})
        kept = frame[frame["read_layer"] >= frame["ablated_layer"]]
        return kept.assign(positions=self.positions).reset_index(drop=True)

    def to_summary(self, value: Value = "recovered") -> pd.DataFrame:
        """One row per side and cell: mean over pairs with interval, undefined pairs, median and 95 % range of the null."""
        by = ["side", "ablated_layer", "read_layer"]
        table = summary(self.to_frame(), by, value, clusters=self.clusters)
        null = _of(value, self.null_intact, self.null_ablated, self.typical)
        drawn = _mean_of_defined(null.double().numpy())  # [direction, side, layer, depth]
        at = (table["side"].map(list(SIDES).index).to_numpy(int), *(table[axis].to_numpy(int) for axis in by[1:]))
        spread = {name: _quantile(drawn, q)[at] for name, q in _RANGE.items()}
        return table.assign(undefined=self.intact.shape[1] - table["n"], **spread)

    def figure(self) -> go.Figure:
        """Share of the component that is there again, ablated layer × layer read, clean and corrupt."""
        return self._map("recovered", "how much is there again", "share of the intact component")

    def repaired_figure(self) -> go.Figure:
        """Share of what was removed that later blocks make up, beyond what they write anyway."""
        return self._map("repaired", "how much of it is repaired", "share of what was removed")

    def final_figure(self) -> go.Figure:
        """The last column: both shares in the final residual, beside the 95 % range of random directions."""
        import pandas as pd

        parts: list[pd.DataFrame] = []
        shares: dict[Value, str] = {
            "recovered": "recovered, of the intact component", "repaired": "repaired, of what was removed",
        }  # fmt: skip
        for value, said in shares.items():
            table = self.to_summary(value)
            table = table[table["read_layer"] == self.intact.shape[2] - 1].assign(share=said)
            null = table[table["side"] == "clean"].assign(side="random")
            parts += [table, null.assign(mean=null["null_median"], low=null["null_low"], high=null["null_high"])]
        return lines(
            pd.concat(parts, ignore_index=True).dropna(subset="mean"),
            x="ablated_layer", y="mean", color="side", low="low", high="high", facet="share",
            title="The direction in the final residual after one ablation (random: other directions, clean prompts)",
            x_title="layer entered when ablated", y_title="share", caption=self.provenance.caption,
        )  # fmt: skip

    def _map(self, value: Value, question: str, unit: str) -> go.Figure:
        return heatmap(
            self.to_summary(value),
            x="read_layer", y="ablated_layer", value="mean", facet="side", low="low", high="high",
            x_labels={self.intact.shape[2] - 1: "final"},
            title=f"Direction ablated once ({self.positions} positions): {question}, last position",
            x_title="layer entered when read", y_title="layer entered when ablated", unit=unit,
            caption=self.provenance.caption,
        )  # fmt: skip


def self_repair(
    model: Model, tokens: TokenPairs, direction: Float[Tensor, "*pair d_model"], *, positions: Positions = "last",
    null_draws: int = 10, seed: int = 0,
) -> SelfRepair:  # fmt: skip
    """Recovery of one direction (or of each pair's own) after one ablation at `positions`; clean and corrupt prompts.

    Costs 2·(n_layers·(null_draws + 1) + 1) forward passes of all pairs. Raises UndefinedError for a direction of norm
    zero, SiteError for positions some prompt does not have; nothing has run by then.
    """
    per_pair = direction.detach().float().cpu().expand(tokens.n_pairs, -1)
    norms = per_pair.norm(dim=-1, keepdim=True)
    if not (norms > 1e-8).all():
        raise UndefinedError("no direction: norm zero, or held out of a single pair; choose another, or more pairs")
    tokens.position_mask(positions)
    n_layers = model.shape.n_layers
    drawn = random_directions(null_draws, model.shape.d_model, seed=seed)
    every = torch.cat([(per_pair / norms)[None], drawn[:, None].expand(-1, tokens.n_pairs, -1)])
    depths = [*(Site("resid_pre", layer) for layer in range(n_layers)), Site("resid_post", n_layers - 1)]
    intact: list[Tensor] = []
    ablated: list[Tensor] = []
    typical: list[Tensor] = []
    for side in SIDES:
        unedited = read(model, tokens, (), depths, on=side, columns=(-1,)).seen
        resid = torch.stack([unedited[site][:, 0] for site in depths], 1)  # [pair, depth, d_model]
        intact.append(torch.einsum("pbd,npd->npb", resid, every))
        typical.append(resid.norm(dim=-1) / model.shape.d_model**0.5)
        found = intact[-1].new_full((len(every), tokens.n_pairs, n_layers, n_layers + 1), torch.nan)
        for n, v in enumerate(every):
            for a in range(n_layers):
                cell = (Ablate(Site("resid_pre", a), v, positions),)
                seen = read(model, tokens, cell, depths[a:], on=side, columns=(-1,)).seen
                later = torch.stack([seen[site][:, 0] for site in depths[a:]], 1)
                found[n, :, a, a:] = torch.einsum("pbd,pd->pb", later, v)
        ablated.append(found)
    along, left = torch.stack(intact, 1), torch.stack(ablated, 1)  # [direction, side, …]
    return SelfRepair(
        provenance=provenance(model, tokens), intact=along[0], ablated=left[0], typical=torch.stack(typical),
        null_intact=along[1:], null_ablated=left[1:], positions=str(positions),
    )  # fmt: skip


def _expanded(intact: Float[Tensor, "*batch depth"], n_layers: int) -> Float[Tensor, "*batch layer depth"]:
    return intact.unsqueeze(-2).expand(*intact.shape[:-1], n_layers, -1)


def _of(
    value: Value, intact: Float[Tensor, "*batch depth"], ablated: Float[Tensor, "*batch layer depth"],
    typical: Float[Tensor, "side pair depth"],
) -> Float[Tensor, "*batch layer depth"]:  # fmt: skip
    """One of VALUES; NaN where its denominator is too small against a random direction's to divide by."""
    n_layers = ablated.shape[-2]
    difference = ablated - _expanded(intact, n_layers)
    if value == "difference":
        return difference
    if value == "recovered":
        return ablated / torch.where(intact.abs() > SMALL * typical, intact, torch.nan).unsqueeze(-2)
    removed = difference[..., :n_layers].diagonal(dim1=-2, dim2=-1)
    return 1 - difference / torch.where(removed.abs() > SMALL * typical[..., :n_layers], removed, torch.nan).unsqueeze(
        -1
    )


def _mean_of_defined(values: Any) -> Any:
    """Mean over pairs (axis 2 of direction, side, pair, layer, depth) of what is defined; NaN where nothing is."""
    defined = np.isfinite(values)
    total, count = np.where(defined, values, 0.0).sum(2), defined.sum(2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _quantile(drawn: Any, q: float) -> Any:
    """Quantile over directions, of those that are defined; NaN without any."""
    if not len(drawn):
        return np.full(drawn.shape[1:], np.nan)
    every_undefined = ~np.isfinite(drawn).any(0)
    return np.where(every_undefined, np.nan, np.nanquantile(np.where(every_undefined, 0.0, drawn), q, axis=0))
