"""Which planes hold the behaviour? Planes made of a model's candidate directions, and planes made of nothing.

    candidate[layer] = mean residual entering the layer, one label's prompts − another's, at the last position

    best + PC1              the best candidate, and the first principal component of all candidates: the write-up's
    mean + PC1              their mean instead of the best
    best + last PC          the component in which they vary least, of those in which they vary at all
    last two PCs
    sample PC1 + PC2        components of the single prompts' differences at the best layer: each prompt a candidate
    best + sample PC1
    best + random #n        null of the second axis
    random #n               null of the whole plane

Each is two orthonormal rows; 0° is the first named. What the principal components are depends on two choices that the
result names: candidates at their own norm (`unit_norm=False`: late layers count most, because residuals grow) or each at
norm 1, for the mean as well; their mean taken off (`centred`) or not. Not centred, PC1 is nearly the mean candidate itself,
and a plane with it is refused where the two are closer than `least_angle`. A layer whose candidate is undefined is left out
and named.
Source: "Refusal in a rotation plane", how to find the 2D space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import scatter
from circuits.engine.collect import last_residuals
from circuits.errors import UndefinedError
from circuits.linalg import line_angle, plane, principal, random_directions
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Provenance, Result
from circuits.tables import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PUBLISHED: Final = "best + PC1"
"""The write-up's plane."""
_SMALL: Final = 1e-3
"""A difference of means shorter than this share of the residual's own norm is no direction."""


@final
@dataclass(frozen=True, kw_only=True)
class Planes(Result):
    """Named planes; `refused` names those that do not exist here, each with the reason."""

    basis: Float[Tensor, "plane 2 d_model"]
    names: tuple[str, ...]
    axes_angle: Float[Tensor, " plane"]
    """Degrees, 0 to 90, between the lines along the two vectors that a plane was made of: small ones span it badly."""
    refused: dict[str, str]
    candidates: Float[Tensor, "layer d_model"]
    """At their own norm, NaN where undefined."""
    best_layer: int
    left_out: tuple[int, ...]
    """Layers without a candidate."""
    explained: Float[Tensor, " component"]
    """Share of the candidates' sum of squares (about their mean, where centred) by principal component."""
    sample_explained: Float[Tensor, " direction"]
    """The same of the single prompts' differences; empty without them."""
    unit_norm: bool
    centred: bool

    @property
    def convention(self) -> str:
        """How the principal components were made, for captions."""
        return f"PCA of {'unit-norm' if self.unit_norm else 'raw'}, {'centred' if self.centred else 'uncentred'} candidates"

    def __getitem__(self, name: str) -> Float[Tensor, "2 d_model"]:
        """One plane. Raises UndefinedError with the reason for one that was refused, and for a name that is none."""
        if name in self.refused:
            raise UndefinedError(f"there is no plane {name!r}: {self.refused[name]}")
        if name not in self.names:
            raise UndefinedError(f"no plane called {name!r}; there are {', '.join(self.names)}")
        return self.basis[self.names.index(name)]

    def proper(self) -> dict[str, Float[Tensor, "2 d_model"]]:
        """The planes made of candidates alone, by name."""
        return {name: self[name] for name in self.names if "random" not in name}

    def null(self) -> dict[str, Float[Tensor, "2 d_model"]]:
        """The wholly random ones."""
        return {name: self[name] for name in self.names if name.startswith("random")}

    def to_frame(self) -> pd.DataFrame:
        """One row per plane and defined layer: where its candidate lies.

        `x`, `y` (residual units), `angle` (degrees, 0 to 360), `share`: of its squared norm in the plane.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for name, rows_of in zip(self.names, self.basis.double(), strict=True):
            for layer, candidate in enumerate(self.candidates.double()):
                if layer in self.left_out:
                    continue
                x, y = (rows_of @ candidate).tolist()
                angle = float(torch.rad2deg(torch.atan2(torch.tensor(y), torch.tensor(x)))) % 360
                share = (x * x + y * y) / float(candidate @ candidate)
                rows.append({"plane": name, "layer": layer, "x": x, "y": y, "angle": angle, "share": share})
        return pd.DataFrame(rows)

    def to_summary(self) -> pd.DataFrame:
        """One row per plane, also refused ones: `axes_angle`, mean `share` of the candidates in it, `refused` (the reason).

        `spread`: the largest angle between two candidates' projections, in degrees.
        """
        import pandas as pd

        frame = self.to_frame()
        rows: list[dict[str, Any]] = []
        for name, between in zip(self.names, self.axes_angle.tolist(), strict=True):
            mine = frame[frame["plane"] == name]
            angles = mine["angle"].to_numpy()
            apart = abs((angles[:, None] - angles[None] + 180) % 360 - 180)
            rows.append({
                "plane": name, "axes_angle": between, "share": mine["share"].mean(), "spread": apart.max(), "refused": "",
            })  # fmt: skip
        rows += [{"plane": name, "refused": why} for name, why in self.refused.items()]
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Where the candidates of all layers lie in every plane made of candidates."""
        frame = self.to_frame()
        frame = frame[frame["plane"].isin(list(self.proper()))]
        best = frame["layer"] == self.best_layer
        frame = frame.assign(
            shown=best.map({True: f"best (layer {self.best_layer})", False: "other layers"}),
            text=[f"layer {layer}, {angle:.0f}°" for layer, angle in zip(frame["layer"], frame["angle"], strict=True)],
        )
        return scatter(
            frame, x="x", y="y", color="shown", facet="plane", title="Candidate directions of all layers in each plane",
            x_title="along the first axis (residual units)", y_title="along the second axis (residual units)",
            caption=f"{self.provenance.caption} · {self.convention}",
        )  # fmt: skip


def planes(  # noqa: PLR0913  the conventions are arguments
    candidates: Float[Tensor, "layer d_model"],
    best_layer: int,
    *,
    provenance: Provenance,
    differences: Float[Tensor, "prompt d_model"] | None = None,
    unit_norm: bool = False,
    centred: bool = True,
    least_angle: float = 5.0,
    draws: int = 10,
    seed: int = 0,
) -> Planes:
    """Planes from candidates by layer (NaN or zero where undefined) and, where given, single prompts' differences.

    Raises UndefinedError where the best layer has no candidate, or fewer than two layers have one.
    """
    c = candidates.double().cpu()
    defined = c.isfinite().all(-1) & (c.norm(dim=-1) > 1e-8)
    left_out = tuple((~defined).nonzero()[:, 0].tolist())
    if not (0 <= best_layer < len(c) and best_layer not in left_out):
        raise UndefinedError(
            f"layer {best_layer} has no candidate (none in {left_out or '()'}); choose the best of layers with one"
        )
    if defined.sum() < 2:
        raise UndefinedError(f"one candidate alone (layer {best_layer}) spans no plane; give those of several layers")
    d = c.shape[-1]
    best, components = c[best_layer], principal(c[defined], unit_norm=unit_norm, centred=centred)
    mean = (c[defined] / c[defined].norm(dim=-1, keepdim=True) if unit_norm else c[defined]).mean(0)
    pc = components.components
    made: dict[str, tuple[Tensor, Tensor]] = {PUBLISHED: (best, pc[0]), "mean + PC1": (mean, pc[0])}
    refused: dict[str, str] = {}
    if len(pc) > 1:
        made |= {"best + last PC": (best, pc[-1]), "last two PCs": (pc[-1], pc[-2])}
    else:
        refused |= dict.fromkeys(("best + last PC", "last two PCs"), "the candidates have one principal component")
    shares = torch.empty(0)
    if differences is not None:
        single = principal(differences, unit_norm=unit_norm, centred=centred)
        shares, of = single.explained.float(), single.components
        made["best + sample PC1"] = (best, of[0])
        if len(of) > 1:
            made["sample PC1 + PC2"] = (of[0], of[1])
        else:
            refused["sample PC1 + PC2"] = "the prompts' differences have one principal component"
    lone, pairs = random_directions(3 * draws, d, seed=seed).double().split([draws, 2 * draws])
    made |= {f"best + random #{n}": (best, v) for n, v in enumerate(lone)}
    made |= {f"random #{n}": (pairs[2 * n], pairs[2 * n + 1]) for n in range(draws)}
    basis: dict[str, Tensor] = {}
    angles: list[float] = []
    for name, (first, second) in made.items():
        try:
            basis[name] = plane(first, second, least_angle=least_angle)
        except UndefinedError as error:
            refused[name] = str(error)
        else:
            angles.append(line_angle(first, second))
    if not basis:
        raise UndefinedError("no plane exists: " + "; ".join(f"{name}: {why}" for name, why in refused.items()))
    return Planes(
        provenance=provenance, basis=torch.stack(list(basis.values())), names=tuple(basis), axes_angle=torch.tensor(angles),
        refused=refused, candidates=torch.where(defined[:, None], c, torch.nan).float(), best_layer=best_layer,
        left_out=left_out, explained=components.explained.float(), sample_explained=shares, unit_norm=unit_norm,
        centred=centred,
    )  # fmt: skip


def concept_planes(  # noqa: PLR0913  the conventions are arguments
    model: Model,
    prompts: InstructionTokens,
    best_layer: int,
    *,
    of: str = "harmful",
    against: str = "harmless",
    unit_norm: bool = False,
    centred: bool = True,
    least_angle: float = 5.0,
    draws: int = 10,
    seed: int = 0,
) -> Planes:
    """`planes` of a concept: mean(of) − mean(against) by layer; single differences are an `of` prompt − mean(against).

    Candidates shorter than a thousandth of the residual (layer 0, where all prompts end alike) are undefined. Costs one
    forward pass per prompt. Raises UndefinedError for a label that no prompt has, and as `planes` does.
    """
    there = {label: prompts.labelled(label) for label in (of, against)}
    for label, rows in there.items():
        if not rows.any():
            raise UndefinedError(
                f"{prompts.instructions.name}: no prompt is labelled {label!r}; give prompts of both labels"
            )
    model.check_layers([best_layer], "best_layer")
    resid = last_residuals(model, prompts).double()
    single = resid[there[of]] - resid[there[against]].mean(0)
    candidates = single.mean(0)
    short = candidates.norm(dim=-1) <= _SMALL * resid.norm(dim=-1).mean(0)
    about = provenance(model, prompts.beside_themselves())
    said = f"{int(there[of].sum())} {of} and {int(there[against].sum())} {against} prompts ({prompts.hash})"
    return planes(
        torch.where(short[:, None], torch.nan, candidates).float(), best_layer,
        provenance=replace(about, pairs=said, clusters=()), differences=single[:, best_layer].float(), unit_norm=unit_norm,
        centred=centred, least_angle=least_angle, draws=draws, seed=seed,
    )  # fmt: skip
