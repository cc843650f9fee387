"""What a screen's scores are worth: exact effects of the largest, and of a random sample of what it would drop."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from circuits.errors import UndefinedError
from circuits.measure.screens.exact import Exact
from circuits.measure.screens.result import Screen
from circuits.measure.screens.verified import Verified

SHARE: Final = 0.05
"""Of the mean gap between the two runs: what counts as a large effect unless a threshold is given."""


def verify(
    screen: Screen, exact: Exact, *, top: int = 20, sample: int = 40, threshold: float | None = None, seed: int = 0
) -> Verified:
    """Measure the `top` names of largest mean |score| and `sample` of the others, drawn without replacement.

    `exact` takes labels of nodes (`exact_nodes` gives it) or edges, and returns the change of the metric [pair, name]. An
    effect is large whose mean |exact| over pairs is at least `threshold`, in units of the metric; without one, 5 % of the
    mean |gap| between the two runs. Costs top + sample exact effects. Raises UndefinedError for a top or sample below 1,
    for a threshold of 0 (or a gap of 0 that would give it), and for exact effects that are not finite or not one per
    pair and name.
    """
    n = len(screen.names)
    if top < 1 or sample < 1:
        raise UndefinedError(f"top {top} and sample {sample}: at least one of each, or nothing is said of the rest")
    gap = (screen.source - screen.base).double().abs().mean().item()
    limit = SHARE * gap if threshold is None else threshold
    if not limit > 0:
        raise UndefinedError(f"a threshold of {limit:g} makes every effect large; give one in units of the metric")
    order = np.argsort(-screen.size, kind="stable")
    top = min(top, n)
    rest = np.sort(np.random.default_rng(seed).permutation(order[top:])[:sample])
    chosen: list[int] = [*order[:top].tolist(), *rest.tolist()]
    what: Any = screen.what
    effects = exact([what[i] for i in chosen]).detach().float().cpu()
    if effects.shape != (len(screen.score), len(chosen)) or not effects.isfinite().all():
        raise UndefinedError(
            f"exact effects of shape {tuple(effects.shape)}; one finite number for each of {len(screen.score)} pairs and "
            f"{len(chosen)} names is needed"
        )
    return Verified(
        provenance=screen.provenance, score=screen.score[:, chosen].float(), exact=effects,
        names=tuple(screen.names[i] for i in chosen), n_top=top, n_names=n, threshold=limit, method=screen.method,
        signed=screen.signed, direction=screen.direction, seed=seed,
    )  # fmt: skip
