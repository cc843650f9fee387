"""One concept's direction at every layer: how far it separates, whether layers share it, whether other prompts find it.

    direction[layer] = mean(of) − mean(against) of the residual entering layer, at the last position

    d        Cohen's d of projections on the direction of the other folds; also on the direction of the same prompts,
             as the write-up had it. In many dimensions that one is large without any concept: with n prompts of each
             class and noise alone about √(2 · d_model/n). `optimism` is the difference.
    cosine   between the directions of two layers. The residual stream carries noise on to the next layer too, so
             directions of shuffled labels agree as well: those are the null, and halves share no prompt's noise.
    half     cosine of the directions of two disjoint halves, over random halves; 2c/(1 + c) for two full sets.

Where all prompts have the same residual (the last token of a template, entering layer 0) the direction is undefined: NaN,
and said. Intervals resample prompts within each class (cosines) or leave each out once (d).
Source: "Refusal as a Single Direction in Qwen-1.8B-Chat", localisation and consistency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import heatmap, lines
from circuits.engine import contrast, held_out
from circuits.engine.collect import last_residuals
from circuits.errors import CircuitError, UndefinedError
from circuits.frames import long_frame
from circuits.linalg import random_directions
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Provenance, Result
from circuits.selection import THRESHOLD, StableBlock, stable_block

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_LEAST: Final = 6
"""Prompts of each class: three in each half."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerDirections(Result):
    """A direction per layer, every prompt's projection on it, and what chance gives. NaN: undefined layers."""

    directions: Float[Tensor, "layer d_model"]
    residual_norm: Float[Tensor, " layer"]
    """Mean norm of the prompts' residuals."""
    projections: Float[Tensor, "prompt layer"]
    """On the unit direction of the folds without the prompt, from the midpoint of their means, in residual units."""
    in_sample: Float[Tensor, "prompt layer"]
    """On the unit direction of all prompts."""
    d: Float[Tensor, " layer"]
    """Cohen's d of `projections`; `d_low` and `d_high`: the jackknife over prompts, directions included."""
    d_low: Float[Tensor, " layer"]
    d_high: Float[Tensor, " layer"]
    null_d: Float[Tensor, "sample layer"]
    """Held-out d with labels shuffled, folds dealt anew."""
    random_d: Float[Tensor, "direction layer"]
    """d along random directions."""
    resampled: Float[Tensor, "sample layer layer"]
    """Cosines between layers with the prompts of each class drawn again."""
    shuffled: Float[Tensor, "sample layer layer"]
    """The same with labels shuffled: what the residual stream carries on by itself."""
    halves: Float[Tensor, "sample layer layer"]
    """Cosine of one half's direction at a layer with the other half's at another; its diagonal is the stability."""
    shuffled_halves: Float[Tensor, "sample layer"]
    """That diagonal with labels shuffled."""
    labels: tuple[str, ...]
    of: str
    against: str
    folds: int

    @property
    def cosines(self) -> Float[Tensor, "layer layer"]:
        """Cosine of every two layers' directions."""
        return contrast.between(self.directions, self.directions)

    @property
    def undefined(self) -> tuple[int, ...]:
        """Layers without a direction."""
        return tuple(self.directions.isnan().any(-1).nonzero()[:, 0].tolist())

    def block(self, threshold: float = THRESHOLD, *, containing: int | None = None) -> StableBlock:
        """The largest block of layers that share a direction."""
        return stable_block(self.cosines, threshold, containing=containing)

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt and layer: label, projection (held out), in_sample."""
        axes = {"prompt": list(range(len(self.labels))), "layer": list(range(len(self.directions)))}
        label = np.array(self.labels)[:, None]
        return long_frame(
            axes, {"label": label, "projection": self.projections.numpy(), "in_sample": self.in_sample.numpy()}
        )

    def to_summary(self) -> pd.DataFrame:
        """One row per layer.

        norm (residual units) and its share of the residual's; d with interval, d_in_sample, optimism, p (labels shuffled,
        one-sided), p_max (the same against the largest of all layers), null_d (95 % of shuffled labels), random_d (95 % of
        |d| along random directions); half with the range over halves, null_half (95 %), full_size; block_share (of resamples).
        """
        import pandas as pd

        of = torch.tensor([label == self.of for label in self.labels])
        held, same = self.d.numpy(), held_out.separation(self.in_sample.T, of).numpy()
        null, largest = self.null_d.numpy(), np.nan_to_num(self.null_d.numpy(), nan=-np.inf).max(1)
        inside = self.block_stability()["share"]
        rows: list[dict[str, Any]] = []
        for layer, norm in enumerate(self.directions.norm(dim=-1).tolist()):
            row: dict[str, Any] = {"layer": layer, "norm": norm, "share": norm / float(self.residual_norm[layer])}
            if np.isfinite(same[layer]):
                half = self.halves[:, layer, layer].numpy()
                row |= {
                    "d": held[layer], "d_low": float(self.d_low[layer]), "d_high": float(self.d_high[layer]),
                    "d_in_sample": same[layer], "optimism": same[layer] - held[layer],
                    "p": (1 + (null[:, layer] >= held[layer]).sum()) / (1 + len(null)),
                    "p_max": (1 + (largest >= held[layer]).sum()) / (1 + len(null)),
                    "null_d": np.quantile(null[:, layer], 0.95),
                    "random_d": np.quantile(self.random_d[:, layer].abs().numpy(), 0.95),
                    "half": half.mean(), "half_low": np.quantile(half, 0.025), "half_high": np.quantile(half, 0.975),
                    "null_half": np.quantile(self.shuffled_halves[:, layer].numpy(), 0.95),
                    "full_size": 2 * half.mean() / (1 + half.mean()) if half.mean() > 0 else np.nan,
                    "block_share": inside[layer],
                }  # fmt: skip
            rows.append(row)
        return pd.DataFrame(rows)

    def cosine_frame(self) -> pd.DataFrame:
        """One row per two layers: cosine, interval, halves (no prompt shared), null_high (95 % of shuffled labels)."""
        layers = list(range(len(self.directions)))
        low, high = np.quantile(self.resampled.numpy(), [0.025, 0.975], axis=0)
        return long_frame(
            {"layer": layers, "other": layers},
            {
                "cosine": self.cosines.numpy(), "low": low, "high": high, "halves": self.halves.mean(0).numpy(),
                "null_high": np.quantile(self.shuffled.numpy(), 0.95, axis=0),
            },
        )  # fmt: skip

    def block_stability(self, threshold: float = THRESHOLD) -> pd.DataFrame:
        """One row per layer: inside the largest block, and the share of resamples in whose largest block it is.

        The same for all rows: `same`, the share of resamples with exactly this block; `size`; `null_size`, the 95 % quantile
        of its size with labels shuffled, and `p`, how often that is as large.
        """
        import pandas as pd

        block = self.block(threshold)
        drawn = [stable_block(c, threshold) for c in self.resampled]
        null = np.array([len(stable_block(c, threshold).layers) for c in self.shuffled])
        size = len(block.layers)
        layers = range(len(self.directions))
        return pd.DataFrame({
            "layer": layers, "inside": [any(i in b for b in block.blocks) for i in layers],
            "share": [np.mean([any(i in b for b in d.blocks) for d in drawn]) for i in layers],
            "same": np.mean([d.blocks == block.blocks for d in drawn]), "size": size,
            "null_size": np.quantile(null, 0.95), "p": (1 + (null >= size).sum()) / (1 + len(null)),
        })  # fmt: skip

    def figure(self) -> go.Figure:
        """Cosines between layers; the caption names the stable block, and how large one is without a concept."""
        null = int(self.block_stability()["null_size"].iloc[0])
        return heatmap(
            self.cosine_frame(), x="layer", y="other", value="cosine", low="low", high="high", quantile=1.0,
            title=f"Directions {self.of} − {self.against} of every two layers", x_title="layer entered",
            y_title="other layer entered", unit="cosine",
            caption=f"{self._said} · {self.block()}; labels shuffled: up to {null} layers (95 %)",
        )  # fmt: skip

    def separation_figure(self) -> go.Figure:
        """Cohen's d by layer: held out, in sample, and what shuffled labels and random directions reach."""
        import pandas as pd

        table = self.to_summary()
        known = {
            "held out": "d",
            "in sample": "d_in_sample",
            "labels shuffled, 95 %": "null_d",
            "random, 95 %": "random_d",
        }
        parts = [table[["layer"]].assign(d=table[c], low=table[c], high=table[c], series=n) for n, c in known.items()]
        parts[0] = parts[0].assign(low=table["d_low"], high=table["d_high"])
        return lines(
            pd.concat(parts, ignore_index=True), x="layer", y="d", color="series", low="low", high="high",
            title=f"How far {self.of} and {self.against} prompts lie apart along the direction",
            x_title="layer entered", y_title="Cohen's d (standard deviations)", caption=self._said,
        )  # fmt: skip

    def stability_figure(self) -> go.Figure:
        """Cosine of the directions of disjoint halves by layer, against shuffled labels."""
        import pandas as pd

        table = self.to_summary()
        own = table.assign(y=table["half"], low=table["half_low"], high=table["half_high"], series="disjoint halves")
        null = table.assign(y=table["null_half"], low=np.nan, high=np.nan, series="labels shuffled, 95 %")
        return lines(
            pd.concat([own, null], ignore_index=True), x="layer", y="y", color="series", low="low", high="high",
            title="Do other prompts of the same set give the same direction?", x_title="layer entered",
            y_title="cosine", caption=f"{self._said} · band: 95 % of {len(self.halves)} random halves",
        )  # fmt: skip

    @property
    def _said(self) -> str:
        none = (
            f" · no direction at layer {', '.join(map(str, self.undefined))}: all prompts alike"
            if self.undefined
            else ""
        )
        return f"{self.provenance.caption}{none}"


def layer_directions(
    model: Model, prompts: InstructionTokens, *, of: str = "harmful", against: str = "harmless", folds: int = 5,
    draws: int = 200, null_directions: int = 100, seed: int = 0,
) -> LayerDirections:  # fmt: skip
    """The direction of one concept at every layer; `draws` resamples, shuffles and random halves.

    Prompts of other labels are left out. Both prompts of a pair are in one fold if `prompts` come from
    `InstructionTokens.from_pairs`; labels are shuffled freely all the same, and every prompt counts as a draw of its own.
    Raises CircuitError for labels without at least six prompts, UndefinedError where no layer has a direction.
    """
    chosen, is_of = contrast.two_classes(prompts.instructions, of, against, least=_LEAST)
    prompts = prompts.only(chosen)
    fold = held_out.folds_of(is_of, folds)
    if draws < 1 or null_directions < 1:
        raise CircuitError(f"{draws} draws and {null_directions} random directions; give at least 1 of each")
    resid = last_residuals(model, prompts)
    found = contrast.difference_of_means(resid, is_of)
    undefined = found.isnan().any(-1)
    if undefined.all():
        raise UndefinedError(
            f"{of} and {against} prompts have the same mean residual at every layer: there is no direction"
        )
    products = contrast.gram(resid, resid)
    held, own = (held_out.projected(products, is_of, f) for f in (fold, None))
    held[:, undefined] = own[:, undefined] = torch.nan
    d, low, high = (t.masked_fill(undefined, torch.nan) for t in held_out.held_out_d(products, is_of, fold))
    random = random_directions(null_directions, resid.shape[-1], seed=seed)
    orders = list(contrast.shuffles(is_of, draws, seed=seed))
    null_d = torch.stack([
        held_out.separation(held_out.projected(products, is_of[p], fold[p]).T, is_of[p]) for p in orders
    ])  # fmt: skip
    null_d[:, undefined] = torch.nan
    split = [contrast.halves(is_of, seed=seed + i) for i in range(draws)]
    mixed = [contrast.halves(is_of[p], seed=seed + i) for i, p in enumerate(orders)]
    return LayerDirections(
        provenance=Provenance(
            model=model.title, model_hash=model.hash, dtype=str(model.dtype).removeprefix("torch."), device=str(model.device),
            pairs=f"{int(is_of.sum())} {of} and {int((~is_of).sum())} {against} prompts ({prompts.hash})", metric="",
        ),
        directions=found, residual_norm=contrast.sizes(resid), projections=held, in_sample=own, d=d, d_low=low,
        d_high=high, null_d=null_d,
        random_d=held_out.separation(torch.einsum("nd,pld->nlp", random, resid), is_of).masked_fill(undefined, torch.nan),
        resampled=_between(resid, [(w, w) for w in contrast.resamples(is_of, draws, seed=seed)], undefined),
        shuffled=_between(resid, [(w, w) for w in (contrast.weights(is_of[p]) for p in orders)], undefined),
        halves=_between(resid, split, undefined),
        shuffled_halves=torch.diagonal(_between(resid, mixed, undefined), dim1=1, dim2=2).clone(),
        labels=tuple(i.label for i in prompts.instructions), of=of, against=against, folds=folds,
    )  # fmt: skip


def _between(
    resid: Float[Tensor, "prompt layer d_model"],
    drawn: list[tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]],
    undefined: Tensor,
) -> Float[Tensor, "sample layer layer"]:
    """For every draw, cosine of the first direction at a layer (row) with the second at another (column)."""
    x = resid.double() - resid.double().mean(0)  # weights add to 0: nothing changes but the rounding
    found: list[Tensor] = []
    for first, second in drawn:
        a = torch.einsum("p,pld->ld", first, x)
        b = a if second is first else torch.einsum("p,pld->ld", second, x)
        found.append(contrast.between(a, b))
    every = torch.stack(found)
    every[:, undefined] = torch.nan
    every[:, :, undefined] = torch.nan
    return every
