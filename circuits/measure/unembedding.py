"""Is a direction unembedded, or does it hide where the unembedding is blind? Cosines with tokens; the null space.

    cosine[form, token] = cos(v, w_token)                   w_token the token's row of W_U
    share[form, k]      = ‖V_k v‖²/‖v‖²                     V_k the right-singular vectors of the k smallest values

Forms: `folded`, rows times the gain of the final norm (then centred for a LayerNorm), as the residual stream meets
them; `raw`, as stored. No SVD of the vocabulary: the d_model × d_model Gram matrix W_Uᵀ W_U is added up in double
precision, chunk by chunk, and diagonalised; singular values under `resolution` × the largest are not resolved by this.
Nulls: the largest |cosine| of random directions, sampled; the share of a random direction, exactly Beta(k/2, (d−k)/2).
It misleads: ‖V_k v‖/‖v‖ is the root of the share, so 1 % of the squared norm is 10 % of the norm; common tokens' rows
share a mean, which no softmax sees; and k next to a flat stretch of singular values cuts an arbitrary subspace.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", direct unembedding effect and null space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from circuits.draw import lines
from circuits.draw.histogram import histogram
from circuits.errors import SiteError, UndefinedError
from circuits.frames import long_frame
from circuits.linalg import FrozenNorm, freeze_norm, random_directions
from circuits.model import Model
from circuits.result import Provenance, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMS: Final = ("folded", "raw")
"""The first axis of every tensor here."""
_FLOATS_AT_ONCE: Final = 1 << 22
"""Numbers of the unembedding widened at once (32 MB)."""


@final
@dataclass(frozen=True, kw_only=True)
class UnembeddingOverlap(Result):
    """One direction against the rows of the unembedding and against its singular vectors; axis 0 is `FORMS`."""

    cosine: Float[Tensor, "2 d_vocab"]
    """NaN for a token whose row is zero."""
    null_cosine: Float[Tensor, "2 direction"]
    """Largest |cosine| with any token, of each random direction."""
    singular_values: Float[Tensor, "2 d_model"]
    """Smallest first."""
    share: Float[Tensor, "2 d_model"]
    """Of the squared norm, in the subspace of the 1, 2, …, d_model smallest singular values."""
    extreme_tokens: dict[int, str]
    """Token id -> its text as Python's repr, for the ends of both forms."""
    extremes: int
    resolution: float
    """Singular values below this share of the largest are not resolved."""
    pair_share: Float[Tensor, "2 pair d_model"] | None = None
    """Each member's part in `share`, where the direction is the mean of members: their mean is corrected for noise."""

    def to_frame(self) -> pd.DataFrame:
        """One row per form and extreme token: rank (1 at the top, −1 at the bottom), id, token, cosine, p.

        `p` is the chance that a random direction has a |cosine| as large with any token.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, form in enumerate(FORMS):
            null = self.null_cosine[i]
            for rank, token in _ends(self.cosine[i], self.extremes):
                value = self.cosine[i, token].item()
                p = (1 + int((null >= abs(value)).sum())) / (1 + len(null))
                named = {"id": token, "token": self.extreme_tokens[token]}
                rows.append({"form": form, "rank": rank, **named, "cosine": value, "p": p})
        return pd.DataFrame(rows)

    def to_summary(self) -> pd.DataFrame:
        """One row per form: largest |cosine| beside the random directions' median and 95 %, p, and undefined tokens."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, form in enumerate(FORMS):
            null, largest = self.null_cosine[i], self.cosine[i].abs().nan_to_num(0.0).max().item()
            low, middle, high = np.quantile(null.double().numpy(), [0.025, 0.5, 0.975])
            rows.append({
                "form": form, "largest": largest, "null_median": middle, "null_low": low, "null_high": high,
                "p": (1 + int((null >= largest).sum())) / (1 + len(null)), "undefined": int(self.cosine[i].isnan().sum()),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def spectrum_frame(self) -> pd.DataFrame:
        """One row per form and k: the k-th smallest singular value, and what lies in the k smallest singular vectors.

        `share` of the squared norm, `norm_fraction` its root; the random directions' mean and exact 95 % range; two-sided
        `p` for this k alone. `gap`: relative step to the next singular value (small: the subspace is arbitrary).
        """
        size = self.share.shape[1]
        k, share = np.arange(1, size + 1), self.share.double().numpy()
        sv = self.singular_values.double().numpy()
        step = np.concatenate([np.diff(sv, axis=1), np.full((2, 1), np.nan)], 1)
        above = np.concatenate([sv[:, 1:], np.full((2, 1), np.nan)], 1)
        a, b = k / 2, (size - k) / 2
        inner = np.maximum(b, 0.5)  # at k = d_model the share is 1 whatever the direction
        low, high = (np.where(b > 0, special.betaincinv(a, inner, q), 1.0) for q in (0.025, 0.975))
        below = special.betainc(a, inner, np.clip(share, 0, 1))
        columns = {
            "singular_value": sv, "share": share, "norm_fraction": np.sqrt(share), "null_mean": k / size,
            "null_low": low, "null_high": high, "p": np.where(b > 0, 2 * np.minimum(below, 1 - below), 1.0),
            "gap": np.divide(step, above, out=np.full(step.shape, np.nan), where=above > 0),
            "resolved": sv > self.resolution * sv[:, -1:],
        }  # fmt: skip
        return long_frame({"form": list(FORMS), "k": k.tolist()}, columns)

    def shares_frame(self) -> pd.DataFrame:
        """One row per member (`pair`), form and k: its part in `share`, n share(all) − (n − 1) share(all but this one).

        Their mean is the share corrected for the noise of a mean of few (jackknife), their spread what the members make
        of it. Raises UndefinedError where the direction was not given as the mean of at least two members.
        """
        if self.pair_share is None:
            raise UndefinedError("give the vectors whose mean the direction is: compare_unembedding(…, members=…)")
        _, n_pairs, size = self.pair_share.shape
        axes = {"form": list(FORMS), "pair": list(range(n_pairs)), "k": list(range(1, size + 1))}
        return long_frame(axes, {"share": self.pair_share.double().numpy()})

    def figure(self) -> go.Figure:
        """Histogram of the cosines with all tokens, beside what a random direction has and the largest it reaches."""
        import pandas as pd

        size, parts, marks = self.share.shape[1], [], {}
        top = max(float(self.cosine.abs().nan_to_num(0.0).max()), float(self.null_cosine.max())) * 1.05
        edges = np.linspace(-top, top, 62)
        # a random direction's cosine c with any one vector has (c + 1)/2 ~ Beta((d−1)/2, (d−1)/2)
        expected = np.diff(special.betainc((size - 1) / 2, (size - 1) / 2, (edges + 1) / 2))
        for i, form in enumerate(FORMS):
            known = self.cosine[i][self.cosine[i].isfinite()].double().numpy()
            counts, _ = np.histogram(known, edges)
            parts.append(
                pd.DataFrame({
                    "left": edges[:-1], "right": edges[1:], "count": counts, "random": expected * len(known), "form": form,
                })
            )  # fmt: skip
            reach = float(np.quantile(self.null_cosine[i].double().numpy(), 0.95))
            marks[form] = {"random, largest (95 %)": reach, "": -reach}
        return histogram(
            pd.concat(parts, ignore_index=True), left="left", right="right", count="count", expected="random",
            facet="form", marks=marks, title="Cosine of the direction with every token's unembedding",
            x_title="cosine", y_title="tokens (logarithmic)", caption=self.provenance.caption,
        )  # fmt: skip

    def spectrum_figure(self) -> go.Figure:
        """Singular values of the unembedding, smallest first, relative to the largest."""
        frame = self.spectrum_frame()
        largest = frame.groupby("form")["singular_value"].transform("max")
        return lines(
            frame.assign(relative=frame["singular_value"] / largest), x="k", y="relative", color="form",
            title="Singular values of the unembedding", x_title="rank from the smallest",
            y_title="singular value / largest", caption=self.provenance.caption,
        )  # fmt: skip

    def share_figure(self) -> go.Figure:
        """Share of the direction in the k smallest singular vectors by k, with the range of random directions."""
        import pandas as pd

        frame = self.spectrum_frame()
        own = frame.assign(low=frame["share"], high=frame["share"], series="direction")
        null = frame.assign(share=frame["null_mean"], low=frame["null_low"], high=frame["null_high"], series="random")
        return lines(
            pd.concat([own, null], ignore_index=True), x="k", y="share", color="series", facet="form", low="low",
            high="high", title="Share of the direction where the unembedding is smallest",
            x_title="k smallest singular vectors", y_title="share of the squared norm", caption=self.provenance.caption,
        )  # fmt: skip


def compare_unembedding(
    model: Model, direction: Float[Tensor, " d_model"], *, members: Float[Tensor, "pair d_model"] | None = None,
    extremes: int = 10, null_draws: int = 200, seed: int = 0,
) -> UnembeddingOverlap:  # fmt: skip
    """Compare a direction of the residual stream with the unembedding. No prompt is run; memory does not grow with tokens.

    `members` are the vectors whose mean the direction is, for intervals over them. Raises UndefinedError for a direction
    of norm zero, SiteError for one of another size, for no extremes, and for members of which it is not the mean.
    """
    d_model = model.shape.d_model
    if direction.shape != (d_model,) or not 1 <= extremes <= model.shape.d_vocab:
        raise SiteError(
            f"a direction of {model.name} has {d_model} numbers and there are 1 to {model.shape.d_vocab} extreme tokens; "
            f"got {tuple(direction.shape)} and {extremes}"
        )
    v = direction.detach().double().cpu()
    if not (v.isfinite().all() and v.norm() > 1e-8):
        raise UndefinedError(f"a direction of norm {v.norm():.1e} has no cosine with anything; choose another")
    if members is not None and not torch.allclose(members.double().cpu().mean(0), v, rtol=1e-3, atol=1e-5 * v.norm().item()):
        raise SiteError("the direction is not the mean of these members; intervals over them would be of another direction")
    # any vector with a length will do: only what the norm does apart from its scale is used
    norm = freeze_norm(model.parts.ln_final, torch.linspace(-1, 2, d_model).to(model.device, model.dtype))
    random = random_directions(null_draws, d_model, seed=seed).double()
    candidates = torch.cat([(v / v.norm())[None], random])
    gram = torch.zeros(d_model, d_model, dtype=torch.double, device=model.device)
    cosines: list[Tensor] = []
    largest = torch.zeros(2, null_draws, dtype=torch.double)
    for rows in _chunks(model.W_U):
        gram += rows.T @ rows
        both = torch.stack([norm.transposed(rows), rows.cpu()])
        found = (both @ candidates.T) / both.norm(dim=-1, keepdim=True)  # 0/0 is NaN: a token without a row
        cosines.append(found[..., 0].clone())  # a view would keep every chunk
        largest = torch.maximum(largest, found[..., 1:].abs().nan_to_num(0.0).amax(1))
    cosine = torch.cat(cosines, 1).float()
    if cosine.isnan().all(1).any():
        raise UndefinedError(f"{model.name}: every row of the unembedding is zero")
    left_out = _but_one(v, members)
    values, shares = zip(*(_spectrum(g, left_out) for g in (_folded(gram.cpu(), norm), gram.cpu())), strict=True)
    share, others, n = torch.stack(shares)[:, 0], torch.stack(shares)[:, 1:], len(left_out) - 1
    shown = sorted({token for row in cosine for _, token in _ends(row, extremes)})
    return UnembeddingOverlap(
        provenance=Provenance(
            model=model.title, model_hash=model.hash, dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device), pairs="no prompts", metric="",
        ),
        cosine=cosine, null_cosine=largest.float(), singular_values=torch.stack(values).float(),
        share=share.float(), pair_share=(n * share[:, None] - (n - 1) * others).float() if n else None,
        extremes=extremes, resolution=float(np.sqrt(d_model * np.finfo(float).eps)),
        extreme_tokens={i: repr(model.tokenizer.convert_ids_to_tokens(i)) for i in shown},
    )  # fmt: skip


def _chunks(w_u: Float[Tensor, "d_vocab d_model"]) -> Iterator[Float[Tensor, "row d_model"]]:
    """Rows in double precision, a few at a time."""
    for rows in w_u.detach().split(max(1, _FLOATS_AT_ONCE // w_u.shape[1])):
        yield rows.double()


def _folded(gram: Float[Tensor, "size size"], norm: FrozenNorm) -> Float[Tensor, "size size"]:
    """The Gram matrix of the folded rows: every row of W_U goes through the same linear map, on both sides."""
    return norm.transposed(norm.transposed(gram).T).T


def _but_one(
    v: Float[Tensor, " size"], members: Float[Tensor, "pair size"] | None
) -> Float[Tensor, "row size"]:
    """The direction, then the mean of all members but each one; without members, or with one, the direction alone."""
    if members is None or len(members) < 2:
        return v[None]
    d = members.detach().double().cpu()
    return torch.cat([v[None], (d.sum(0) - d) / (len(d) - 1)])


def _spectrum(gram: Float[Tensor, "size size"], v: Float[Tensor, "row size"]) -> tuple[Tensor, Tensor]:
    """Singular values, smallest first, and the cumulative share of each ‖v‖² in their right-singular vectors."""
    eigenvalues, vectors = torch.linalg.eigh(gram)
    inside = (v @ vectors) ** 2
    return eigenvalues.clamp(min=0).sqrt(), (inside / inside.sum(-1, keepdim=True)).cumsum(-1)


def _ends(cosine: Float[Tensor, " d_vocab"], n: int) -> list[tuple[int, int]]:
    """(rank, token) of the n largest and n smallest cosines; undefined ones are no extremes, none is named twice."""
    known = cosine.isfinite().nonzero()[:, 0]
    order = known[cosine[known].argsort(descending=True, stable=True)].tolist()
    n = min(n, (len(order) + 1) // 2)
    top, bottom = order[:n], order[max(n, len(order) - n) :]
    return [(i + 1, t) for i, t in enumerate(top)] + [(i - len(bottom), t) for i, t in enumerate(bottom)]
