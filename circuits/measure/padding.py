"""What batching really changes: the same prompts alone, padded with care, and padded as a careless batch pads them.

    alone        one prompt at a time, nothing padded: what all others are compared with
    equal        batches of prompts of one length: batched, nothing padded
    masked       left-padded, padding masked, positions from the first token (how this package runs prompts)
    right        right-padded, read at the last real token
    columns      left-padded and masked, positions from the first column: `position_ids` forgotten
    attended     left-padded without a mask, positions from the first column: a tensor of tokens handed over as it is

`equal`, `masked` and `right` must equal `alone` up to rounding, which is checked: batching by itself changes nothing.
What `columns` and `attended` change is an error, not noise. `columns` changes nothing where positions are only relative
(rotary), so that what `attended` then does is done by attention to padding. It depends on how much each prompt is padded:
where the two classes differ in length, the padding itself becomes part of the direction.
Source: "Refusal as a Single Direction in Qwen-1.8B-Chat", batched against sequential extraction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.draw import lines
from circuits.engine import contrast, held_out
from circuits.engine.padded import residuals_at
from circuits.errors import AuditError, CircuitError, UndefinedError
from circuits.frames import long_frame
from circuits.linalg import cosine
from circuits.model import Model
from circuits.prompts.chat import Template
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.instructions import InstructionSet
from circuits.result import Provenance, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SETTINGS: Final = ("alone", "equal", "masked", "right", "columns", "attended")
"""The `setting` axis."""
EXACT: Final = SETTINGS[:4]
"""Settings that may differ by rounding alone."""
_ROUNDING: Final = {torch.float64: 1e-9, torch.float32: 1e-3}
"""‖x − alone‖/‖alone‖ that sums in another order explain; elsewhere `_COARSE`."""
_COARSE: Final = 0.1
_SAME: Final = 0.999
"""A direction whose cosine with `alone` is lower is another one."""
_LEAST: Final = 6


@final
@dataclass(frozen=True, kw_only=True)
class PaddingEffects(Result):
    """Direction, its agreement with `alone`, and how far every prompt's residual moved, by setting. NaN: undefined layers."""

    directions: Float[Tensor, "setting layer d_model"]
    resampled_cosine: Float[Tensor, "setting sample layer"]
    """Cosine with `alone`, the prompts of each class drawn again (the same in both)."""
    resampled_norm: Float[Tensor, "setting sample layer"]
    """Norm relative to that of `alone`, of the same draws."""
    projections: Float[Tensor, "setting prompt layer"]
    """Held out: on the setting's own unit direction of the other folds."""
    d: Float[Tensor, "setting layer"]
    """Cohen's d of these; `d_low` and `d_high`: the jackknife over prompts, directions included."""
    d_low: Float[Tensor, "setting layer"]
    d_high: Float[Tensor, "setting layer"]
    moved: Float[Tensor, "setting prompt layer"]
    """‖residual − alone‖/‖alone‖."""
    padding: Int[Tensor, " prompt"]
    """Columns of padding before (or after) each prompt."""
    labels: tuple[str, ...]
    of: str
    against: str

    @property
    def cosines(self) -> Float[Tensor, "setting layer"]:
        """Cosine of each setting's direction with `alone`."""
        return cosine(self.directions, self.directions[:1].expand_as(self.directions))

    @property
    def undefined(self) -> tuple[int, ...]:
        """Layers without a direction when prompts run alone."""
        return tuple(self.directions[0].isnan().any(-1).nonzero()[:, 0].tolist())

    def to_frame(self) -> pd.DataFrame:
        """One row per setting, prompt and layer: label, padding, moved, projection."""
        _, prompts, layers = self.moved.shape
        axes = {"setting": list(SETTINGS), "prompt": list(range(prompts)), "layer": list(range(layers))}
        columns = {
            "label": np.array(self.labels)[None, :, None], "padding": self.padding.numpy()[None, :, None],
            "moved": self.moved.numpy(), "projection": self.projections.numpy(),
        }  # fmt: skip
        return long_frame(axes, columns)

    def to_summary(self) -> pd.DataFrame:
        """One row per setting and layer.

        cosine with `alone` and norm_change (share of its norm), both with the 95 % range of prompts drawn again, which repeat
        prompts and so agree a little less than the prompts themselves; d held out with its interval; moved: mean over prompts.
        """
        import pandas as pd

        norms = self.directions.norm(dim=-1) / self.directions[:1].norm(dim=-1)
        between = {
            "cosine": (self.cosines, self.resampled_cosine), "norm_change": (norms - 1, self.resampled_norm - 1)
        }  # fmt: skip
        rows: list[dict[str, Any]] = []
        for s, setting in enumerate(SETTINGS):
            for layer in range(self.moved.shape[2]):
                row: dict[str, Any] = {"setting": setting, "layer": layer}
                for name, (value, drawn) in between.items():
                    low, high = np.quantile(drawn[s, :, layer].numpy(), [0.025, 0.975])
                    row |= {name: float(value[s, layer]), f"{name}_low": low, f"{name}_high": high}
                row |= {name: float(getattr(self, name)[s, layer]) for name in ("d", "d_low", "d_high")}
                rows.append(row | {"moved": float(self.moved[s, :, layer].mean())})
        return pd.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """What changes the direction on this model, the lowest cosine with `alone` by setting, and how padding differs."""
        lowest = {name: self.cosines[s].nan_to_num(2.0).min(0) for s, name in enumerate(SETTINGS) if name not in EXACT}
        moves = {name: float(low.values) < _SAME for name, low in lowest.items()}
        match moves["columns"], moves["attended"]:
            case False, True:
                said = "attention to padding changes the direction, batching and positions do not"
            case True, _:
                said = "positions that count padding change the direction, batching does not"
            case _:
                said = "neither batching nor padding changes the direction here"
        values = ", ".join(f"{name} {low.values:.4f} (layer {low.indices})" for name, low in lowest.items())
        return f"{said}; lowest cosine: {values}; {self.of} prompts have {self._padding_gap():+.1f} columns more of padding"

    def _padding_gap(self) -> float:
        of = torch.tensor([label == self.of for label in self.labels])
        return float(self.padding[of].double().mean() - self.padding[~of].double().mean())

    def figure(self) -> go.Figure:
        """Cosine of each setting's direction with that of prompts run alone, by layer."""
        table = self.to_summary()
        return lines(
            table[table["setting"] != "alone"], x="layer", y="cosine", color="setting", low="cosine_low", high="cosine_high",
            title=f"Direction {self.of} − {self.against} from batches, against prompts run alone",
            x_title="layer entered", y_title="cosine", caption=f"{self.provenance.caption} · {self.verdict}",
        )  # fmt: skip

    def separation_figure(self) -> go.Figure:
        """Held-out Cohen's d by layer and setting."""
        return lines(
            self.to_summary(), x="layer", y="d", color="setting", low="d_low", high="d_high",
            title=f"How far {self.of} and {self.against} prompts lie apart, by how they were run",
            x_title="layer entered", y_title="Cohen's d (held out)", caption=self.provenance.caption,
        )  # fmt: skip


def padding_effects(
    model: Model, instructions: InstructionSet, *, of: str = "harmful", against: str = "harmless",
    template: Template = "auto", folds: int = 5, draws: int = 500, seed: int = 0,
) -> PaddingEffects:  # fmt: skip
    """Run the same prompts in six ways and compare the directions they give.

    Prompts of other labels are left out, and pad nothing. Raises CircuitError for prompts of one length (nothing is padded)
    and for labels without at least six prompts; AuditError where careful batching does not give what prompts give alone;
    UndefinedError without any direction.
    """
    _, is_of = contrast.two_classes(instructions, of, against, least=_LEAST)
    instructions = instructions.labelled(of, against)
    fold = held_out.folds_of(is_of, folds)
    prompts = instructions.tokenize(model, template=template)
    if prompts.mask.all():
        raise CircuitError(
            f"{instructions.name}: every prompt has {prompts.ids.shape[1]} tokens, so that nothing is padded; add others"
        )
    if draws < 1:
        raise CircuitError(f"{draws} draws give no interval; give at least 1")
    resid = _run_all(model, prompts)
    size = resid[0].norm(dim=-1)
    moved = (resid - resid[:1]).norm(dim=-1) / size
    _require_equal(model, moved)
    found = torch.stack([contrast.difference_of_means(x, is_of) for x in resid])
    nowhere = found[0].isnan().any(-1)
    if nowhere.all():
        raise UndefinedError(
            f"{of} and {against} prompts have the same mean residual at every layer: there is no direction"
        )
    drawn = contrast.resamples(is_of, draws, seed=seed)
    products = [contrast.gram(x, x) for x in resid]
    own = torch.stack([contrast.along(g, drawn) for g in products]).clamp(min=0).sqrt()
    cross = torch.stack([contrast.along(contrast.gram(x, resid[0]), drawn) for x in resid])
    held = torch.stack([held_out.projected(g, is_of, fold) for g in products])
    undefined = found.isnan().any(-1)  # [setting, layer]
    limits = zip(*(held_out.held_out_d(g, is_of, fold) for g in products), strict=True)
    d, low, high = (torch.stack(each).masked_fill(undefined, torch.nan) for each in limits)
    hidden = undefined | nowhere
    return PaddingEffects(
        provenance=Provenance(
            model=model.title, model_hash=model.hash, dtype=str(model.dtype).removeprefix("torch."), device=str(model.device),
            pairs=f"{int(is_of.sum())} {of} and {int((~is_of).sum())} {against} prompts ({prompts.hash})", metric="",
            certificate=f"equal, masked and right-padded are alone up to {float(moved[1:4].max()):.0e}",
        ),
        directions=found, resampled_cosine=(cross / (own * own[:1])).masked_fill(hidden[:, None], torch.nan),
        resampled_norm=(own / own[:1]).masked_fill(hidden[:, None], torch.nan),
        projections=held.masked_fill(undefined[:, None], torch.nan), d=d, d_low=low, d_high=high, moved=moved.double(),
        padding=(~prompts.mask).sum(1), labels=tuple(i.label for i in instructions), of=of, against=against,
    )  # fmt: skip


def _run_all(model: Model, prompts: InstructionTokens) -> Float[Tensor, "setting prompt layer d_model"]:
    """The residual entering every block at the last token, in every setting."""
    ids, mask = prompts.ids, prompts.mask
    n, width = ids.shape
    length = mask.sum(1)
    last, column = torch.full((n,), width - 1), torch.arange(width)
    counted = (column - (width - length)[:, None]).clamp(min=0)
    right = torch.stack([row.roll(-int(width - k)) for row, k in zip(ids, length, strict=True)])
    along = column.expand(n, -1)
    alone, equal = (_unpadded(model, prompts, together=t) for t in (False, True))
    return torch.stack([
        alone, equal, residuals_at(model, ids, mask, counted, last),
        residuals_at(model, right, along < length[:, None], along.clone(), length - 1),
        residuals_at(model, ids, mask, along.clone(), last),
        residuals_at(model, ids, torch.ones_like(mask), along.clone(), last),
    ])  # fmt: skip


def _unpadded(model: Model, prompts: InstructionTokens, *, together: bool) -> Float[Tensor, "prompt layer d_model"]:
    """Every prompt without padding: one at a time, or those of one length together."""
    found: list[Tensor] = [torch.empty(0)] * len(prompts.ids)
    for length in sorted(set(prompts.mask.sum(1).tolist())):
        rows = (prompts.mask.sum(1) == length).nonzero()[:, 0]
        ids = prompts.ids[rows, -length:]
        at, positions = torch.full((len(rows),), length - 1), torch.arange(length).expand(len(rows), -1).clone()
        resid = residuals_at(
            model, ids, torch.ones_like(ids, dtype=torch.bool), positions, at, batch=64 if together else 1
        )
        for row, x in zip(rows.tolist(), resid, strict=True):
            found[row] = x
    return torch.stack(found)


def _require_equal(model: Model, moved: Float[Tensor, "setting prompt layer"]) -> None:
    """Raise AuditError where a careful setting is more than rounding away from prompts run alone."""
    allowed = _ROUNDING.get(model.dtype, _COARSE)
    worst = moved[: len(EXACT)].amax((1, 2))
    if not (worst <= allowed).all():
        s = int(worst.argmax())
        prompt, layer = divmod(int(moved[s].argmax()), moved.shape[2])
        raise AuditError(
            f"{model.name}: {SETTINGS[s]} residuals are not those of prompts run alone: {worst[s]:.1e} of their norm off at "
            f"prompt {prompt}, layer {layer} ({allowed:.0e} allowed in {model.dtype})\n"
            "its attention does not respect the mask or the positions; run its prompts one at a time"
        )
