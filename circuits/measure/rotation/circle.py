"""Ablation and addition are points of the plane: where each puts an activation, how far away, and the rotation beside it.

With (x, y) an activation's coordinates in the plane, of length r, at one layer and the last position:

    ablation                                 (0, y)          displaced by |x|
    addition                                 (x + c, y)      displaced by |c|; c is one number for all prompts
    rotation to the ablation's angle         r at ±90°       the same angle with the length kept: what ablation is but for it
    rotation to the addition's angle         r at atan2(y, x + c)
    rotation of the ablation's displacement  r turned towards the ablation's angle by 2 asin(|x| / 2r)
    rotation of the addition's displacement  the same for |c|; there is none where |c| > 2r
    random shift #n                          a random direction, displaced by |x|: the null

Every edit of an activation within the plane is a rotation and a change of length; these compare the two at one angle, and
at one displacement ‖edited − original‖. Points and displacements are measured in the run, not computed from the formulas:
`identity_error` is how far the two are apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine import read, sweep
from circuits.errors import UndefinedError
from circuits.frames import long_frame
from circuits.interventions import Ablate, Add, Aim, Intervention, Rotate
from circuits.linalg import random_directions
from circuits.measure.rotation.edits import Prompts, about, as_pairs, checked_plane, labels_of, texts_of
from circuits.metrics import Metric
from circuits.model import Model
from circuits.result import Result
from circuits.sites import Site
from circuits.stats import mean_interval, sign_flip_test

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES: Final = (
    "ablation", "addition", "rotation to the ablation's angle", "rotation to the addition's angle",
    "rotation of the ablation's displacement", "rotation of the addition's displacement",
)  # fmt: skip
BESIDE: Final[dict[str, str]] = dict(zip(NAMES[2:], ("ablation", "addition") * 2, strict=True))
"""Rotation -> the edit it is compared with."""


@final
@dataclass(frozen=True, kw_only=True)
class EditsOnCircle(Result):
    """Where edits put the activations and what the metric becomes; NaN where an edit does not exist for a prompt."""

    value: Float[Tensor, "dose prompt"]
    base: Float[Tensor, " prompt"]
    original: Float[Tensor, "prompt 2"]
    """Coordinates of the unedited activation in the plane, in residual units."""
    point: Float[Tensor, "dose prompt 2"]
    """Of the edited one."""
    displacement: Float[Tensor, "dose prompt"]
    """‖edited − original‖ in the whole residual stream, in residual units."""
    names: tuple[str, ...]
    layer: int
    shift: float
    """The addition's c, in residual units."""
    identity_error: float
    """Largest distance of a measured point from its formula, as a share of the largest in-plane length."""
    labels: tuple[str, ...]
    prompts: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per edit and prompt: where it is (`x`, `y`, `angle`, `length`), where it was (`…_before`), and the metric."""
        now, before = self.point.double(), self.original.double().expand(len(self.names), -1, -1)
        columns: dict[str, Tensor] = {
            "metric": self.value, "change": self.value - self.base, "displacement": self.displacement,
        }  # fmt: skip
        for end, p in (("", now), ("_before", before)):
            x, y = p.unbind(-1)
            angle = torch.rad2deg(torch.atan2(y, x)) % 360
            columns |= {f"x{end}": x, f"y{end}": y, f"angle{end}": angle, f"length{end}": torch.hypot(x, y)}
        axes = {"edit": list(self.names), "prompt": list(range(len(self.labels)))}
        frame = long_frame(axes, {name: t.double().numpy() for name, t in columns.items()})
        at = frame["prompt"].to_numpy()
        return frame.assign(label=np.array(self.labels)[at], text=np.array(self.prompts, dtype=object)[at])

    def to_summary(self, *, seed: int = 0) -> pd.DataFrame:
        """One row per edit: mean change of the metric with its 95 % interval over prompts, and the mean displacement.

        `per_unit`: mean change over mean displacement. For a rotation `beside` names the edit it is compared with and
        `differ` is its change − that edit's (`differ_low`, `differ_high`; `p` flips the signs of whole prompts, or clusters).
        `n` counts the prompts for which the edit exists.
        """
        import pandas as pd

        change = (self.value - self.base).double().numpy()
        moved = self.displacement.double().numpy()
        clusters = None if self.clusters is None else np.array(self.clusters)
        rows: list[dict[str, Any]] = []
        for i, name in enumerate(self.names):
            there = np.flatnonzero(np.isfinite(change[i]))
            if not len(there):
                rows.append({"edit": name, "n": 0})
                continue
            own = None if clusters is None else clusters[there]
            found = mean_interval(change[i, there], own, seed=seed)
            far = float(moved[i, there].mean())
            row: dict[str, Any] = {
                "edit": name, "n": len(there), "change": found.estimate, "low": found.low, "high": found.high,
                "displacement": far, "per_unit": found.estimate / far if far > 0 else np.nan, "beside": BESIDE.get(name, ""),
            }  # fmt: skip
            if name in BESIDE:
                gap = change[i, there] - change[self.names.index(BESIDE[name]), there]
                differ = mean_interval(gap, own, seed=seed)
                row |= {"differ": differ.estimate, "differ_low": differ.low, "differ_high": differ.high}
                row["p"] = sign_flip_test(gap, clusters=own, seed=seed).p
            rows.append(row)
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Mean change of the metric under each edit and the rotations beside it."""
        table = self.to_summary()
        table = table[~table["edit"].str.startswith("random") & table["n"].gt(0)]
        kinds = {"to the": "to its angle", "of the": "as far"}
        shown = [
            next((said for part, said in kinds.items() if f"rotation {part}" in edit), "the edit") for edit in table["edit"]
        ]
        panel = [beside or edit for beside, edit in zip(table["beside"], table["edit"], strict=True)]
        return bars(
            table.assign(shown=shown, panel=panel), x="shown", y="change", facet="panel", low="low", high="high",
            title=f"Edits of the in-plane part entering layer {self.layer}, last position",
            x_title="the edit, and rotations to its angle and by its displacement",
            y_title=f"change of {self.provenance.metric}", caption=self.provenance.caption,
        )  # fmt: skip


def locate_edits(
    model: Model, prompts: Prompts, metric: Metric, plane: Float[Tensor, "2 d_model"], *, layer: int,
    shift: float | None = None, draws: int = 10, seed: int = 0,
) -> EditsOnCircle:  # fmt: skip
    """Ablate and add along the plane's first axis, beside the rotations of the same angle and displacement.

    `shift` is the addition's length c; by default minus the mean x, which puts the mean activation where ablation does.
    Raises SiteError for a layer or plane that does not fit, UndefinedError where an activation has no part in the plane.
    """
    rows = checked_plane(model, plane)
    model.check_layers([layer], "layer")
    tokens, site = as_pairs(prompts), Site("resid_pre", layer)
    before = read(model, tokens, (), [site], columns=[-1]).seen[site][:, 0]
    x, y = (before.double() @ rows.double().T).unbind(-1)
    r = torch.hypot(x, y)
    small = (r <= 1e-6 * before.double().norm(dim=-1)).nonzero()
    if len(small):
        raise UndefinedError(
            f"prompt {int(small[0])} has no part in the plane entering layer {layer}: it has no angle there"
        )
    c = float(-x.mean()) if shift is None else float(shift)
    ablated, added = torch.atan2(y, torch.zeros_like(x)), torch.atan2(y, x + c)
    own = torch.atan2(y, x)
    by = [_towards(own, to, far / (2 * r)) for to, far in ((ablated, x.abs()), (added, torch.full_like(x, abs(c))))]
    angles = (ablated, added, own + by[0], own + by[1])
    expected = [torch.stack([0 * x, y], -1), torch.stack([x + c, y], -1)]
    expected += [torch.stack([r * torch.cos(t), r * torch.sin(t)], -1) for t in angles]

    def degrees(t: Tensor) -> Tensor:
        return torch.rad2deg(t.nan_to_num()).float()

    null = random_directions(draws, model.shape.d_model, seed=seed)
    edits: list[Intervention] = [
        Ablate(site, rows[0], "last"), Add(site, rows[0], "last", c),
        Aim(site, rows, degrees(ablated), "last"), Aim(site, rows, degrees(added), "last"),
        Rotate(site, rows, degrees(by[0]), "last"), Rotate(site, rows, degrees(by[1]), "last"),
        *(Add(site, v, "last", x.abs().float()) for v in null),
    ]  # fmt: skip
    swept = sweep(model, tokens, metric, [(edit,) for edit in edits], direction="noise")
    after = torch.stack([read(model, tokens, (edit,), [site], columns=[-1]).seen[site][:, 0] for edit in edits])
    point = after.double() @ rows.double().T
    missing = torch.zeros(len(edits), len(x), dtype=torch.bool)
    missing[5] = by[1].isnan()
    gap = (point[: len(expected)] - torch.stack(expected)).norm(dim=-1)[~missing[: len(expected)]]
    return EditsOnCircle(
        provenance=about(model, prompts, metric, swept.certificate.line),
        value=swept.value.masked_fill(missing, torch.nan), base=swept.base, original=torch.stack([x, y], -1).float(),
        point=point.float().masked_fill(missing[..., None], torch.nan),
        displacement=(after - before).double().norm(dim=-1).float().masked_fill(missing, torch.nan),
        names=(*NAMES, *(f"random shift #{n}" for n in range(draws))), layer=layer, shift=c,
        identity_error=float(gap.max() / r.max()), labels=labels_of(prompts), prompts=texts_of(prompts),
    )  # fmt: skip


def _towards(
    own: Float[Tensor, " prompt"], to: Float[Tensor, " prompt"], share: Float[Tensor, " prompt"]
) -> Float[Tensor, " prompt"]:
    """The turn, in radians, that displaces by `share` of twice the length, the shorter way to an angle; NaN above 1."""
    gap = torch.remainder(to - own + torch.pi, 2 * torch.pi) - torch.pi
    side = torch.where(gap < 0, -1.0, 1.0)
    return side * 2 * torch.asin(torch.where(share <= 1, share, torch.nan))
