"""The verb: which cells are run, and which random pairs stand beside them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, final

from circuits.engine import sweep
from circuits.engine.edits import check
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Cell, Patch
from circuits.measure.interaction.result import Interactions
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.sites import Site
from circuits.tables import provenance

_PARTS: Final = {"mlp_out": ("post",), "attn_out": ("q", "k", "v", "pattern", "z", "result")}
"""What is inside of what, in the same layer."""


@final
@dataclass(frozen=True)
class _Component:
    """A site at named positions."""

    site: Site
    positions: Positions
    label: str

    @property
    def kind(self) -> tuple[str, str]:
        return self.site.kind, str(self.positions)


def interactions(  # noqa: PLR0913  what is measured, what is patched, and four numbers that decide
    model: Model, tokens: TokenPairs, metric: Metric, *, components: Sequence[Site],
    positions: Sequence[Positions] = ("all",), threshold: float = 0.05, alpha: float = 0.05, null_draws: int = 20,
    seed: int = 0,
) -> Interactions:  # fmt: skip
    """Noise and denoise every site × position, and every two of them together.

    Costs 2·(n + n(n − 1)/2) cells for n components, and at most 6·`null_draws` more for each combination of kinds: pairs
    drawn from the other sites of the same kinds. `threshold` is the share of a pair's gap that counts as no effect.
    Raises SiteError (nothing run yet) for fewer than two components, for one that is given twice or is part of another,
    UndefinedError where fewer than two prompt pairs have a gap.
    """
    if not 0 < threshold < 1 or not 0 < alpha < 1:
        raise UndefinedError(f"threshold {threshold} and alpha {alpha} are shares between 0 and 1, such as 0.05")
    chosen = [_component(site, where, positions) for site in components for where in positions]
    if len(chosen) < 2:
        raise SiteError(f"an interaction takes two components; {len(chosen)} given")
    check(model, tokens, tuple(Patch(c.site, c.positions) for c in chosen))
    for a, b in combinations(chosen, 2):
        if _overlap(tokens, a, b):
            raise SiteError(f"{a.label} and {b.label} overlap: one is (part of) the other; give one of them")
    measured = list(combinations(chosen, 2))
    null = _random_pairs(model, tokens, chosen, positions, null_draws, seed)
    singles = list(dict.fromkeys([*chosen, *(c for pair in null for c in pair)]))
    cells: list[tuple[_Component, ...]] = [*((c,) for c in singles), *measured, *null]
    patches: list[Cell] = [tuple(Patch(c.site, c.positions) for c in cell) for cell in cells]
    noised = sweep(model, tokens, metric, patches, direction="noise")
    denoised = sweep(model, tokens, metric, patches, direction="denoise")
    return Interactions(
        provenance=provenance(model, tokens, metric, f"{noised.certificate.line}; denoising: {denoised.certificate.line}"),
        noised=noised.value.T.contiguous(), denoised=denoised.value.T.contiguous(),
        clean=noised.base, corrupt=denoised.base,
        cells=tuple(tuple(c.label for c in cell) for cell in cells),
        kinds=tuple(" + ".join(sorted("@".join(c.kind) for c in cell)) for cell in cells),
        n_components=len(chosen), n_singles=len(singles), n_pairs_measured=len(measured),
        threshold=threshold, alpha=alpha, seed=seed,
    )  # fmt: skip


def _component(site: Site, where: Positions, positions: Sequence[Positions]) -> _Component:
    return _Component(site, where, site.label if len(positions) == 1 else f"{site.label}@{where}")


def _overlap(tokens: TokenPairs, a: _Component, b: _Component) -> bool:
    """Whether the two patches write to the same numbers somewhere, or one hides the other."""
    if not (tokens.position_mask(a.positions) & tokens.position_mask(b.positions)).any():
        return False
    if a.site.whole == b.site.whole:
        return a.site.index == b.site.index or None in (a.site.index, b.site.index)
    kinds = {a.site.kind, b.site.kind}
    return a.site.layer == b.site.layer and any(whole in kinds and kinds & {*parts} for whole, parts in _PARTS.items())


def _random_pairs(
    model: Model, tokens: TokenPairs, chosen: list[_Component], positions: Sequence[Positions], draws: int, seed: int
) -> list[tuple[_Component, _Component]]:
    """For every combination of kinds among the chosen, as many pairs of others; fewer where there are not so many."""
    rng = random.Random(seed)  # noqa: S311  not for secrets
    pools: dict[tuple[str, str], list[_Component]] = {}
    for c in chosen:
        if c.kind not in pools:
            count = model.shape.count(c.site) if c.site.index is not None else 0
            indices = range(count) if count else [None]
            layers = [0] if c.site.kind == "embed" else range(model.shape.n_layers)
            sites = [Site(c.site.kind, layer, index) for layer in layers for index in indices]
            every = [_component(site, c.positions, positions) for site in sites]
            pools[c.kind] = [o for o in every if not any(o == other or _overlap(tokens, o, other) for other in chosen)]
    found: list[tuple[_Component, _Component]] = []
    for first, second in sorted({(min(a.kind, b.kind), max(a.kind, b.kind)) for a, b in combinations(chosen, 2)}):
        drawn: set[frozenset[_Component]] = set()
        for _ in range(20 * draws):  # enough to find nearly all where there are few
            if len(drawn) == draws or not pools[first] or not pools[second]:
                break
            a, b = rng.choice(pools[first]), rng.choice(pools[second])
            if frozenset((a, b)) not in drawn and not _overlap(tokens, a, b):
                drawn.add(frozenset((a, b)))
                found.append((a, b))
    return found
