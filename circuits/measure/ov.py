"""What do heads read at the subject to write the direction? The direction pulled back through W_V W_O, term by term.

    write[side, pair, head] = A[last, subject] ⟨v[subject] W_O, u⟩     u: v before the post-norm, at its scale
                            = Σ_c A ⟨c, r⟩ + A ⟨b_norm W_V W_O, u⟩ + A ⟨b_V W_O, u⟩,   r: W_V W_O u before the pre-norm

over the components c that make up the residual at the subject (embedding, attention and MLP of every earlier layer). The
sum is exact, because A and both norms' scales are those of the run; clean − corrupt therefore holds changes of A and scale
too. r is one residual vector per head: what it reads is what points along it. Null: the other heads of the same layers.
It is a linear reading of one run: a component that matters only through A or a scale shows nothing here.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", future work; Elhage et al. (2021) for OV circuits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import heatmap
from circuits.engine import Run, capture
from circuits.errors import AuditError, SiteError
from circuits.frames import long_frame, summary
from circuits.interventions import unit
from circuits.model import Model
from circuits.model.value_path import output_path, pulled_back, value_path
from circuits.prompts.align import TokenPairs
from circuits.prompts.tokenizer import pieces
from circuits.result import Result
from circuits.sites import Site, head
from circuits.stats import auroc
from circuits.tables import KINDS, SIDES, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BIASES: Final = ("norm bias", "value bias")


@final
@dataclass(frozen=True, kw_only=True)
class OvCircuits(Result):
    """Every head of the chosen heads' layers: what it moves from the subject along the direction, by component."""

    parts: Float[Tensor, "side pair layer head group"]
    """A ⟨c, r⟩ of every one of `components`; 0 for those that are not upstream of the layer."""
    write: Float[Tensor, "side pair layer head"]
    """A ⟨v[subject] W_O, u⟩, from the values of the run: what `parts` sum to."""
    total: Float[Tensor, "side pair layer head"]
    """What the head writes along the direction from all positions."""
    attention: Float[Tensor, "side pair layer head"]
    reads: Float[Tensor, "layer head d_model"]
    """r, averaged over the clean prompts."""
    extremes: tuple[tuple[str, int, str, float], ...]
    """Head, rank (from 1; negative from the lowest), token as `repr`, cosine of its embedding with r."""
    separation: dict[str, tuple[float, float, float]]
    """Head -> AUROC of ⟨embedding, r⟩, clean subjects' tokens against corrupt ones', with its interval."""
    components: tuple[str, ...]
    layers: tuple[int, ...]
    chosen: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per pair, head and upstream component: clean, corrupt, value (clean − corrupt), in residual units."""
        clean, corrupt = self.parts.double().numpy()
        axes = self._axes() | {"component": list(self.components)}
        frame = self._labelled(long_frame(axes, {"clean": clean, "corrupt": corrupt, "value": clean - corrupt}))
        ends = {name: _ends(name) for name in self.components}
        return frame[frame["component"].map(ends) < frame["layer"]].reset_index(drop=True)

    def heads_frame(self) -> pd.DataFrame:
        """One row per head: attention to the subject, and clean − corrupt of `write` and `total` with intervals.

        `share`: mean write / mean total; `auroc` (`auroc_low`, `auroc_high`): how well embeddings along r tell clean
        subjects from corrupt ones.
        """
        clean, corrupt = self.write.double().numpy()
        whole = (self.total[0] - self.total[1]).double().numpy()
        columns = {"attention": self.attention[0].double().numpy(), "write": clean - corrupt, "total": whole}
        frame, keys = self._labelled(long_frame(self._axes(), columns)), ["layer", "head", "label", "chosen"]
        table = summary(frame, keys, "write", clusters=self.clusters).rename(columns={"mean": "write"})
        for name in ("total", "attention"):
            one = summary(frame, keys, name, clusters=self.clusters).drop(columns="n")
            table = table.merge(
                one.rename(columns={"mean": name, "low": f"{name}_low", "high": f"{name}_high"}), on=keys
            )
        area = np.array([self.separation[label] for label in table["label"]])
        table = table.assign(auroc=area[:, 0], auroc_low=area[:, 1], auroc_high=area[:, 2])
        return table.assign(share=np.where(table["total"] != 0, table["write"] / table["total"], np.nan))

    def to_summary(self) -> pd.DataFrame:
        """One row per chosen head and component: mean value with interval, its share of the head's write.

        `null_low`, `null_high`: smallest and largest mean of the layer's other heads; `p_null`: the share of heads,
        itself among them, with at least as large a value (never below 1/(1 + `null_n`)).
        """
        frame, keys = self.to_frame(), ["layer", "label", "component", "chosen"]
        table = summary(frame, keys, "value", clusters=self.clusters)
        whole = table.groupby("label")["mean"].transform("sum")
        table = table.assign(share=np.where(whole != 0, table["mean"] / whole, np.nan))
        rows: list[dict[str, Any]] = []
        for (layer, component), cell in table.groupby(["layer", "component"]):
            others = cell.loc[~cell["chosen"], "mean"].to_numpy()
            for row in cell[cell["chosen"]].to_dict("records"):
                hits = int((np.abs(others) >= abs(row["mean"])).sum())
                none = not len(others)
                rows.append({
                    "layer": layer, "label": row["label"], "component": component,
                    "null_low": np.nan if none else others.min(), "null_high": np.nan if none else others.max(),
                    "null_n": len(others), "p_null": np.nan if none else (1 + hits) / (1 + len(others)),
                })  # fmt: skip
        import pandas as pd

        kept = (
            table[table["chosen"]].drop(columns="chosen").merge(pd.DataFrame(rows), on=["layer", "label", "component"])
        )
        order = {name: i for i, name in enumerate(self.components)}
        return kept.sort_values(["label", "component"], key=lambda c: c.map(order) if c.name == "component" else c)

    def tokens_frame(self) -> pd.DataFrame:
        """One row per head and extreme token: label, chosen, rank, token (escaped), cosine."""
        import pandas as pd

        frame = pd.DataFrame(self.extremes, columns=["label", "rank", "token", "cosine"])
        return frame.assign(chosen=frame["label"].isin(self.chosen))

    def figure(self) -> go.Figure:
        """What chosen heads move from the subject along the direction, by component, clean − corrupt."""
        import pandas as pd

        table = self.to_summary()
        return heatmap(
            table.assign(component=pd.Categorical(table["component"], self.components)),
            x="component", y="label", value="mean", low="low", high="high",
            title="Read at the subject and written along the direction, clean − corrupt",
            x_title="component of the residual at the subject", y_title="head", unit="residual units", quantile=1.0,
            caption=self.provenance.caption,
        )  # fmt: skip

    def _axes(self) -> dict[str, Sequence[Any]]:
        n_pairs, n_heads = self.write.shape[1], self.write.shape[3]
        return {"pair": list(range(n_pairs)), "layer": list(self.layers), "head": list(range(n_heads))}

    def _labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        labels = [head(layer, h).label for layer, h in zip(frame["layer"], frame["head"], strict=True)]
        return frame.assign(label=labels, chosen=[label in self.chosen for label in labels])


def ov_circuits(
    model: Model, tokens: TokenPairs, direction: Float[Tensor, "*pair d_model"], *, heads: Sequence[Site], k: int = 10
) -> OvCircuits:
    """Split what `heads` move from the subject to the last position along a direction (one, or each pair's own).

    `k` tokens from either end of every head's alignment are kept. Double precision over fp32 activations. Raises SiteError
    for heads the model lacks or values it cannot tell apart, UndefinedError for a direction of norm zero, both before
    anything is run; AuditError where the parts do not sum to the write.
    """
    n_heads = model.shape.n_heads
    wrong = [h.label for h in heads if h.kind != "z" or h.index is None or not 0 <= h.index < n_heads]
    if wrong or not heads:
        raise SiteError(f"{', '.join(wrong) or 'no heads'}: give heads 0 to {n_heads - 1}, e.g. head(8, 7)")
    layers = model.check_layers(sorted({h.layer for h in heads}))
    paths = {layer: (value_path(model, layer), output_path(model, layer)) for layer in layers}
    along = unit(direction.double().cpu().expand(tokens.n_pairs, -1))
    sites = [Site(kind, layer) for layer in layers for kind in ("z", "v", "pattern")]
    upstream = [Site(kind, layer) for layer in range(layers[-1]) for kind in KINDS]
    named = ("embed", *(site.label for site in upstream), *BIASES)
    shape = (len(SIDES), tokens.n_pairs, len(layers), n_heads)
    parts, write, total, attention = (
        torch.zeros(*shape, len(named)).double(),
        *(torch.zeros(shape).double() for _ in "wta"),
    )
    reads = torch.zeros(len(layers), n_heads, model.shape.d_model).double()
    for side, ids in enumerate((tokens.clean, tokens.corrupt)):
        run = capture(model, ids, tokens.mask, [*sites, *upstream])
        pair, at = torch.arange(tokens.n_pairs), tokens.subject
        terms = torch.stack([run.resid[0][pair, at], *(run.seen[s][pair, at] for s in upstream)], 1).double().cpu()
        for i, layer in enumerate(layers):
            value, output = paths[layer]
            z = run.seen[Site("z", layer)][:, -1]
            after = pulled_back(output.frozen(z), along)  # u
            through = torch.einsum("hed,pd->phe", output.w_o, after)
            vector = torch.einsum("hde,phe->phd", value.w_v, through)
            norm = value.frozen(run.resid[layer][pair, at])
            read = pulled_back(norm, vector)
            weight = run.seen[Site("pattern", layer)][:, -1][pair, :, at].double().cpu()
            n = 1 + len(KINDS) * layer
            split = torch.zeros(*shape[1:2], n_heads, len(named)).double()
            split[..., :n] = torch.einsum("pcd,phd->phc", terms[:, :n], read)
            split[..., -2], split[..., -1] = vector @ norm.bias, (through * value.b_v).sum(-1)
            parts[side, :, i] = weight[..., None] * split
            write[side, :, i] = weight * (_values(run, layer, pair, at, n_heads) * through).sum(-1)
            total[side, :, i] = (z.double().cpu() * through).sum(-1)
            attention[side, :, i] = weight
            if side == 0:
                reads[i] = read.mean(0)
    gap = (parts.sum(-1) - write).abs().max().item() / write.abs().max().clamp(min=1e-12).item()
    if not gap <= (1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2):
        raise AuditError(f"{model.name}: what heads read does not sum to what they write (off by {gap:.1e})")
    labels = {head(layer, h).label: reads[i, h] for i, layer in enumerate(layers) for h in range(n_heads)}
    return OvCircuits(
        provenance=replace(provenance(model, tokens), certificate=f"parts sum to writes within {gap:.0e} of the largest"),
        parts=parts.float(), write=write.float(), total=total.float(), attention=attention.float(), reads=reads.float(),
        extremes=tuple(row for label, r in labels.items() for row in _extremes(model, label, r, k)),
        separation={label: _separation(model, tokens, r) for label, r in labels.items()},
        components=named, layers=layers, chosen=tuple(h.label for h in dict.fromkeys(heads)),
    )  # fmt: skip


def _values(run: Run, layer: int, pair: Tensor, at: Tensor, n_heads: int) -> Float[Tensor, "pair head d_head"]:
    """The values of the run at the subject, one per query head."""
    v = run.seen[Site("v", layer)][pair, at].double().cpu()
    return v.repeat_interleave(n_heads // v.shape[1], 1)


def _extremes(model: Model, label: str, read: Float[Tensor, " d_model"], k: int) -> list[tuple[str, int, str, float]]:
    """The k tokens whose embeddings point most along r, and the k that point most against it."""
    weight: Any = model.parts.embed.weight
    cosine = torch.nn.functional.cosine_similarity(weight.float().cpu(), read.float()[None], dim=-1)
    order = cosine.argsort(descending=True, stable=True)
    k = min(k, len(order) // 2)
    chosen = [(rank, int(order[rank - 1 if rank > 0 else rank])) for rank in (*range(1, k + 1), *range(-k, 0))]
    words = pieces(model.tokenizer, [token for _, token in chosen])
    return [(label, rank, repr(word), float(cosine[t])) for (rank, t), word in zip(chosen, words, strict=True)]


def _separation(model: Model, tokens: TokenPairs, read: Float[Tensor, " d_model"]) -> tuple[float, float, float]:
    """AUROC over the distinct subject tokens of either side; NaN where every token is on both."""
    pair, weight = torch.arange(tokens.n_pairs), model.parts.embed.weight
    sides = [set(ids[pair, tokens.subject].tolist()) for ids in (tokens.clean, tokens.corrupt)]
    only = [sorted(sides[0] - sides[1]), sorted(sides[1] - sides[0])]
    if not all(only):
        nan = float("nan")
        return nan, nan, nan
    above, under = ((weight[ids].float().cpu() @ read.float()).numpy() for ids in only)  # type: ignore[index]  untyped
    found = auroc(above, under)
    return found.estimate, found.low, found.high


def _ends(component: str) -> int:
    """The layer a component comes from; the embedding and the biases are upstream of all."""
    return -1 if component == "embed" or component in BIASES else int(component[1 : component.index(".")])
