"""Which pairs are not independent: those that share a template, or a subject.

    "Explain how to make a ‹bomb›" and "Explain how to make a ‹gun›" are two draws of one template

An average over pairs treats them as one draw each. `stats.cluster_bootstrap_means` and `stats.max_t_test` take what
these return, one number per pair, and draw or flip whole clusters.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from circuits.prompts.token_pairs import TokenPairs


def template_clusters(tokens: TokenPairs) -> tuple[int, ...]:
    """The cluster of each pair: pairs whose clean prompts are the same token by token without the subject form one.

    Clusters count from 0 in order of appearance. "make a bomb" and "make an acid" are two templates.
    """
    said: list[tuple[int, ...]] = []
    for ids, mask, subject in zip(tokens.clean, tokens.mask, tokens.subject.tolist(), strict=True):
        kept = mask.clone()
        kept[subject] = False
        before = int(mask[:subject].sum())  # where the subject stood: "a X b" and "a b X" are two templates
        said.append((before, *ids[kept].tolist()))
    return _numbered(said)


def subject_clusters(tokens: TokenPairs) -> tuple[int, ...]:
    """The cluster of each pair: pairs with the same clean subject token form one."""
    rows = range(tokens.n_pairs)
    return _numbered([int(tokens.clean[row, column]) for row, column in zip(rows, tokens.subject.tolist(), strict=True)])


def _numbered(names: Sequence[Hashable]) -> tuple[int, ...]:
    place: dict[Hashable, int] = {}
    return tuple(place.setdefault(name, len(place)) for name in names)
