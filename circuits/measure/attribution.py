"""Who writes the metric? Direct logit attribution: every write's share of the metric, adding up exactly.

    share(c) = ⟨g, linear(c)⟩     c what the embedding, an attention or MLP output, or a head adds to the final residual

g is the metric's pullback, `linear` the final norm at the scale of the run (each c centred where the norm is a
LayerNorm); a head's c is z W_O, through the scale its block's post-norm has in the run, if there is one. Last position;

    metric = embedding + positional + Σ attention + Σ MLP + norm bias + unembedding bias + soft cap + residual
    attention of a block = Σ heads + attention bias + head residual

with both residuals at rounding. The cap's term is metric − the same metric of uncapped logits.
It misleads: only direct effects are seen (no writes that later blocks read), the scale is held though every write
changes it, and what any prompt of this form needs is in all shares but not in clean − corrupt. A large share need not
be needed: patch it. The null is the difference along random directions of g's norm.
Source: Elhage et al. 2021; "Analysing the Refusal Circuit in Gemma 2b IT", isolating relevant components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars, heatmap
from circuits.engine import Run, capture
from circuits.engine.direct import Direct, direct, pullback
from circuits.frames import long_frame, summary
from circuits.linalg import random_directions
from circuits.metrics import Metric
from circuits.model import Model
from circuits.model.value_path import output_path
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.sites import Site, head
from circuits.stats import ALPHA, max_t
from circuits.tables import KINDS, SIDES, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

OTHERS: Final = ("embedding", "positional", "norm_bias", "unembed_bias", "soft_cap", "residual")
"""Terms that no block writes."""


@final
@dataclass(frozen=True, kw_only=True)
class LogitAttribution(Result):
    """Direct share of the metric of everything written to the last position; terms are named in `OTHERS`."""

    metric: Float[Tensor, "side pair"]
    """Of the model's own logits, soft cap included."""
    written: Float[Tensor, "side pair kind layer"]
    heads: Float[Tensor, "side pair layer head"]
    """What each head adds to its block's attention output."""
    attention_bias: Float[Tensor, "side pair layer"]
    """The rest of the attention output: biases of its projection and of the norm after it."""
    head_residual: Float[Tensor, "side pair layer"]
    """Attention output − heads − bias: rounding."""
    embedding: Float[Tensor, "side pair"]
    positional: Float[Tensor, "side pair"]
    """What is added to the token's embedding whatever the token is; 0 without learned positions."""
    norm_bias: Float[Tensor, "side pair"]
    unembed_bias: Float[Tensor, "side pair"]
    soft_cap: Float[Tensor, "side pair"]
    residual: Float[Tensor, "side pair"]
    """Metric − all terms: the error of the identity."""
    centring: Float[Tensor, "side pair"]
    """How much of the metric a LayerNorm's centring removes; already within every share. 0 for an RMSNorm."""
    null_written: Float[Tensor, "direction kind layer"]
    """Mean difference clean − corrupt along random directions."""
    null_heads: Float[Tensor, "direction layer head"]
    softcap: float | None

    def to_frame(self) -> pd.DataFrame:
        """One row per side, pair and term (layer −1 outside blocks); values of a side and pair add up to its metric."""
        kind_of = {"attn_out": "ATTN", "mlp_out": "MLP"}
        layers = range(self.written.shape[3])
        named = [(f"L{layer}.{kind_of[kind]}", kind, layer) for kind in KINDS for layer in layers]
        terms = [*named, *((name, name, -1) for name in OTHERS)]
        others = torch.stack([getattr(self, name) for name in OTHERS], -1)
        value = torch.cat([self.written.flatten(2), others], -1).double().numpy()
        axes = {"side": list(SIDES), "pair": list(range(value.shape[1])), "component": [name for name, _, _ in terms]}
        kinds, where = (np.array([term[i] for term in terms]) for i in (1, 2))
        return long_frame(axes, {"kind": kinds, "layer": where, "value": value})

    def heads_frame(self) -> pd.DataFrame:
        """One row per side, pair, layer and head: its part of the attention output's `value`."""
        _, n_pairs, n_layers, n_heads = self.heads.shape
        axes = {"side": list(SIDES), "pair": list(range(n_pairs)), "layer": list(range(n_layers))}
        frame = long_frame(axes | {"head": list(range(n_heads))}, {"value": self.heads.double().numpy()})
        return frame.assign(component=[head(at, h).label for at, h in zip(frame["layer"], frame["head"], strict=True)])

    def to_summary(self) -> pd.DataFrame:
        """One row per term: mean difference clean − corrupt with interval, and `p` that it is zero.

        p is adjusted for having looked at all terms; the residual, which is rounding, has none. For blocks `null_low`
        and `null_high` are the 95 % range of the same difference along random directions.
        """
        table = self._difference(self.to_frame(), ["component", "kind", "layer"])
        null = np.quantile(self.null_written.double().numpy(), [0.025, 0.975], axis=0)
        axes = {"kind": list(KINDS), "layer": list(range(null.shape[2]))}
        spread = long_frame(axes, {"null_low": null[0], "null_high": null[1]})
        return table.merge(spread, on=["kind", "layer"], how="left")

    def heads_summary(self) -> pd.DataFrame:
        """One row per head, as `to_summary`; `p` is adjusted for having looked at all heads."""
        table = self._difference(self.heads_frame(), ["component", "layer", "head"])
        null = np.quantile(self.null_heads.double().numpy(), [0.025, 0.975], axis=0)
        axes = {"layer": list(range(null.shape[1])), "head": list(range(null.shape[2]))}
        spread = long_frame(axes, {"null_low": null[0], "null_high": null[1]})
        return table.merge(spread, on=["layer", "head"], how="left")

    def figure(self) -> go.Figure:
        """Share of each attention output and MLP output, clean − corrupt."""
        table = self.to_summary()
        return bars(
            table[table["layer"] >= 0], x="layer", y="mean", color="kind", low="low", high="high",
            title="Direct logit attribution, clean − corrupt, last position",
            x_title="layer", y_title=self._unit, caption=self.provenance.caption,
        )  # fmt: skip

    def heads_figure(self) -> go.Figure:
        """Share of each head, clean − corrupt; dots: p ≤ 0.05 over all heads, and outside what random directions have."""
        table = self.heads_summary()
        beyond = (table["mean"] < table["null_low"]) | (table["mean"] > table["null_high"])
        marked = (table["p"] <= ALPHA) & beyond
        dots = f"● p ≤ {ALPHA:g} over all {len(table)} heads, and outside 95 % of random directions: {int(marked.sum())}"
        return heatmap(
            table.assign(survives=marked), x="head", y="layer", value="mean", low="low", high="high",
            marked="survives", title="Direct logit attribution by head, clean − corrupt, last position",
            x_title="head", y_title="layer", unit=self._unit, quantile=1.0,
            caption=f"{self.provenance.caption} · {dots}",
        )  # fmt: skip

    def _difference(self, frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
        """Mean over pairs of clean − corrupt for every term, with interval and adjusted p."""
        clean, corrupt = (frame[frame["side"] == side].reset_index(drop=True) for side in SIDES)
        gap = clean.assign(value=clean["value"] - corrupt["value"])
        table = summary(gap, keys, "value", clusters=self.clusters)
        # rounding is no effect: a steady one would stand for the largest t of all
        wide = gap[gap["component"] != "residual"].pivot_table(index="pair", columns="component", values="value")
        p = dict(zip(wide.columns, max_t(wide.to_numpy(float), clusters=self.clusters), strict=True))
        return table.assign(p=table["component"].map(p))

    @property
    def _unit(self) -> str:
        return self.provenance.metric + ("" if self.softcap is None else f", before the cap at ±{self.softcap:g}")


def attribute_logits(
    model: Model, tokens: TokenPairs, metric: Metric, *, null_draws: int = 200, seed: int = 0
) -> LogitAttribution:
    """Share out the metric over everything written to the last position, clean and corrupt. Units of the metric.

    Raises UndefinedError, before anything is run, for a metric that is not linear in the logits: it has no shares.
    """
    pullback(model, tokens, metric)
    layers = range(model.shape.n_layers)
    sites = [Site("embed"), *(Site(kind, layer) for kind in (*KINDS, "z") for layer in layers)]
    runs = [capture(model, ids, tokens.mask, sites) for ids in (tokens.clean, tokens.corrupt)]
    constant = _constant_part(tokens, runs)
    sides = [_shares(model, run, direct(model, tokens, metric, run), constant) for run in runs]
    terms, means = ({name: torch.stack([side[i][name] for side in sides]) for name in sides[0][i]} for i in (0, 1))
    random = random_directions(null_draws, model.shape.d_model, seed=seed).double()
    null = {name: torch.einsum("...d,nd->n...", mean[0] - mean[1], random).float() for name, mean in means.items()}
    worst = float((terms["residual"].abs() / terms["metric"].abs().clamp(min=1)).max())
    said = f"contributions add up to the metric within {worst:.1e} of it"
    return LogitAttribution(
        provenance=provenance(model, tokens, metric, said), softcap=model.softcap, null_written=null["written"],
        null_heads=null["heads"], **{name: t.float() for name, t in terms.items()},
    )  # fmt: skip


def _shares(
    model: Model, run: Run, reader: Direct, constant: Float[Tensor, "pair d_model"]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every term of one run, [pair, …]; and what blocks and heads write at g's norm, averaged over pairs, [… d_model].

    The averages are all that random directions need, and small: every head's own vectors are let go layer by layer.
    """
    n_layers, layers = model.shape.n_layers, range(model.shape.n_layers)
    terms: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    writes = torch.stack([run.seen[Site(kind, layer)][:, -1] for kind in KINDS for layer in layers], 1)
    terms["written"], means["written"] = _read(reader, writes.unflatten(1, (len(KINDS), n_layers)))
    by_layer: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer in layers:
        by_head, bias = output_path(model, layer).added(run.seen[Site("z", layer)][:, -1])
        by_layer.append((*_read(reader, by_head), reader.read(bias)))
    shares, averages, biases = zip(*by_layer, strict=True)
    terms["heads"], means["heads"] = torch.stack(shares, 1), torch.stack(averages)
    terms["attention_bias"] = torch.stack(biases, 1)
    terms["head_residual"] = terms["written"][:, 0] - terms["heads"].sum(-1) - terms["attention_bias"]
    entered, final = run.resid[0][:, -1].double().cpu(), run.resid[-1][:, -1].double().cpu()
    terms["embedding"], terms["positional"] = reader.read(entered - constant), reader.read(constant)
    terms["norm_bias"], terms["unembed_bias"] = reader.norm_bias, reader.unembed_bias
    terms["soft_cap"] = (
        reader.metric - reader.uncapped if model.softcap is not None else torch.zeros_like(reader.metric)
    )
    named = sum((terms[name] for name in OTHERS if name != "residual"), terms["written"].flatten(1).sum(-1))
    terms["metric"], terms["residual"] = reader.metric, reader.metric - named
    mean = final.mean(-1) if reader.norm.centred else torch.zeros(len(final)).double()
    terms["centring"] = mean / reader.norm.scale * (reader.direction @ reader.norm.gain)
    return terms, means


def _read(reader: Direct, x: Float[Tensor, "pair *batch d_model"]) -> tuple[Tensor, Tensor]:
    """Shares [pair, …], and the mean over pairs of the normalised vectors times the norm of each pair's g."""
    linear = reader.norm.linear(x)
    size = reader.direction.norm(dim=-1) / len(x)
    return torch.einsum("p...d,pd->p...", linear, reader.direction), torch.einsum("p...d,p->...d", linear, size)


def _constant_part(tokens: TokenPairs, runs: list[Run]) -> Float[Tensor, "pair d_model"]:
    """What is added to the embedding whatever the token is, at the last position: learned positions, or 0.

    Found where the two prompts of a pair have different tokens: there it is the same. Scaled embeddings differ there.
    """
    pair = torch.arange(tokens.n_pairs)
    added = [(run.resid[0] - run.seen[Site("embed")]).double().cpu() for run in runs]
    clean, corrupt = (a[pair, tokens.subject] for a in added)
    size = runs[0].resid[0].abs().max().item()
    same = bool((clean - corrupt).abs().max() <= 1e-5 * size)
    return added[0][:, -1] if same else torch.zeros_like(added[0][:, -1])
