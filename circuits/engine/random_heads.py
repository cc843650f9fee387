"""The null of every claim about a set of heads: as many heads drawn at random from the same layers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

from circuits.sites import Site, head


def random_heads(
    chosen: Sequence[Site], n_heads: int, draws: int, *, seed: int | random.Random, layers: Iterable[int] | None = None
) -> list[tuple[Site, ...]]:
    """`draws` sets of as many heads as `chosen`, from all heads of `layers` (the chosen ones') but the chosen.

    A generator in place of a seed goes on where it stands: the nulls of several sets then differ. Empty where the layers
    have too few other heads: a null that does not exist is not made up from elsewhere.
    """
    wanted = sorted(Counter(h.layer for h in chosen) if layers is None else set(layers))
    pool = [head(layer, h) for layer in wanted for h in range(n_heads) if head(layer, h) not in chosen]
    if len(pool) < len(chosen) or not chosen:
        return []
    rng = seed if isinstance(seed, random.Random) else random.Random(seed)  # noqa: S311  not for secrets
    return [tuple(sorted(rng.sample(pool, len(chosen)))) for _ in range(draws)]
