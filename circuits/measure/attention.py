"""What do heads attend to? Three scores per head from its pattern on the clean prompts, and a class.

    direct    attention of the last token to the subject
    diagonal  attention of each token to the one before it, averaged over queries
    BOS       attention of each token to the first, averaged over queries

A head is direct or diagonal at a score of at least `threshold` (the larger, if both), else BOS at one half, else other.
The write-up sums the diagonal; here it is the mean, so that one threshold serves prompts of any length. A pattern says
where a head looks, not whether what it moves matters: patch the classes.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", identifying classes of heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import attention_grid
from circuits.engine import capture
from circuits.frames import long_frame, records, summary
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.result import Result
from circuits.sites import Site, head
from circuits.tables import position_labels, positions, provenance, with_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CLASSES: Final = ("direct", "diagonal", "BOS", "other")
BOS_THRESHOLD: Final = 0.5


@final
@dataclass(frozen=True, kw_only=True)
class HeadClasses(Result):
    """Scores of every head of the chosen layers, per pair, with the mean pattern behind them."""

    direct: Float[Tensor, "pair layer head"]
    diagonal: Float[Tensor, "pair layer head"]
    bos: Float[Tensor, "pair layer head"]
    pattern: Float[Tensor, "layer head query key"]
    """Mean over the pairs that have both positions; NaN where none has."""
    layers: tuple[int, ...]
    threshold: float
    tokens: TokenPairs

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and head: the three scores."""
        axes = {
            "pair": list(range(self.tokens.n_pairs)),
            "layer": list(self.layers),
            "head": list(range(self.pattern.shape[1])),
        }
        scores = {"direct": self.direct, "diagonal": self.diagonal, "BOS": self.bos}
        frame = long_frame(axes, {name: score.double().numpy() for name, score in scores.items()})
        labels = [head(layer, h).label for layer, h in zip(frame["layer"], frame["head"], strict=True)]
        return frame.assign(label=labels)

    def to_summary(self) -> pd.DataFrame:
        """One row per head: each mean score with its interval (`direct`, `direct_low`, …) and the class."""
        frame, keys = self.to_frame(), ["layer", "head", "label"]
        table = summary(frame, keys, "direct", clusters=self.clusters)[keys]
        for score in ("direct", "diagonal", "BOS"):
            one = summary(frame, keys, score, clusters=self.clusters).drop(columns="n")
            table = table.merge(
                one.rename(columns={"mean": score, "low": f"{score}_low", "high": f"{score}_high"}), on=keys
            )
        scores = zip(table["direct"], table["diagonal"], table["BOS"], strict=True)
        return table.assign(klass=[self._klass(*row) for row in scores])

    def sets(self) -> dict[str, tuple[Site, ...]]:
        """The sets the write-up patches: direct, diagonal, both, and all other heads. Empty sets are left out."""
        rows = records(self.to_summary())
        by_class = {name: tuple(head(r["layer"], r["head"]) for r in rows if r["klass"] == name) for name in CLASSES}
        found = {
            "direct": by_class["direct"],
            "diagonal": by_class["diagonal"],
            "direct + diagonal": by_class["direct"] + by_class["diagonal"] if by_class["diagonal"] else (),
            "all others": by_class["BOS"] + by_class["other"],
        }
        return {name: heads for name, heads in found.items() if heads}

    def _klass(self, direct: float, diagonal: float, bos: float) -> str:
        if max(direct, diagonal) >= self.threshold:
            return "direct" if direct >= diagonal else "diagonal"
        return "BOS" if bos >= BOS_THRESHOLD else "other"

    def figure(self, *, every: bool = False) -> go.Figure:
        """The mean pattern of each head that has a class as a small map, ordered by class and score.

        `every` draws the others as well, as it is done where no head has a class.
        """
        import pandas as pd

        found = {r["label"]: r for r in records(self.to_summary())}
        shown = {label: r for label, r in found.items() if r["klass"] != "other"}
        shown = found if every or not shown else shown
        left = len(found) - len(shown)
        labels, muted = position_labels(_token_frame(self.tokens))
        columns = [c for c in range(self.tokens.n_pos) if c - self.tokens.n_pos in labels]
        rows: list[pd.DataFrame] = []
        for i, layer in enumerate(self.layers):
            for h in range(self.pattern.shape[1]):
                name = head(layer, h).label
                if name not in shown:
                    continue
                klass = found[name]["klass"]
                score = found[name].get(klass, float("nan"))  # "other" has none
                frame = long_frame(
                    {"query": list(range(len(columns))), "key": list(range(len(columns)))},
                    {"value": self.pattern[i, h][columns][:, columns].double().numpy()},
                )
                rows.append(frame.assign(head=name, klass=klass, score=score))
        ticks = [labels[c - self.tokens.n_pos] for c in columns]
        grey = [i for i, c in enumerate(columns) if c - self.tokens.n_pos in muted]
        return attention_grid(
            pd.concat(rows, ignore_index=True), title="Attention patterns, mean over the clean prompts",
            token_labels=ticks, muted_tokens=grey,
            caption=self.provenance.caption + (f" · {left} heads without a class are not drawn" if left else ""),
        )  # fmt: skip


def classify_heads(
    model: Model, tokens: TokenPairs, *, layers: Iterable[int] | None = None, threshold: float = 0.2
) -> HeadClasses:
    """Score and classify the heads of `layers` (all, if not given) on the clean prompts.

    Raises SiteError naming layers out of range, before anything is run.
    """
    chosen: Sequence[int] = model.check_layers(range(model.shape.n_layers) if layers is None else layers)
    sites = [Site("pattern", layer) for layer in chosen]
    run = capture(model, tokens.clean, tokens.mask, sites)
    by_query = torch.stack([run.seen[site] for site in sites], 1).float().cpu()  # [pair, layer, query, head, key]
    pattern = by_query.transpose(2, 3)
    real = tokens.mask
    first = real.long().argmax(1)
    pair = torch.arange(tokens.n_pairs)
    after = real.clone()
    after[pair, first] = False  # queries after the first token: the first can only attend to itself
    previous = torch.nn.functional.pad(pattern.diagonal(-1, -2, -1), (1, 0))
    to_first = pattern.gather(-1, first.view(-1, 1, 1, 1, 1).expand(*pattern.shape[:4], 1))[..., 0]
    return HeadClasses(
        provenance=provenance(model, tokens),
        direct=pattern[pair, :, :, tokens.last, tokens.subject],
        diagonal=_mean(previous, after),
        bos=_mean(to_first, after),
        pattern=_mean_pattern(pattern, real),
        layers=tuple(chosen), threshold=threshold, tokens=tokens,
    )  # fmt: skip


def _mean(
    score: Float[Tensor, "pair layer head query"], queries: Bool[Tensor, "pair query"]
) -> Float[Tensor, "pair layer head"]:
    where = queries[:, None, None].float()
    return (score * where).sum(-1) / where.sum(-1)


def _mean_pattern(
    pattern: Float[Tensor, "pair layer head query key"], real: Bool[Tensor, "pair pos"]
) -> Float[Tensor, "layer head query key"]:
    both = (real[:, :, None] & real[:, None]).float()[:, None, None]
    return (pattern * both).sum(0) / both.sum(0)  # 0/0 is NaN: no pair has these positions


def _token_frame(tokens: TokenPairs) -> pd.DataFrame:
    import numpy as np

    axes = {"pair": list(range(tokens.n_pairs)), "pos": positions(tokens)}
    return with_tokens(long_frame(axes, {"zero": np.zeros((1, 1))}), tokens)
