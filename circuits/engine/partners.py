"""One direction out of prompts and their partners: partners paired otherwise, and estimators that notice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.linalg import cosine


def _mean(d: Float[Tensor, "pair layer d_model"]) -> Float[Tensor, "layer d_model"]:
    return d.mean(0)


def _unit_mean(d: Float[Tensor, "pair layer d_model"]) -> Float[Tensor, "layer d_model"]:
    """NaN at a layer where some pair does not differ."""
    return (d / d.norm(dim=-1, keepdim=True)).mean(0)


def _first_pc(d: Float[Tensor, "pair layer d_model"]) -> Float[Tensor, "layer d_model"]:
    """Of the differences as they are, not centred; it points to the side of their mean."""
    gram = torch.einsum("pld,qld->lpq", d, d)
    first = torch.linalg.eigh(gram).eigenvectors[..., -1]  # [layer, pair]
    found = torch.einsum("lp,pld->ld", first, d)
    side = torch.where((found * d.mean(0)).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return side * found / found.norm(dim=-1, keepdim=True)


def _median(d: Float[Tensor, "pair layer d_model"]) -> Float[Tensor, "layer d_model"]:
    """Of every coordinate; between the middle two of an even number."""
    return torch.from_numpy(np.median(d.numpy(), axis=0))  # several times faster than a sort


ESTIMATORS: Final[dict[str, Callable[[Float[Tensor, "pair layer d_model"]], Float[Tensor, "layer d_model"]]]] = {
    "mean": _mean, "unit mean": _unit_mean, "first PC": _first_pc, "median": _median,
}  # fmt: skip
"""How differences within pairs become one direction; only the first does not depend on the pairing."""


def deranged(n: int, rng: Any) -> list[int]:
    """A random order in which nothing keeps its place."""
    while True:
        order = rng.permutation(n).tolist()
        if n < 2 or all(i != j for i, j in enumerate(order)):
            return order


def by_partners(
    clean: Float[Tensor, "pair layer d_model"],
    corrupt: Float[Tensor, "pair layer d_model"],
    others: Float[Tensor, "prompt layer d_model"],
    rng: Any,
) -> dict[str, dict[str, Float[Tensor, "layer d_model"]]]:
    """Set of partners -> estimator -> direction: their own partners, these shuffled, and as many of the others."""
    drawn = rng.permutation(len(others))[: len(clean)].tolist()
    partners = {"matched": corrupt, "shuffled": corrupt[deranged(len(clean), rng)], "unmatched": others[drawn]}
    return {
        name: {estimator: make(clean - partner) for estimator, make in ESTIMATORS.items()}
        for name, partner in partners.items()
    }


@final
@dataclass(frozen=True, eq=False)
class Drawn:
    """Directions from drawn pairs, each against a matched difference of means; one cell per set, estimator, size and seed."""

    cells: tuple[tuple[str, str, int, int], ...]
    cosine: Float[Tensor, "cell layer"]
    """With the difference of means of the pairs that the cell is not made from; of all pairs where it is made from all."""
    resampled: Float[Tensor, "cell layer"]
    """Cells of all pairs: the same with pairs and others drawn again, with replacement; NaN elsewhere."""
    from_matched: Float[Tensor, "cell layer"]
    """Distance from the matched difference of means of the cell's own pairs, as a share of its norm."""
    used: Bool[Tensor, "cell pair"]
    at_layer: Float[Tensor, "cell d_model"]
    """The directions of one layer."""


def draw_cells(
    clean: Float[Tensor, "pair layer d_model"], corrupt: Float[Tensor, "pair layer d_model"],
    others: Float[Tensor, "prompt layer d_model"], *, sizes: Iterable[int], seeds: int, layer: int, seed: int,
) -> Drawn:  # fmt: skip
    """For every size and seed, directions from that many pairs by set of partners and estimator."""
    n = len(clean)
    cells: list[tuple[str, str, int, int]] = []
    rows: list[tuple[Tensor, ...]] = []
    for size in sorted(set(sizes)):
        for s in range(seeds):
            rng = np.random.default_rng([seed, size, s])
            some = np.sort(rng.permutation(n)[:size])
            used = torch.isin(torch.arange(n), torch.from_numpy(some))
            target = (clean - corrupt)[used if size == n else ~used].mean(0)
            made = by_partners(clean[some], corrupt[some], others, rng)
            again = rng.integers(n, size=n)
            pool = others[rng.integers(len(others), size=len(others))]
            redone = by_partners(clean[again], corrupt[again], pool, rng) if size == n else made
            mean = made["matched"]["mean"]
            for name, estimator in ((a, b) for a in made for b in ESTIMATORS):
                v = made[name][estimator]
                redrawn = cosine(redone[name][estimator], redone["matched"]["mean"])
                cells.append((name, estimator, size, s))
                rows.append((
                    cosine(v, target), redrawn if size == n else torch.full_like(redrawn, torch.nan),
                    (v - mean).norm(dim=-1) / mean.norm(dim=-1), used, v[layer],
                ))  # fmt: skip
    found, resampled, apart, which, at_layer = (torch.stack(column) for column in zip(*rows, strict=True))
    return Drawn(tuple(cells), found, resampled, apart, which, at_layer)
