"""When is the metric complete? The residual entering every block, read as if it were the final one (logit lens).

    run_scale[side, pair, depth] = ⟨g, linear(x_depth)⟩ + constants    the final norm at the scale the run has at its end
    own_scale[side, pair, depth] = ⟨g, norm(x_depth)⟩ + constants      the norm at x_depth's own scale: the classic lens

g is the metric's pullback through the unembedding, the last position is read, units are logits before any soft cap.
Both end at the metric. With the run's scale, steps between layers are the direct contributions of the blocks.
The absolute curve misleads: what any prompt of this form needs (a sentence may begin with "I") lies along g too, and
is there from early on. The difference clean − corrupt removes that. At the run's scale it need not start at 0, though
the two embeddings agree: the two runs end at different scales. And g is read, not shown to cause anything.
The null is the difference along random directions of g's norm.
Source: nostalgebraist, "interpreting GPT: the logit lens"; "Analysing the Refusal Circuit in Gemma 2b IT".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import lines
from circuits.engine import capture
from circuits.engine.direct import direct, pullback
from circuits.frames import long_frame, summary
from circuits.linalg import freeze_norm, random_directions
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.stats import max_t
from circuits.tables import SIDES, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

READINGS: Final = ("run scale", "own scale")


@final
@dataclass(frozen=True, kw_only=True)
class LogitLens(Result):
    """The metric read off the residual by layer, at the scale of the run and at the residual's own."""

    run_scale: Float[Tensor, "side pair depth"]
    """Entering each block, and last the final residual."""
    own_scale: Float[Tensor, "side pair depth"]
    metric: Float[Tensor, "side pair"]
    """As the model gives it, soft cap included; without a cap both readings end here."""
    null_run_scale: Float[Tensor, "direction depth"]
    """Mean difference clean − corrupt along random directions."""
    null_own_scale: Float[Tensor, "direction depth"]
    softcap: float | None
    """The model's cap of its logits, which the readings leave out."""

    def to_frame(self) -> pd.DataFrame:
        """One row per reading, side, pair and layer entered (the last: the final residual): `value`, in logits."""
        value = torch.stack([self.run_scale, self.own_scale]).double().numpy()
        axes = {"reading": list(READINGS), "side": list(SIDES)}
        sizes = {"pair": list(range(value.shape[2])), "layer": list(range(value.shape[3]))}
        return long_frame(axes | sizes, {"value": value})

    def to_summary(self) -> pd.DataFrame:
        """One row per reading and layer: mean difference clean − corrupt with interval, and `p` that it is zero.

        p is adjusted for having looked at all layers of a reading; `null_low` and `null_high` are the 95 % range of the
        same difference along random directions.
        """
        import pandas as pd

        tables: list[pd.DataFrame] = []
        for reading, value, null in (
            (READINGS[0], self.run_scale, self.null_run_scale), (READINGS[1], self.own_scale, self.null_own_scale),
        ):  # fmt: skip
            gap = (value[0] - value[1]).double().numpy()
            axes = {"pair": list(range(gap.shape[0])), "layer": list(range(gap.shape[1]))}
            low, high = np.quantile(null.double().numpy(), [0.025, 0.975], axis=0)
            table = summary(long_frame(axes, {"value": gap}), ["layer"], "value", clusters=self.clusters)
            p = max_t(gap, clusters=self.clusters)
            tables.append(table.assign(reading=reading, null_low=low, null_high=high, p=p))
        return pd.concat(tables, ignore_index=True)

    def figure(self) -> go.Figure:
        """The difference clean − corrupt by layer, both readings, beside the range along random directions."""
        import pandas as pd

        table = self.to_summary().assign(series="pullback direction")
        null = table.assign(
            mean=(table["null_low"] + table["null_high"]) / 2, low=table["null_low"], high=table["null_high"]
        )
        return lines(
            pd.concat([table, null.assign(series="random")], ignore_index=True),
            x="layer", y="mean", color="series", facet="reading", low="low", high="high",
            title="Logit lens: clean − corrupt by layer, last position",
            x_title="layer entered", y_title=self._unit, caption=self.provenance.caption,
        )  # fmt: skip

    def absolute_figure(self) -> go.Figure:
        """Clean and corrupt by layer, which also shows what any prompt of this form has."""
        table = summary(self.to_frame(), ["reading", "side", "layer"], "value", clusters=self.clusters)
        return lines(
            table.sort_values("reading", key=lambda c: c.map(READINGS.index), kind="stable"),
            x="layer", y="mean", color="side", facet="reading", low="low", high="high",
            title="Logit lens by layer, last position: includes what both prompts of a pair share",
            x_title="layer entered", y_title=self._unit, caption=self.provenance.caption,
        )  # fmt: skip

    @property
    def _unit(self) -> str:
        return self.provenance.metric + ("" if self.softcap is None else f", before the cap at ±{self.softcap:g}")


def logit_lens(model: Model, tokens: TokenPairs, metric: Metric, *, null_draws: int = 200, seed: int = 0) -> LogitLens:
    """Read the metric off the residual entering every block and off the final one, at the last position.

    Raises UndefinedError, before anything is run, for a metric that is not linear in the logits.
    """
    size = pullback(model, tokens, metric).norm(dim=-1)[:, None, None]
    normed: dict[str, list[Tensor]] = {reading: [] for reading in READINGS}
    values: dict[str, list[Tensor]] = {reading: [] for reading in READINGS}
    metrics: list[Tensor] = []
    for ids in (tokens.clean, tokens.corrupt):
        run = capture(model, ids, tokens.mask)
        by_depth = torch.stack([x[:, -1] for x in run.resid], 1)  # [pair, depth, d_model]
        reader = direct(model, tokens, metric, run)
        constant = (reader.norm_bias + reader.unembed_bias)[:, None]
        for reading, norm in zip(READINGS, (reader.norm, freeze_norm(model.parts.ln_final, by_depth)), strict=True):
            linear = norm.linear(by_depth)
            normed[reading].append(linear * size)
            values[reading].append(torch.einsum("pld,pd->pl", linear, reader.direction) + constant)
        metrics.append(reader.metric)
    random = random_directions(null_draws, model.shape.d_model, seed=seed).double()
    null = [torch.einsum("ld,nd->nl", (n[0] - n[1]).mean(0), random).float() for n in normed.values()]
    at_run, at_own = (torch.stack(values[reading]).float() for reading in READINGS)
    return LogitLens(
        provenance=provenance(model, tokens, metric), run_scale=at_run, own_scale=at_own,
        metric=torch.stack(metrics).float(), null_run_scale=null[0], null_own_scale=null[1], softcap=model.softcap,
    )  # fmt: skip
