"""Does the metric follow the direction? The component along it clamped at one layer, over a range, on both sets.

    value[side, pair, cell] = metric with ⟨resid entering `layer`, v⟩ set to clamps[cell] at `positions`, v of norm 1
    per pair: value ≈ intercept + slope · clamp, by least squares; R² is of the curve averaged over pairs

`natural` is where each prompt's own component lies, at the last position clamped (of integers: the last given): clamped
to it there, nothing changes (`identity_error` is what did). Far from the natural components the model is off its path,
and R² can be high for a curve that bends: look at it. If the metric read this direction alone, both sets would share
one curve: `gap_frame` is what is left. The metric reads one token: completions are scored beside it.
The null: random directions, moved from each prompt's own component as far as v is, to both ends of the range.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", the refusal metric increases smoothly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import lines
from circuits.engine import capture, generate, sweep
from circuits.engine.edits import check
from circuits.errors import SiteError, UndefinedError
from circuits.frames import long_frame, summary
from circuits.interventions import Cell, Clamp, unit
from circuits.linalg import random_directions
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.refusal import is_refusal
from circuits.result import Result
from circuits.sites import Site
from circuits.stats import mean_interval, rate
from circuits.tables import SIDES, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from numpy.typing import NDArray

_STEPS: Final = 13
"""Clamps of the default range."""


@final
@dataclass(frozen=True, kw_only=True)
class Clamping(Result):
    """Metric and completions with the component along a direction clamped."""

    value: Float[Tensor, "side pair cell"]
    base: Float[Tensor, "side pair"]
    """Metric without a clamp."""
    natural: Float[Tensor, "side pair"]
    """Own component, at the last position clamped."""
    null_slope: Float[Tensor, "side direction"]
    """Mean slope between the two ends of the range, along random directions."""
    identity_error: float
    """Largest change of the metric when each prompt is clamped to its own component, at one position."""
    refused: Bool[Tensor, "side pair setting"]
    """Of the completions at `complete_at`."""
    completions: tuple[tuple[tuple[str, ...], ...], ...]
    """[side][setting][pair]."""
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    """[side][pair]."""
    clamps: tuple[float, ...]
    complete_at: tuple[float, ...]
    layer: int
    positions: str
    softcap: float | None

    def to_frame(self) -> pd.DataFrame:
        """One row per side, pair and clamp: `value` (metric), the prompt's own metric and natural component."""
        axes = {"side": list(SIDES), "pair": list(range(self.value.shape[1])), "clamp": list(self.clamps)}
        named = {"value": self.value, "base": self.base[..., None], "natural": self.natural[..., None]}
        return long_frame(axes, {name: t.double().numpy() for name, t in named.items()})

    def to_summary(self) -> pd.DataFrame:
        """One row per side: slope and intercept with intervals, R² (NaN where the curve is flat), natural components.

        `end_slope` is that of the chord between the two ends of the range; `null_low` and `null_high` are the range of the
        random directions' chords, `p` the chance that one of them is as steep.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        x = np.array(self.clamps)
        for s, side in enumerate(SIDES):
            y = self.value[s].double().numpy()
            slopes, intercepts = np.polyfit(x, y.T, 1)
            slope, intercept = (mean_interval(per_pair, self.clusters) for per_pair in (slopes, intercepts))
            natural, null = self.natural[s].double().numpy(), self.null_slope[s].double().numpy()
            own = mean_interval(natural, self.clusters)
            chord = float((y[:, -1] - y[:, 0]).mean() / (x[-1] - x[0]))
            p = (1 + int((np.abs(null) >= abs(chord)).sum())) / (1 + len(null))
            rows.append({
                "side": side, "slope": slope.estimate, "slope_low": slope.low, "slope_high": slope.high,
                "intercept": intercept.estimate, "intercept_low": intercept.low, "intercept_high": intercept.high,
                "r2": _r2(x, y.mean(0)), "end_slope": chord, "null_low": null.min(), "null_high": null.max(), "p": p,
                "natural": own.estimate, "natural_low": own.low, "natural_high": own.high,
                "natural_min": natural.min(), "natural_max": natural.max(), "n": len(y),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def curve_frame(self) -> pd.DataFrame:
        """One row per side and clamp: mean metric with interval."""
        return summary(self.to_frame(), ["side", "clamp"], "value", clusters=self.clusters)

    def gap_frame(self) -> pd.DataFrame:
        """One row per clamp: mean difference clean − corrupt of the metric at equal clamps, with interval."""
        gap = (self.value[0] - self.value[1]).double().numpy()
        axes = {"pair": list(range(len(gap))), "clamp": list(self.clamps)}
        return summary(long_frame(axes, {"value": gap}), ["clamp"], "value", clusters=self.clusters)

    def completion_frame(self) -> pd.DataFrame:
        """One row per side, clamp completed at, and pair: prompt, completion, refused."""
        axes = {"side": list(SIDES), "clamp": list(self.complete_at), "pair": list(range(self.value.shape[1]))}
        frame = long_frame(axes, {"refused": self.refused.transpose(1, 2).numpy()})
        frame["prompt"] = [p for side in self.prompts for _ in self.complete_at for p in side]
        frame["completion"] = [text for side in self.completions for setting in side for text in setting]
        return frame

    def refusal_frame(self) -> pd.DataFrame:
        """One row per side and clamp completed at: refusal rate with its Wilson interval."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for s, side in enumerate(SIDES):
            for c, clamp in enumerate(self.complete_at):
                share = rate(self.refused[s, :, c].numpy(), self.clusters)
                rows.append(
                    {"side": side, "clamp": clamp, "rate": share.estimate, "low": share.low, "high": share.high}
                )
        return pd.DataFrame(rows, columns=["side", "clamp", "rate", "low", "high"])

    @property
    def note(self) -> str:
        """What a reader of the curve must know of this model: whether its logits are capped."""
        if self.softcap is None:
            return "logits are not capped"
        return f"logits are capped at ±{self.softcap:g}, which bends the curve where they are large"

    def figure(self) -> go.Figure:
        """Mean metric by clamp, clean and corrupt, with intervals; dashed levels are the unclamped metrics."""
        table = self.to_summary().set_index("side")
        own = ", ".join(f"{side} {table.loc[side, 'natural']:.3g}" for side in SIDES).replace("-", "−")
        return lines(
            self.curve_frame(), x="clamp", y="mean", color="side", low="low", high="high",
            title=f"Metric with the component clamped entering layer {self.layer}, positions: {self.positions}",
            x_title=f"component clamped to (naturally: {own})", y_title=self.provenance.metric,
            reference={f"{side}, unclamped": self.base[s].mean().item() for s, side in enumerate(SIDES)},
            caption=f"{self.provenance.caption} · {self.note}",
        )  # fmt: skip

    def refusal_figure(self) -> go.Figure:
        """Refusal rate of the completions by clamp. Raises UndefinedError where nothing was completed."""
        if not self.complete_at:
            raise UndefinedError("no completions were asked for; give complete_at")
        return lines(
            self.refusal_frame(), x="clamp", y="rate", color="side", low="low", high="high",
            title=f"Completions that refuse, component clamped entering layer {self.layer}",
            x_title="component clamped to", y_title="refusal rate", caption=self.provenance.caption,
        )  # fmt: skip


def clamp_component(  # noqa: PLR0913  every knob changes what is asked
    model: Model,
    tokens: TokenPairs,
    metric: Metric,
    direction: Float[Tensor, "*pair d_model"],
    *,
    layer: int,
    clamps: Sequence[float] | None = None,
    positions: Positions = "all",
    complete_at: Sequence[float] = (),
    max_new_tokens: int = 32,
    null_draws: int = 20,
    seed: int = 0,
) -> Clamping:
    """Clamp the component along one direction (or each pair's own) entering `layer`, at every one of `clamps`.

    Without `clamps`: 13 values from 0 (or the lowest natural component) to the highest. Completions are greedy; at "all"
    positions every generated token is clamped too. Raises SiteError for a layer or position that is not there,
    UndefinedError for a direction of norm zero and for fewer than three different clamps; nothing is run by then.
    """
    v, site = unit(direction.detach().float().cpu()), Site("resid_pre", layer)
    check(model, tokens, (Clamp(site, v, 0.0, positions),))
    if clamps is not None and not (len(set(clamps)) >= 3 and np.isfinite(clamps).all()):
        raise UndefinedError(f"no line through clamps {tuple(clamps)}; give at least three different numbers")
    if null_draws < 1:
        raise UndefinedError("a slope without random directions has no null; give null_draws of at least 1")
    resid, own_at = _own_residual(model, tokens, layer, positions)
    own = torch.einsum("spd,pd->sp", resid, v.expand(tokens.n_pairs, -1))
    low, high = min(0.0, own.min().item()), max(0.0, own.max().item())
    x = sorted({float(c) for c in (np.linspace(low, high, _STEPS) if clamps is None else clamps)})
    random = random_directions(null_draws, model.shape.d_model, seed=seed)
    values: list[Tensor] = []
    bases: list[Tensor] = []
    slopes: list[Tensor] = []
    errors: list[float] = []
    certificates: list[str] = []
    texts: list[tuple[tuple[str, ...], ...]] = []
    for s, side in enumerate(SIDES):
        ends = [(r, resid[s] @ r + end - own[s]) for r in random for end in (x[0], x[-1])]
        cells: list[Cell] = [(Clamp(site, v, c, positions),) for c in x]
        cells += [(Clamp(site, r, to, positions),) for r, to in ends]
        cells += [(Clamp(site, v, own[s], own_at),)]
        swept = sweep(model, tokens, metric, cells, direction="noise" if side == "clean" else "denoise")
        values.append(swept.value[: len(x)].T)
        bases.append(swept.base)
        errors.append((swept.value[-1] - swept.base).abs().max().item())
        at_ends = swept.value[len(x) : -1].mean(-1).unflatten(0, (null_draws, 2))
        slopes.append(at_ends.diff(dim=-1)[:, 0] / (x[-1] - x[0]))
        certificates.append(swept.certificate.line)
        texts.append(
            tuple(
                tuple(generate(model, tokens, (Clamp(site, v, c, positions),), on=side, max_new_tokens=max_new_tokens))
                for c in complete_at
            )
        )
    refused = [[[is_refusal(text) for text in setting] for setting in side] for side in texts]
    return Clamping(
        provenance=provenance(model, tokens, metric, certificates[0]),
        value=torch.stack(values), base=torch.stack(bases), natural=own, null_slope=torch.stack(slopes),
        identity_error=max(errors), completions=tuple(texts), clamps=tuple(x), complete_at=tuple(map(float, complete_at)),
        refused=torch.tensor(refused, dtype=torch.bool).view(2, len(complete_at), tokens.n_pairs).transpose(1, 2),
        prompts=(tuple(p.clean for p in tokens.pairs), tuple(p.corrupt for p in tokens.pairs)),
        layer=layer, positions=str(positions), softcap=model.softcap,
    )  # fmt: skip


def _own_residual(
    model: Model, tokens: TokenPairs, layer: int, positions: Positions
) -> tuple[Float[Tensor, "side pair d_model"], Positions]:
    """What enters the layer at the one position where the natural component is read, and that position."""
    named: dict[str, Positions] = {"all": "last", "post_subject": -2}  # the last of several
    one = named.get(positions, positions) if isinstance(positions, str) else positions
    one = one if isinstance(one, int | str) else list(one)[-1]
    column = tokens.position_mask(one).int().argmax(1)
    without = (~tokens.position_mask(positions)[torch.arange(tokens.n_pairs), column]).nonzero()[:, 0].tolist()
    if without:
        raise SiteError(f"pair {without[0]} has no position {positions!r} to clamp; drop it, or choose other positions")
    runs = (capture(model, ids, tokens.mask) for ids in (tokens.clean, tokens.corrupt))
    at = torch.arange(tokens.n_pairs)
    return torch.stack([run.resid[layer].float().cpu()[at, column] for run in runs]), one


def _r2(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Share of a curve's variance that its line explains; NaN for a flat curve, which has none."""
    total = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - np.polyval(np.polyfit(x, y, 1), x)) ** 2).sum())
    return 1 - rest / total if total > 1e-12 * max(1.0, float((y**2).sum())) else float("nan")
