"""What turns with the angle? The in-plane part of the residual at every angle of a circle: metric, refusal, completions.

    value[dose, prompt]     metric with the in-plane part at (aim) or turned by (turn) each angle
    refused[dose, prompt]   whether the completion under it refuses

The edit is made in the residual entering each of `layers`; what the last of them writes is not edited. "all" positions
also means every generated token. The axis is the first harmonic of a curve: highest at its phase, lowest opposite; the
compass is the four points on it and across.
Source: "Refusal in a rotation plane", how to rotate the activation along that space.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import polar
from circuits.engine import generate, generate_cells, sweep
from circuits.errors import CircuitError, UndefinedError
from circuits.frames import long_frame, summary
from circuits.interventions import Where
from circuits.judges import Judge
from circuits.measure.rotation.edits import (
    Layers,
    Mode,
    Prompts,
    about,
    as_pairs,
    checked_angles,
    checked_layers,
    checked_plane,
    entering,
    labels_of,
    rotations,
    texts_of,
)
from circuits.measure.rotation.harmonic import Harmonic, first_harmonic
from circuits.metrics import Metric
from circuits.model import Model
from circuits.refusal import is_refusal
from circuits.result import Result
from circuits.stats import rate

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

EVERY = "all prompts"
"""The label that means all of them."""


@final
@dataclass(frozen=True, eq=False)
class Axis:
    """The axis of a curve over angles, and what is across it, as directions of norm 1 in the residual stream."""

    harmonic: Harmonic
    direction: Float[Tensor, " d_model"]
    """At the phase: where the curve is highest."""
    perpendicular: Float[Tensor, " d_model"]
    """90° on."""

    @property
    def compass(self) -> dict[str, float]:
        """The four points in degrees, 0 to 360: `most`, `across +` (90° on), `least`, `across −`."""
        names = ("most", "across +", "least", "across −")
        return {name: (self.harmonic.phase + 90 * i) % 360 for i, name in enumerate(names)}


@final
@dataclass(frozen=True, kw_only=True)
class RotationSweep(Result):
    """Metric by angle and prompt; completions and refusal where they were asked for."""

    value: Float[Tensor, "dose prompt"]
    base: Float[Tensor, " prompt"]
    """Of the unedited run."""
    refused: Bool[Tensor, "dose prompt"] | None
    base_refused: Bool[Tensor, " prompt"] | None
    """Of the unedited run's completions."""
    scores: Float[Tensor, "score dose prompt"] | None
    """The judge's, NaN where missing."""
    score_names: tuple[str, ...]
    completions: tuple[tuple[str, ...], ...]
    """[dose][prompt]; empty where none were asked for."""
    own: Float[Tensor, "layer prompt 2"]
    """Where the unedited residual lies in the plane at the last position, by layer edited; in residual units."""
    plane: Float[Tensor, "2 d_model"]
    angles: tuple[float, ...]
    mode: Mode
    layers: tuple[int, ...]
    labels: tuple[str, ...]
    prompts: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per angle and prompt: label, text, metric, base, change.

        refused, base_refused (unedited), completion and scores where they are known.
        """
        change = self.value - self.base
        columns: dict[str, Tensor] = {"metric": self.value, "base": self.base, "change": change}
        if self.scores is not None:
            columns |= dict(zip(self.score_names, self.scores, strict=True))
        axes = {"angle": list(self.angles), "prompt": list(range(len(self.labels)))}
        frame = long_frame(axes, {name: t.double().numpy() for name, t in columns.items()})
        at = frame["prompt"].to_numpy()
        frame = frame.assign(
            label=np.array(self.labels)[at], text=np.array(self.prompts, dtype=object)[at], mode=self.mode
        )
        if self.refused is not None and self.base_refused is not None:
            said = [text for row in self.completions for text in row]
            before = self.base_refused.numpy()[at]
            frame = frame.assign(refused=self.refused.flatten().numpy(), base_refused=before, completion=said)
        return frame

    def to_summary(self) -> pd.DataFrame:
        """One row per label and angle: mean metric with its 95 % interval over prompts (`low`, `high`), `n`, mean change.

        With completions `refusal_rate`, `rate_low`, `rate_high` (Wilson) and `base_rate` (unedited); the mean of every score,
        of prompts that have it.
        """
        frame = self.to_frame()
        keys = ["label", "angle"]
        # angles named twice are one cell: their mean
        table = summary(frame, keys, "metric", over="prompt", clusters=self.clusters)
        more = frame.groupby(keys, sort=False)[["change", *self.score_names]].mean().reset_index()
        table = table.merge(more, on=keys)
        if self.refused is None:
            return table
        clusters = None if self.clusters is None else np.array(self.clusters)
        rows: list[dict[str, object]] = []
        for (label, angle), mine in frame.drop_duplicates([*keys, "prompt"]).groupby(keys, sort=False):
            found = rate(mine["refused"].to_numpy(), None if clusters is None else clusters[mine["prompt"].to_numpy()])
            rows.append({
                "label": label, "angle": angle, "refusal_rate": found.estimate, "rate_low": found.low, "rate_high": found.high,
                "base_rate": mine["base_refused"].mean(),
            })  # fmt: skip
        return table.merge(type(table)(rows), on=keys)

    def axis(self, label: str = EVERY, *, of: Literal["metric", "refusal"] = "metric", seed: int = 0) -> Axis:
        """The first harmonic over angles, of the prompts with a label; of the metric, or of refusal (0 or 1).

        Raises UndefinedError for a label no prompt has, refusal without completions, too few angles, or a flat curve; and
        for "turn", whose angles are counted from where each prompt lies: no one direction is meant.
        """
        if self.mode == "turn":
            raise UndefinedError("turns are counted from where each prompt lies: no axis; sweep with mode='aim'")
        here = [i for i, own in enumerate(self.labels) if label in (own, EVERY)]
        if not here:
            raise UndefinedError(f"no prompt is labelled {label!r}; there are {', '.join(sorted(set(self.labels)))}")
        if of == "refusal" and self.refused is None:
            raise UndefinedError("refusal is known of completions alone; ask for max_new_tokens")
        curve = self.value if self.refused is None or of == "metric" else self.refused
        clusters = None if self.clusters is None else [self.clusters[i] for i in here]
        found = first_harmonic(self.angles, curve[:, here].double().numpy(), clusters, seed=seed)
        if not math.isfinite(found.phase):
            raise UndefinedError(f"the {of} does not change with the angle ({label}): it has no axis in this plane")
        turn = torch.deg2rad(torch.tensor(found.phase, dtype=torch.double))
        c, s = torch.cos(turn).float(), torch.sin(turn).float()
        first, second = self.plane
        return Axis(found, c * first + s * second, c * second - s * first)

    def axes_frame(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per label (and all prompts, where there are several) and curve: its harmonic; flat curves have no phase."""
        import pandas as pd

        named = list(dict.fromkeys(self.labels))
        clusters = None if self.clusters is None else np.array(self.clusters)
        rows: list[dict[str, object]] = []
        for of, curve in (("metric", self.value), ("refusal", self.refused)):
            for label in [*named, *([EVERY] if len(named) > 1 else [])]:
                here = np.flatnonzero([label in (own, EVERY) for own in self.labels])
                if curve is not None:
                    values = curve.double().numpy()[:, here]
                    of_each = None if clusters is None else clusters[here].tolist()
                    found = first_harmonic(self.angles, values, of_each, seed=seed)
                    rows.append({"label": label, "of": of, **asdict(found)})
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Mean metric around the circle, by label."""
        return self._polar(self.to_summary(), "mean", "Metric by angle in the plane", self.provenance.metric)

    def refusal_figure(self) -> go.Figure:
        """Refusal rate around the circle, by label. Raises UndefinedError without completions."""
        if self.refused is None:
            raise UndefinedError("refusal is known of completions alone; ask for max_new_tokens")
        return self._polar(self.to_summary(), "refusal_rate", "Refusal by angle in the plane", "refusal rate")

    def _polar(self, table: pd.DataFrame, radius: str, title: str, said: str) -> go.Figure:
        where = f"{len(self.layers)} layers, {min(self.layers)} to {max(self.layers)}"
        how = "in-plane part set to the angle" if self.mode == "aim" else "in-plane part turned by the angle"
        return polar(
            table.assign(angle=table["angle"] % 360), angle="angle", radius=radius, color="label", title=title,
            radius_title=said, caption=f"{self.provenance.caption} · {how}, entering {where}",
        )  # fmt: skip


def rotate_sweep(  # noqa: PLR0913  one edit has a plane, angles, a mode, layers and positions
    model: Model,
    prompts: Prompts,
    metric: Metric,
    plane: Float[Tensor, "2 d_model"],
    *,
    angles: Iterable[float] = range(0, 360, 10),
    mode: Mode = "aim",
    layers: Layers = "all",
    positions: Where = "all",
    max_new_tokens: int | None = None,
    judge: Judge | None = None,
) -> RotationSweep:
    """The metric with the in-plane part at every angle, and, given `max_new_tokens`, greedy completions and refusals.

    `mode` "aim" sets the angle, "turn" adds to it; `judge` scores the completions. Of TokenPairs the clean prompts are run.
    Before anything is run: CircuitError for angles that are none, SiteError for layers or planes that do not fit.
    """
    degrees, entered, rows = checked_angles(angles), checked_layers(model, layers), checked_plane(model, plane)
    if judge is not None and max_new_tokens is None:
        raise CircuitError("a judge reads completions; say how long, e.g. max_new_tokens=64")
    cells = rotations(rows, degrees, mode=mode, layers=entered, positions=positions)
    tokens, texts = as_pairs(prompts), texts_of(prompts)
    swept = sweep(model, tokens, metric, cells, direction="noise")
    completions: tuple[tuple[str, ...], ...] = ()
    refused: Tensor | None = None
    before: Tensor | None = None
    scores: Tensor | None = None
    if max_new_tokens is not None:
        completions = tuple(tuple(row) for row in generate_cells(model, tokens, cells, max_new_tokens=max_new_tokens))
        refused = torch.tensor([[is_refusal(text) for text in row] for row in completions])
        before = torch.tensor([is_refusal(text) for text in generate(model, tokens, max_new_tokens=max_new_tokens)])
        if judge is not None:
            judged = judge(texts * len(cells), [text for row in completions for text in row])
            found = torch.stack([torch.as_tensor(judged.scores[name]).float() for name in judge.scores])
            scores = found.unflatten(1, (len(cells), len(texts)))
    return RotationSweep(
        provenance=about(model, prompts, metric, swept.certificate.line), value=swept.value, base=swept.base,
        refused=refused, base_refused=before, scores=scores, score_names=() if judge is None else tuple(judge.scores),
        completions=completions, own=entering(model, prompts, entered) @ rows.T, plane=rows, angles=degrees, mode=mode,
        layers=entered, labels=labels_of(prompts), prompts=texts,
    )  # fmt: skip


def complete_at(
    model: Model, prompts: Prompts, plane: Float[Tensor, "2 d_model"], angles: Iterable[float] | Mapping[str, float], *,
    mode: Mode = "aim", layers: Layers = "all", positions: Where = "all", max_new_tokens: int = 64,
) -> pd.DataFrame:  # fmt: skip
    """One row per angle and prompt: point, angle, label, text, completion (greedy), refused.

    For a few angles; named ones, such as an axis's `compass`, keep their names as `point`. Raises as `rotate_sweep` does.
    """
    points = list(angles) if isinstance(angles, Mapping) else []
    angles = list(angles.values()) if isinstance(angles, Mapping) else angles
    degrees, entered, rows = checked_angles(angles), checked_layers(model, layers), checked_plane(model, plane)
    cells = rotations(rows, degrees, mode=mode, layers=entered, positions=positions)
    said = generate_cells(model, as_pairs(prompts), cells, max_new_tokens=max_new_tokens)
    texts, labels = texts_of(prompts), labels_of(prompts)
    frame = long_frame({"dose": list(range(len(degrees))), "prompt": list(range(len(texts)))}, {})
    flat, dose = [text for row in said for text in row], frame.pop("dose").to_numpy()
    return frame.assign(
        point=np.array(points or [f"{angle:g}°" for angle in degrees])[dose], angle=np.array(degrees)[dose],
        label=list(labels) * len(degrees), text=list(texts) * len(degrees), completion=flat,
        refused=[is_refusal(text) for text in flat],
    )  # fmt: skip
