"""What is told of the direction against the unembedding: cosines with tokens, and the null space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.case.condition import Rows, minus
from circuits.case.wording import number, told
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import downstream as rules
from circuits.cases.gemma_refusal.setting import Chapter
from circuits.frames import long_frame, records, summary
from circuits.linalg import freeze_norm
from circuits.measure.unembedding import FORMS, UnembeddingOverlap
from circuits.model import Model
from circuits.report import Section
from circuits.stats.cluster import cluster_sums

_PUBLISHED_K: Final = 20
"""How many singular directions the write-up counts."""
_SWEPT: Final = (1, 2, 5)
"""Times powers of ten: how many are counted here."""


@final
@dataclass(frozen=True, eq=False)
class Unembedded:
    """A direction against the unembedding, and the differences of the pairs whose mean it is."""

    overlap: UnembeddingOverlap
    differences: Float[Tensor, "pair d_model"]
    clusters: Sequence[int] | None

    @property
    def noise(self) -> float:
        """Share of the direction's squared norm that the mean of as many pairs, or clusters, has by their spread alone."""
        d = self.differences.double()
        mean, n = d.mean(0), len(d)
        sums, sizes = cluster_sums((d - mean).numpy(), range(n) if self.clusters is None else self.clusters)
        k = len(sizes)
        return k / (k - 1) * float((sums**2).sum()) / n**2 / mean.square().sum().item() if k > 1 else float("nan")

    def by_pair(self, model: Model) -> Rows:
        """One row per pair, form and extreme token: the pair's part in the cosine, whose mean is the cosine.

        `value` is the jackknife's n cos(all pairs) − (n − 1) cos(all but this pair): their mean is corrected for the
        noise of the direction, their spread is what the pairs make of the cosine. NaN for a single pair. Intervals of such
        means hold the cosine as often as claimed from 16 pairs on, 89 % for 8 and 77 % for 4 where 95 % is claimed.
        """
        tokens, d = list(self.overlap.extreme_tokens), self.differences.double()
        norm = freeze_norm(model.parts.ln_final, torch.linspace(-1, 2, d.shape[1]).to(model.device, model.dtype))
        rows = model.W_U[tokens].detach().double().cpu()
        rows = torch.stack([norm.transposed(rows), rows])
        rows = rows / rows.norm(dim=-1, keepdim=True)

        def cosine(v: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 2 row"]:
            return torch.einsum("fkd,...d->...fk", rows, v / v.norm(dim=-1, keepdim=True))

        n = len(d)
        parts = n * cosine(d.mean(0)) - (n - 1) * cosine((d.sum(0) - d) / (n - 1))
        axes = {"pair": list(range(n)), "form": list(FORMS), "id": tokens}
        return Rows(long_frame(axes, {"value": parts.numpy()}), self.clusters)


def unembedding(found: Unembedded, model: Model, title: str) -> Chapter:
    """The largest cosines with tokens, beside what random directions reach."""
    overlap, by_pair = found.overlap, found.by_pair(model)
    reach = dict(zip(FORMS, np.quantile(overlap.null_cosine.double().numpy(), 0.95, axis=1).tolist(), strict=True))
    nulls = overlap.to_summary()[["form", "null_low", "null_high"]]
    spread = summary(by_pair.frame, ["form", "id"], "value", clusters=found.clusters)[
        ["form", "id", "mean", "low", "high"]
    ]
    table = overlap.to_frame().merge(spread, on=["form", "id"], how="left").merge(nulls, on="form")
    table = table.sort_values("cosine", key=lambda c: -c.abs(), kind="stable").sort_values("form", kind="stable")
    closest = {form: records(table[table["form"] == form])[0] for form in FORMS}
    top, stored = closest.values()
    undefined = int(overlap.cosine[0].isnan().sum())
    over_pairs = f" (over pairs {told(top)})" if np.isfinite(top["mean"]) else ""
    claim = (
        f"Of all {overlap.cosine.shape[1]} tokens' unembeddings, that of {top['token']} lies closest to the direction, at a "
        f"cosine of {number(top['cosine'])}{over_pairs}; 95 % of random directions stay within ±{number(reach['folded'])} of "
        f"every token (as stored: {number(stored['cosine'])}, ±{number(reach['raw'])})."
    )
    section = Section(
        "unembedding", title, minus(claim), {"unembedding": overlap.figure()},
        "Cosine of the direction with every token's row of the unembedding: folded, as the residual stream meets it through "
        "the final norm's gain, and raw, as stored. Dashed: how many tokens a random direction would have in each bin.",
        "A token further out than random directions reach: the direction is then in part written into that token's logit "
        "as it is.",
        PUBLISHED["unembedding"],
        table[["form", "rank", "token", "id", "cosine", "mean", "low", "high", "p", "null_low", "null_high"]],
        (
            (
                "mean, low and high: the cosine over pairs (jackknife), corrected for the noise of a direction estimated from "
                "few. null_low, null_high: the middle 95 % of random directions' largest |cosine| with any token; p: the "
                "chance that one of them comes as close to any."
            ),
            "The unembedding needs no prompt. Its rows share a mean, which no softmax sees and which moves all cosines.",
            *([f"{undefined} tokens have an unembedding of zeros and no cosine."] if undefined else []),
        ),
    )  # fmt: skip
    return Chapter([section], [rules.not_unembedded(by_pair, closest["folded"], reach["folded"])])


def null_space(found: Unembedded, title: str) -> Chapter:
    """How much of the direction lies where the unembedding is smallest."""
    overlap = found.overlap
    d_model = overlap.share.shape[1]
    powers = range(len(str(d_model)))
    ks = [k for power in powers for k in (m * 10**power for m in _SWEPT) if k <= max(1, d_model // 2)]
    spectrum = overlap.spectrum_frame()
    swept = spectrum[spectrum["k"].isin(ks)].reset_index(drop=True)
    if overlap.pair_share is not None:
        parts = overlap.shares_frame()
        spread = summary(parts[parts["k"].isin(ks)], ["form", "k"], "share", clusters=found.clusters)
        spread = spread.rename(columns={"mean": "share_corrected", "low": "share_low", "high": "share_high"})
        swept = swept.merge(spread.drop(columns="n"), on=["form", "k"], how="left")
    swept = swept.assign(**{n: np.sqrt(swept[n]) for n in ("null_low", "null_high")})
    k = min(_PUBLISHED_K, ks[-1])
    at = records(swept[(swept["form"] == "folded") & (swept["k"] == k)])[0]
    inside, low, high = at["norm_fraction"], at["null_low"], at["null_high"]
    than = "more than" if inside > high else "less than" if inside < low else "as much as"
    values = overlap.singular_values[0].double()
    flat = int((values < 0.01 * values[-1]).sum())
    claim = (
        f"The {k} smallest of the unembedding's {d_model} singular directions hold {number(inside)} of the direction's norm "
        f"({number(at['share'])} of its square), {than} random directions have there (95 %: {number(low)} to {number(high)}); "
        f"{flat} of the singular values are below 1 % of the largest, and the smallest is "
        f"{number(100 * (values[0] / values[-1]).item())} % of it."
    )
    columns = (
        "form", "k", "norm_fraction", "null_low", "null_high", "share", "share_corrected", "share_low", "share_high",
        "p", "singular_value", "gap",
    )  # fmt: skip
    section = Section(
        "null-space", title, minus(claim),
        {"null-space": overlap.share_figure(), "null-space-spectrum": overlap.spectrum_figure()},
        "How much of the direction lies where the unembedding is smallest, by how many singular directions are counted; "
        "grey: 95 % of random directions. Only where singular values drop steeply is there a null space to hide in.",
        "More than random directions have in the first few singular directions.",
        PUBLISHED["null-space"], swept[[c for c in columns if c in swept]].rename(columns={"gap": "step_to_next"}),
        (
            (
                "norm_fraction is a share of the norm, share of its square: 1 % of the square is 10 % of the norm. null_low, "
                "null_high: the exact middle 95 % of random directions' norm_fraction; p: for "
                "this k alone. The verdict counts all k of the table together."
            ),
            (
                "share_corrected, share_low, share_high: the share over pairs (jackknife), corrected for the noise of a "
                "direction estimated from few, and its 95 % interval."
            ),
            f"The pairs' spread alone gives a mean of as many {number(100 * found.noise)} % of the direction's squared norm.",
            "Where step_to_next, the relative step to the next singular value, is small, the subspace is cut arbitrarily.",
            "No singular value decomposition of the vocabulary is needed: its d_model × d_model Gram matrix is diagonalised.",
        ),
    )  # fmt: skip
    shares = {r["k"]: r["share"] for r in records(swept[swept["form"] == "folded"])}
    return Chapter([section], [rules.not_in_null_space(shares, d_model, found.noise)])
