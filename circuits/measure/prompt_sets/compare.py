"""Make the directions, compare them, and ablate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine import contrast, sweep
from circuits.engine.collect import last_residuals
from circuits.engine.partners import draw_cells
from circuits.errors import AuditError, CircuitError, UndefinedError
from circuits.interventions import ablate_everywhere
from circuits.linalg import random_directions
from circuits.measure.prompt_sets.result import PromptSets
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.token_pairs import TokenPairs
from circuits.tables import provenance

_LEAST: Final = 6
_SAME: Final = 1e-6
"""By how much, of its norm, rounding in double precision may move a mean when its terms are paired otherwise."""


def compare_prompt_sets(  # noqa: PLR0913  two sets of prompts, and a metric for the effect
    model: Model,
    tokens: TokenPairs,
    other: InstructionTokens,
    *,
    against: str = "harmless",
    sizes: Sequence[int] | None = None,
    seeds: int = 50,
    null_directions: int = 100,
    metric: Metric | None = None,
    layer: int | None = None,
    effect_seeds: int = 5,
    seed: int = 0,
) -> PromptSets:
    """Directions at the last position from the clean prompts of `tokens` and their own, shuffled or other partners.

    `sizes`: how many pairs (by default a quarter and half of them, and always all). With a metric, the directions of
    `layer` are ablated everywhere on the clean prompts, for the first `effect_seeds`. Raises CircuitError for fewer than six
    pairs, too few other prompts, and sizes that leave no pair to compare with; AuditError where pairing moves a mean.
    """
    n = tokens.n_pairs
    known = {p.corrupt for p in tokens.pairs}
    wanted = torch.tensor([i.label == against and i.text not in known for i in other.instructions])
    excluded = int(other.labelled(against).sum()) - int(wanted.sum())
    chosen = [s for s in (n // 4, n // 2) if s >= 3] if sizes is None else list(sizes)
    _require(n, int(wanted.sum()), against, chosen, (metric, layer), min(seeds, null_directions, effect_seeds))
    if layer is not None:
        model.check_layers([layer])
    if metric is not None:
        metric.bind(tokens)  # a token that is none is said before anything is run
    both = last_residuals(model, InstructionTokens.from_pairs(tokens)).double()
    clean, corrupt, others = both[:n], both[n:], last_residuals(model, other.only(wanted)).double()
    reference = contrast.difference_of_means(both, torch.arange(2 * n) < n)
    undefined = reference.isnan().any(-1)
    if undefined.all():
        raise UndefinedError(
            "clean and corrupt prompts have the same mean residual at every layer: there is no direction"
        )
    if layer is not None and undefined[layer]:
        raise UndefinedError(
            f"layer {layer} has no direction to ablate: all prompts are alike there; choose a later one"
        )
    drawn = draw_cells(clean, corrupt, others, sizes=[*chosen, n], seeds=seeds, layer=layer or 0, seed=seed)
    shuffled = [i for i, c in enumerate(drawn.cells) if c[:2] == ("shuffled", "mean")]
    identity = float(drawn.from_matched[shuffled][:, ~undefined].max())
    if identity > _SAME:
        raise AuditError(f"{model.name}: pairing otherwise moved a difference of means by {identity:.1e} of its norm")
    random = random_directions(null_directions, both.shape[-1], seed=seed)
    result = PromptSets(
        provenance=replace(
            about := provenance(model, tokens, metric), pairs=f"{about.pairs}, {len(others)} other {against} ({other.hash})"
        ),
        reference=reference, cosine=drawn.cosine.masked_fill(undefined, torch.nan),
        resampled=drawn.resampled.masked_fill(undefined, torch.nan),
        null_cosine=random.double() @ (reference / reference.norm(dim=-1, keepdim=True)).T, used=drawn.used,
        sets=tuple(c[0] for c in drawn.cells), estimators=tuple(c[1] for c in drawn.cells),
        sizes=tuple(c[2] for c in drawn.cells), seeds=tuple(c[3] for c in drawn.cells), identity=identity, excluded=excluded,
    )  # fmt: skip
    if metric is None or layer is None:
        return result
    return _with_effect(model, tokens, metric, result, layer, drawn.at_layer.float(), random, effect_seeds)


def _require(
    n: int, others: int, against: str, sizes: Sequence[int], given: tuple[Metric | None, int | None], least: int
) -> None:
    """Raise CircuitError for what cannot be compared, before anything is run."""
    if n < _LEAST:
        raise CircuitError(f"{n} pairs; give at least {_LEAST}")
    if others < n:
        raise CircuitError(
            f"{others} other {against} prompts for {n} pairs; give at least {n}, none of them a pair's partner"
        )
    wrong = [size for size in sizes if not 3 <= size < n]
    if wrong:
        raise CircuitError(f"sizes {wrong}: choose 3 to {n - 1} of {n} pairs, so that some are left to compare with")
    if (given[0] is None) != (given[1] is None):
        raise CircuitError("an effect needs both a metric and the layer whose directions are ablated")
    if least < 1:
        raise CircuitError("give at least one seed, one random direction and one seed of the effect")


def _with_effect(
    model: Model, tokens: TokenPairs, metric: Metric, found: PromptSets, layer: int,
    directions: Float[Tensor, "cell d_model"], random: Float[Tensor, "direction d_model"], effect_seeds: int,
) -> PromptSets:  # fmt: skip
    """Ablate the directions everywhere on the clean prompts; what all seeds have in common is run once."""
    n, layers = tokens.n_pairs, range(model.shape.n_layers)
    chosen = [
        c
        for c, (name, size, s) in enumerate(zip(found.sets, found.sizes, found.seeds, strict=True))
        if s < (1 if name == "matched" and size == n else effect_seeds)
    ]
    cells = [ablate_everywhere(v, layers) for v in (*directions[chosen], *random)]
    swept = sweep(model, tokens, metric, cells, direction="noise")
    if not swept.base.mean() > swept.source.mean():
        raise UndefinedError("the metric is not higher on the clean prompts than on the corrupt ones: swap the columns")
    effect = torch.full((len(directions), n), torch.nan)
    effect[chosen] = swept.value[: len(chosen)]
    return replace(
        found, provenance=replace(found.provenance, certificate=swept.certificate.line), layer=layer, effect=effect,
        null_effect=swept.value[len(chosen) :], clean=swept.base, corrupt=swept.source,
    )  # fmt: skip
