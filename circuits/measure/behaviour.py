"""Does the model do it, and does it stop when the direction is gone? Completions and metric, side by side.

Settings: baseline; intervened, with the direction ablated from everything written to the residual stream at every layer
and position; control, the same with a random direction. Each on the clean and the corrupt prompts.

Refusal is scored on completions by phrases (`refusal`), the metric on the first token's logits: they can disagree, so
both are given, with the AUROC of the metric as a classifier of refusal.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", refusal score, refusal metric, sanity check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import distribution
from circuits.engine import generate, sweep
from circuits.frames import long_frame, summary
from circuits.interventions import Cell, ablate_everywhere
from circuits.linalg import random_directions
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.refusal import is_refusal
from circuits.result import Result
from circuits.stats import Interval, auroc, rate
from circuits.tables import SIDES, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SETTINGS: Final = ("baseline", "intervened", "control")


@final
@dataclass(frozen=True, kw_only=True)
class Behaviour(Result):
    """Completion, refusal and metric of every prompt under every setting."""

    completions: tuple[tuple[tuple[str, ...], ...], ...]
    """[setting][side][pair]."""
    refused: Bool[Tensor, "setting side pair"]
    metric: Float[Tensor, "setting side pair"]
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    """[side][pair]."""

    def to_frame(self) -> pd.DataFrame:
        """One row per setting, side and pair: prompt, completion, refused, metric."""
        axes = {"setting": list(SETTINGS), "side": list(SIDES), "pair": list(range(self.refused.shape[2]))}
        frame = long_frame(axes, {"refused": self.refused.numpy(), "metric": self.metric.double().numpy()})
        frame["prompt"] = [p for _ in SETTINGS for side in self.prompts for p in side]
        frame["completion"] = [c for setting in self.completions for side in setting for c in side]
        return frame

    def to_summary(self) -> pd.DataFrame:
        """One row per setting and side: refusal rate (Wilson interval), mean metric (bootstrap interval)."""
        frame = self.to_frame()
        table = summary(frame, ["setting", "side"], "metric", clusters=self.clusters)
        table = table.rename(columns={"mean": "metric", "low": "metric_low", "high": "metric_high"})
        rates = [self.rate(str(r.setting), str(r.side)) for r in table.itertuples()]
        table = table.assign(
            refusal_rate=[r.estimate for r in rates], rate_low=[r.low for r in rates], rate_high=[r.high for r in rates]
        )
        order = {name: i for i, name in enumerate([*SETTINGS, *SIDES])}
        return table.sort_values(["setting", "side"], key=lambda c: c.map(order)).reset_index(drop=True)

    def rate(self, setting: str, side: str) -> Interval:
        """Refusal rate with its Wilson interval."""
        return rate(self.refused[SETTINGS.index(setting), SIDES.index(side)].numpy(), self.clusters)

    def agreement(self) -> Interval:
        """AUROC of the metric as a classifier of refusal, over the clean and corrupt prompts of the unedited model.

        The two prompts of a pair are one draw, and so are all prompts of a template where pairs share some. Raises
        UndefinedError where all or none of the prompts refuse.
        """
        refused, metric = self.refused[0].flatten().numpy(), self.metric[0].flatten().double().numpy()
        of = np.tile(range(self.refused.shape[2]) if self.clusters is None else self.clusters, len(SIDES))
        return auroc(metric[refused], metric[~refused], clusters=(of[refused], of[~refused]))

    def figure(self) -> go.Figure:
        """The metric of every prompt, by setting, clean and corrupt."""
        frame = self.to_frame().rename(columns={"completion": "text"})
        return distribution(
            frame, value="metric", color="side", facet="setting", title="Metric of every prompt",
            x_title=self.provenance.metric, caption=self.provenance.caption,
        )  # fmt: skip


def behaviour(
    model: Model,
    tokens: TokenPairs,
    metric: Metric,
    direction: Float[Tensor, " d_model"],
    *,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
) -> Behaviour:
    """Complete and measure every prompt under the three settings; greedy at temperature 0.

    Raises UndefinedError for a direction of norm zero.
    """
    layers = range(model.shape.n_layers)
    random = random_directions(1, model.shape.d_model, seed=seed)[0]
    cells: list[Cell] = [(), ablate_everywhere(direction, layers), ablate_everywhere(random, layers)]
    values: list[Tensor] = []
    texts: list[list[Sequence[str]]] = [[] for _ in cells]
    for side in SIDES:
        swept = sweep(model, tokens, metric, cells[1:], direction="noise" if side == "clean" else "denoise")
        values.append(torch.cat([swept.base[None], swept.value]))
        for setting, cell in zip(texts, cells, strict=True):
            setting.append(
                generate(
                    model, tokens, cell, on=side, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
                )
            )
    refused = [[[is_refusal(text) for text in side] for side in setting] for setting in texts]
    return Behaviour(
        provenance=provenance(model, tokens, metric),
        completions=tuple(tuple(tuple(side) for side in setting) for setting in texts),
        refused=torch.tensor(refused),
        metric=torch.stack(values, 1),
        prompts=(tuple(p.clean for p in tokens.pairs), tuple(p.corrupt for p in tokens.pairs)),
    )
