"""Planes against each other: which moves the metric most for how far it moves the activation.

    movement[plane, prompt] = RMS over angles of (metric − unedited metric) / RMS over angles of ‖edited − original‖

A plane that holds much of the activation displaces it further: per unit of displacement a plane wins by what it points
to, not by how much is in it. One layer and the last position, where the displacement of a rotation is known exactly:
2 r |sin(half the angle turned)|, with r the in-plane length. The null is random planes: `p` is the share of them that
move the mean prompt as far, counting the plane itself; Holm's over the planes compared beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine import sweep
from circuits.errors import CircuitError, UndefinedError
from circuits.frames import long_frame
from circuits.interventions import Cell
from circuits.linalg import plane as plane_of
from circuits.linalg import random_directions
from circuits.measure.rotation.edits import (
    Mode,
    Prompts,
    about,
    as_pairs,
    checked_angles,
    checked_plane,
    entering,
    labels_of,
    rotations,
)
from circuits.metrics import Metric
from circuits.model import Model
from circuits.result import Result
from circuits.stats import holm, mean_interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@final
@dataclass(frozen=True, kw_only=True)
class PlaneComparison(Result):
    """Metric and displacement by plane, angle and prompt; the last planes are random ones."""

    value: Float[Tensor, "plane dose prompt"]
    base: Float[Tensor, " prompt"]
    displacement: Float[Tensor, "plane dose prompt"]
    """In residual units."""
    basis: Float[Tensor, "plane 2 d_model"]
    names: tuple[str, ...]
    null: tuple[str, ...]
    """Names of the random planes."""
    angles: tuple[float, ...]
    mode: Mode
    layer: int
    labels: tuple[str, ...]

    @property
    def movement(self) -> Float[Tensor, "plane prompt"]:
        """Units of the metric per residual unit; NaN where a prompt has no part in a plane."""
        change = (self.value - self.base).double().square().mean(1).sqrt()
        moved = self.displacement.double().square().mean(1).sqrt()
        return change / torch.where(moved > 0, moved, torch.nan)

    def to_frame(self) -> pd.DataFrame:
        """One row per plane, angle and prompt: metric, change, displacement, label, and whether the plane is random."""
        axes: dict[str, Any] = {
            "plane": list(self.names), "angle": list(self.angles), "prompt": list(range(len(self.labels))),
        }  # fmt: skip
        named = {"metric": self.value, "change": self.value - self.base, "displacement": self.displacement}
        frame = long_frame(axes, {name: t.double().numpy() for name, t in named.items()})
        at = frame["prompt"].to_numpy()
        return frame.assign(label=np.array(self.labels)[at], random=frame["plane"].isin(self.null))

    def to_summary(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per plane that is not random: mean movement with its 95 % interval over prompts, against the random ones.

        `change`, `displacement`: RMS over angles, mean over prompts. `null_mean`, `null_high`: mean and 95th percentile of
        the random planes' mean movements; `p`, `p_holm`. `n` counts prompts with a part in the plane.
        """
        import pandas as pd

        movement = self.movement.numpy()
        change = (self.value - self.base).double().square().mean(1).sqrt().numpy()
        moved = self.displacement.double().square().mean(1).sqrt().numpy()
        is_null = np.isin(self.names, self.null)
        with np.errstate(invalid="ignore"):
            drawn = np.array([np.nanmean(m) for m in movement[is_null] if np.isfinite(m).any()])
        clusters = None if self.clusters is None else np.array(self.clusters)
        rows: list[dict[str, Any]] = []
        for i in np.flatnonzero(~is_null):
            there = np.flatnonzero(np.isfinite(movement[i]))
            if not len(there):
                raise UndefinedError(f"plane {self.names[i]!r}: no prompt has a part in it entering layer {self.layer}")
            found = mean_interval(movement[i, there], None if clusters is None else clusters[there], seed=seed)
            rows.append({
                "plane": self.names[i], "movement": found.estimate, "low": found.low, "high": found.high,
                "change": change[i].mean(), "displacement": moved[i].mean(), "null_mean": drawn.mean(),
                "null_high": np.quantile(drawn, 0.95), "n": len(there),
                "p": (1 + int((drawn >= found.estimate).sum())) / (1 + len(drawn)),
            })  # fmt: skip
        table = pd.DataFrame(rows)
        return table.assign(p_holm=holm(table["p"].to_numpy()))

    def figure(self) -> go.Figure:
        """Movement per unit of displacement by plane; the line is the random planes' 95th percentile."""
        table = self.to_summary()
        return bars(
            table, x="plane", y="movement", low="low", high="high", threshold=float(table["null_high"].iloc[0]),
            threshold_name="random planes, 95 %",
            title=f"How far each plane moves the metric, layer {self.layer}, last position", x_title="plane",
            y_title=f"{self.provenance.metric}, per residual unit",
            caption=f"{self.provenance.caption} · line: 95th percentile of {len(self.null)} random planes",
        )  # fmt: skip


def compare_planes(  # noqa: PLR0913  planes are compared at one layer, by angles, against draws
    model: Model, prompts: Prompts, metric: Metric, planes: Mapping[str, Float[Tensor, "2 d_model"]], *, layer: int,
    angles: Iterable[float] = range(0, 360, 30), mode: Mode = "aim", draws: int = 199, seed: int = 0,
) -> PlaneComparison:  # fmt: skip
    """Every plane at every angle, and `draws` random planes at the same; the last position of the residual entering a layer.

    With 199 random planes p can be as small as 1/200, which ten planes compared beside each other survive. Planes that share
    the best candidate all move what it moves: its planes with a random second axis tell what the second axis adds. Raises
    CircuitError without planes, random planes or angles, SiteError for a layer or plane that does not fit; before anything
    is run.
    """
    degrees = checked_angles(angles)
    model.check_layers([layer], "layer")
    if not planes or draws < 1:
        raise CircuitError("nothing to compare: give planes by name, e.g. planes(…).proper(), and draws of at least 1")
    rows = {name: checked_plane(model, rows) for name, rows in planes.items()}
    lines = random_directions(2 * draws, model.shape.d_model, seed=seed)
    random = {f"null #{n}": plane_of(lines[2 * n], lines[2 * n + 1]) for n in range(draws)}
    twice = rows.keys() & random.keys()
    if twice:
        raise CircuitError(f"plane {min(twice)!r}: that is what a random plane is called here; choose another name")
    rows |= random
    cells: list[Cell] = []
    for plane in rows.values():
        cells += rotations(plane, degrees, mode=mode, layers=[layer], positions="last")
    swept = sweep(model, as_pairs(prompts), metric, cells, direction="noise")
    resid = entering(model, prompts, [layer])[0].double()
    x, y = torch.stack([resid @ plane.double().T for plane in rows.values()]).unbind(-1)
    turn = torch.deg2rad(torch.tensor(degrees, dtype=torch.double))[None, :, None]
    if mode == "aim":
        turn = turn - torch.atan2(y, x)[:, None]
    displacement = 2 * torch.hypot(x, y)[:, None] * torch.sin(turn / 2).abs()
    return PlaneComparison(
        provenance=about(model, prompts, metric, swept.certificate.line),
        value=swept.value.unflatten(0, (len(rows), len(degrees))), base=swept.base,
        displacement=displacement.float().expand(-1, -1, len(swept.base)), basis=torch.stack(list(rows.values())),
        names=tuple(rows), null=tuple(random),
        angles=degrees, mode=mode, layer=layer, labels=labels_of(prompts),
    )  # fmt: skip
