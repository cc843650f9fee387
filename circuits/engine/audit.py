"""The certificate of a sweep: what was checked while computing it, and by how much it was off.

1. the readout gives the metric of the Hugging Face forward's own logits;
2. self-patch: a cell patched from the base run itself changes nothing;
3. patch-all: the source run, which the sweep makes by patching every differing embedding into the base run, gives the
   metric of the Hugging Face forward of a source prompt;
4. a random sample of cells, each on one random pair, recomputed the slow way, agrees.

(Hooks that fire are checked where they are installed; columns before the first difference are the base by construction,
and the sample of 4 is drawn from all cells, those included.)
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Run
from circuits.engine.edits import activation_of, bind
from circuits.engine.oracle import cell_logits
from circuits.errors import AuditError
from circuits.interventions import Cell, Patch
from circuits.prompts.align import TokenPairs

if TYPE_CHECKING:
    from circuits.engine.readout import Readout
    from circuits.engine.replay import Replay

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest deviation allowed, as a share of the metric's own size; reduced precision is allowed 5 %.

Double precision gains little: Hugging Face computes softmax and norms in single precision all the same."""

Values = Callable[["Replay", TokenPairs, "Readout", list[Cell], Run], Float[Tensor, "cell pair"]]


@final
@dataclass(frozen=True)
class Certificate:
    """Largest absolute deviations, in units of the metric; NaN where a check was not made."""

    cells: int
    token_layers: int
    """Tokens × blocks that the sweep ran; a loop of forward passes runs cells × pairs × pos × n_layers."""
    readout: float = float("nan")
    self_patch: float = float("nan")
    patch_all: float = float("nan")
    oracle: float = float("nan")
    sampled: int = 0
    looped_token_layers: int = 0

    @property
    def line(self) -> str:
        """One line for under a figure."""
        if not self.sampled:
            return f"{self.cells} cells, not audited"
        saved = self.looped_token_layers / max(1, self.token_layers)
        own = "" if math.isnan(self.self_patch) else f"self-patch {self.self_patch:.0e}, "
        return (
            f"certificate ok: {self.cells} cells, largest deviation of: {own}patch-all {self.patch_all:.0e}, readout "
            f"{self.readout:.0e}, slow oracle on {self.sampled} cell{'s' * (self.sampled > 1)} {self.oracle:.0e}; "
            f"{saved:.1f}× fewer token-layers than a loop"
        )


def audit(
    replay: Replay, tokens: TokenPairs, readout: Readout, cells: list[Cell], source: Run,
    value: Float[Tensor, "cell pair"], values: Values,
) -> Certificate:  # fmt: skip
    """Check a finished sweep. Raises AuditError naming the check that failed and by how much."""
    model, base, cost = replay.model, replay.base, replay.token_layers
    base_value, source_value = (readout(run.resid[-1][None, :, -1])[0] for run in (base, source))
    tolerance = _TOLERANCE.get(model.dtype, 5e-2) * max(1.0, base_value.abs().max().item())

    rng = random.Random(0)  # noqa: S311  not for secrets
    chosen, on = _sample(replay, tokens, cells, source, rng)
    own = _self_patch(base, [cells[c] for c in chosen])
    slow, whole = _slow(replay, tokens, readout, [cells[c] for c in chosen], source, on)
    found = {
        "readout": _gap(readout.of_logits(base.last_logits[None])[0], base_value),
        "self_patch": _gap(values(replay, tokens, readout, own, base), base_value) if own else float("nan"),
        "patch_all": _gap(whole, source_value[on[0]]),
        "oracle": _gap(slow, value[chosen, on]),
    }
    for check, deviation in found.items():
        if deviation > tolerance:
            raise AuditError(
                f"{model.name}: the sweep failed its {check.replace('_', '-')} check by {deviation:.1e} "
                f"(at most {tolerance:.1e}); do not use these numbers"
            )
    looped = len(cells) * base.tokens.numel() * replay.n_layers
    return Certificate(cells=len(cells), token_layers=cost, sampled=len(chosen), looped_token_layers=looped, **found)


def _self_patch(base: Run, cells: list[Cell]) -> list[Cell]:
    """The first of these cells that patches, given the base run's own activations: equal, but not known to be."""
    for cell in cells:
        patches = [i for i in cell if isinstance(i, Patch) and i.value is None]
        if patches:
            return [tuple(replace(i, value=activation_of(base, i.site).clone()) for i in patches)]
    return []


def _sample(
    replay: Replay, tokens: TokenPairs, cells: list[Cell], source: Run, rng: random.Random
) -> tuple[list[int], list[int]]:
    """Which cells to recompute, each on which pair: one in 400 but at least two, so that it stays a small share.

    Where it can, a pair whose edited columns reach its first difference: before it a patch does nothing, done or not.
    """
    n = min(len(cells), max(2, min(8, len(cells) // 400)))
    after = torch.arange(tokens.n_pos) >= tokens.subject[:, None]
    reaching: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    for c in rng.sample(range(len(cells)), min(len(cells), 8 * n)):
        masks = [b.mask.cpu() & after for b in bind(replay.model, tokens, cells[c], source)]
        pairs = torch.stack(masks).any(0).any(1).nonzero()[:, 0].tolist() if masks else []
        (reaching if pairs else others).append((c, rng.choice(pairs or range(tokens.n_pairs))))
    drawn = (reaching + others)[:n]
    return [c for c, _ in drawn], [pair for _, pair in drawn]


def _slow(
    replay: Replay, tokens: TokenPairs, readout: Readout, cells: list[Cell], source: Run, on: list[int]
) -> tuple[Float[Tensor, " cell"], Float[Tensor, ""]]:
    """Each cell on one pair, and the source prompt of the first of these pairs, by one whole forward pass of them all.

    Row i has the base prompt of pair `on[i]` and the edits of cell i; the last row has the source prompt and none.
    """
    base = replay.base
    bound = tuple(
        b.at_row(i, pair, len(on) + 1)
        for i, (cell, pair) in enumerate(zip(cells, on, strict=True))
        for b in bind(replay.model, tokens, cell, source)
    )
    ids = torch.cat([base.tokens[on], source.tokens[on[:1]]])
    logits = cell_logits(replay.model, ids, base.mask[[*on, on[0]]], bound)
    # a bound metric expects a row for every pair: each row's logits are shown to all pairs, and its own pair's is read
    metric = readout.of_logits(logits[:, None].expand(-1, tokens.n_pairs, -1))
    return metric[range(len(on)), on], metric[-1, on[0]]


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; not-a-number anywhere counts as failed, not as missing."""
    gap = (a - b).abs().max().item()
    return math.inf if math.isnan(gap) else gap
