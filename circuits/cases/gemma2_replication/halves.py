"""Half of the pairs to choose with, the other half to test on."""

from __future__ import annotations

from circuits.errors import CircuitError
from circuits.prompts import TokenPairs
from circuits.prompts.clusters import template_clusters


def template_halves(tokens: TokenPairs) -> tuple[TokenPairs, TokenPairs]:
    """Every other template of the pairs: no template is in both halves.

    With one template for all pairs every other pair. Raises CircuitError for a single pair.
    """
    if tokens.n_pairs < 2:
        raise CircuitError(
            f"{tokens.pairs.name}: one pair; give at least two, to choose with one and test on the other"
        )
    of = template_clusters(tokens)
    turn = [cluster % 2 for cluster in of] if len(set(of)) > 1 else [pair % 2 for pair in range(tokens.n_pairs)]
    first, second = (tokens.select([pair for pair, t in enumerate(turn) if t == half]) for half in (0, 1))
    return first, second
