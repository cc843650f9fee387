"""Checks of a finished sweep, most of them against one whole forward pass that shares nothing with the fast way.

1. readout: the metric from the final residual is that of the Hugging Face forward's own logits;
2. self-patch: a cell patched from the base run itself changes nothing;
3. patch-all: the source run, which the sweep makes by patching every differing embedding into the base run, gives the
   metric of the Hugging Face forward of a source prompt;
4. before: in that forward pass, columns before the first difference are what they are in the base run;
5. additivity: in it, resid_pre + attn_out + mlp_out = resid_post in every block;
6. oracle: a random sample of cells, each on one random pair, recomputed the slow way, agrees;
7. from_fp32: in reduced precision, the same sample computed with the same weights in fp32 (reported, not judged).

Hooks that fire are counted where they are installed: one that stays silent is an error there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Run, capture
from circuits.engine.certificate import Certificate
from circuits.engine.edits import activation_of, bind, columns_of, sites_of
from circuits.engine.oracle import cell_logits
from circuits.engine.precision import fits_in_fp32, in_fp32
from circuits.errors import AuditError
from circuits.interventions import Cell, Patch
from circuits.model.hooks import Edit
from circuits.prompts.align import TokenPairs
from circuits.sites import Site, SiteKind

if TYPE_CHECKING:
    from circuits.engine.readout import Readout
    from circuits.engine.replay import Replay

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest deviation allowed, as a share of the metric's own size; reduced precision is allowed 5 %.

Double precision gains little: Hugging Face computes softmax and norms in single precision all the same."""
_RESIDUAL = ("before", "additivity")
"""Checks in units of the residual stream."""

Values = Callable[["Replay", TokenPairs, "Readout", list[Cell], Run], Float[Tensor, "cell pair"]]


@final
@dataclass(frozen=True, eq=False)
class Sample:
    """Cells to recompute, each on one pair, and what the sweep found there."""

    cells: list[Cell]
    on: list[int]
    value: Float[Tensor, " cell"]


def audit(
    replay: Replay, source: Run, tokens: TokenPairs, readout: Readout, sample: Sample, values: Values,
    unchecked: Certificate,
) -> Certificate:  # fmt: skip
    """Check a finished sweep on a sample of its cells, whose sites both runs keep.

    Raises AuditError naming the check that failed and by how much.
    """
    model, base, on = replay.model, replay.base, sample.on
    base_value, source_value = (readout(run.resid[-1][None, :, -1])[0] for run in (base, source))
    share = _TOLERANCE.get(model.dtype, 5e-2)
    tolerance = share * max(1.0, base_value.abs().max().item())

    own = _self_patch(base, sample.cells)
    watched: dict[Site, Tensor] = {}
    slow, whole = _slow(replay, tokens, readout, sample.cells, source, on, watched)
    found = {
        "readout": _gap(readout.of_logits(base.last_logits[None])[0], base_value),
        "self_patch": _gap(values(replay, tokens, readout, own, base), base_value) if own else float("nan"),
        "patch_all": _gap(whole, source_value[on[0]]),
        "before": _before(replay, tokens, watched, on[0]),
        "additivity": _additivity(replay, tokens, watched, on[0]),
        "oracle": _gap(slow, sample.value),
    }
    for check, deviation in found.items():
        allowed = share if check in _RESIDUAL else tolerance
        if deviation > allowed:
            raise AuditError(
                f"{model.name}: the sweep failed its {check.replace('_', '-')} check by {deviation:.1e} "
                f"(at most {allowed:.1e}); do not use these numbers"
            )
    return replace(
        unchecked, sampled=len(on), looped_token_layers=unchecked.cells * base.tokens.numel() * replay.n_layers,
        dtype=str(model.dtype).removeprefix("torch."),
        from_fp32=_from_fp32(replay, tokens, readout, sample, source), **found,
    )  # fmt: skip


def _self_patch(base: Run, cells: list[Cell]) -> list[Cell]:
    """The first of these cells that patches, given the base run's own activations: equal, but not known to be."""
    for cell in cells:
        patches = [i for i in cell if isinstance(i, Patch) and i.value is None]
        if patches:
            return [tuple(replace(i, value=activation_of(base, i.site).clone()) for i in patches)]
    return []


def sampled(tokens: TokenPairs, cells: Sequence[Cell]) -> tuple[list[int], list[int]]:
    """Which cells to recompute, each on which pair: one in 400 but at least two, so that it stays a small share.

    Where it can, a pair whose edited columns reach its first difference: before it a patch does nothing, done or not.
    """
    rng = random.Random(0)  # noqa: S311  not for secrets
    n = min(len(cells), max(2, min(8, len(cells) // 400)))
    after = torch.arange(tokens.n_pos) >= tokens.subject[:, None]
    reaching: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    for c in rng.sample(range(len(cells)), min(len(cells), 8 * n)):
        masks = [columns_of(tokens, i.positions) & after for i in cells[c]]
        pairs = torch.stack(masks).any(0).any(1).nonzero()[:, 0].tolist() if masks else []
        (reaching if pairs else others).append((c, rng.choice(pairs or range(tokens.n_pairs))))
    drawn = (reaching + others)[:n]
    return [c for c, _ in drawn], [pair for _, pair in drawn]


def _slow(
    replay: Replay, tokens: TokenPairs, readout: Readout, cells: list[Cell], source: Run, on: list[int],
    watched: dict[Site, Tensor],
) -> tuple[Float[Tensor, " cell"], Float[Tensor, ""]]:  # fmt: skip
    """Each cell on one pair, and the source prompt of the first of these pairs, by one whole forward pass of them all.

    Row i has the base prompt of pair `on[i]` and the edits of cell i; the last row has the source prompt and none: what
    it has at the sites of `_WATCHED` is left in `watched`.
    """
    base = replay.base
    bound = tuple(
        b.at_row(i, pair, len(on) + 1)
        for i, (cell, pair) in enumerate(zip(cells, on, strict=True))
        for b in bind(replay.model, tokens, cell, source)
    )
    ids = torch.cat([base.tokens[on], source.tokens[on[:1]]])

    def keep(site: Site) -> Edit:
        def read(activation: Tensor) -> None:
            watched[site] = activation[-1].clone()

        return read

    reads = {site: keep(site) for site in (Site(kind, layer) for layer in range(replay.n_layers) for kind in _WATCHED)}
    logits = cell_logits(replay.model, ids, base.mask[[*on, on[0]]], bound, reads)
    # a bound metric expects a row for every pair: each row's logits are shown to all pairs, and its own pair's is read
    metric = readout.of_logits(logits[:, None].expand(-1, tokens.n_pairs, -1))
    return metric[range(len(on)), on], metric[-1, on[0]]


_WATCHED: tuple[SiteKind, ...] = ("resid_pre", "attn_out", "mlp_out", "resid_post")


def _before(replay: Replay, tokens: TokenPairs, watched: dict[Site, Tensor], pair: int) -> float:
    """How far the source prompt is from the base run where they have not differed yet; NaN where nothing is before."""
    real = replay.base.mask[pair].clone()
    real[int(tokens.subject[pair]) :] = False
    if not real.any():
        return float("nan")
    base = [resid[pair][real] for resid in replay.base.resid[1:]]
    gaps = [_gap(watched[Site("resid_post", layer)][real], ours) for layer, ours in enumerate(base)]
    return max(gaps) / base[-1].abs().max().item()


def _additivity(replay: Replay, tokens: TokenPairs, watched: dict[Site, Tensor], pair: int) -> float:
    real = tokens.mask[pair].to(replay.model.device)
    worst = 0.0
    for layer in range(replay.n_layers):
        pre, attn, mlp, post = (watched[Site(kind, layer)][real] for kind in _WATCHED)
        worst = max(worst, _gap(pre + attn + mlp, post) / post.abs().max().item())
    return worst


def _from_fp32(
    replay: Replay, tokens: TokenPairs, readout: Readout, sample: Sample, source: Run
) -> float:
    """The audited cells against the same weights in fp32, source activations included."""
    model = replay.model
    if model.dtype not in (torch.bfloat16, torch.float16) or not fits_in_fp32(model):
        return float("nan")
    with in_fp32(model):
        wide = capture(model, source.tokens, source.mask, sites_of(sample.cells))
        exact, _ = _slow(replay, tokens, readout, sample.cells, wide, sample.on, {})
    return _gap(exact, sample.value)


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; not-a-number anywhere counts as failed, not as missing."""
    gap = (a - b).abs().max().item()
    return math.inf if math.isnan(gap) else gap
