"""Prompts: pairs that differ in one token, the chat template around them, and the tokens aligned.

Read `pairs`, then `chat`, `align` and `token_pairs`; `subjects` chooses words that are one token, `toy` loads
the sets that come with the package. Names are loaded on first use, because aligned tokens need torch and
reading pairs does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuits.prompts.columns import Column
    from circuits.prompts.pairs import Pair, PairSet
    from circuits.prompts.subjects import Subject, SubjectFilter, filter_subjects
    from circuits.prompts.token_pairs import Dropped, Positions, TokenPairs
    from circuits.prompts.toy import refusal_subjects, toy_refusal_pairs

__all__ = [
    "Column",
    "Dropped",
    "Pair",
    "PairSet",
    "Positions",
    "Subject",
    "SubjectFilter",
    "TokenPairs",
    "filter_subjects",
    "refusal_subjects",
    "toy_refusal_pairs",
]

_HOME = {
    "Column": "columns",
    "Dropped": "token_pairs",
    "Pair": "pairs",
    "PairSet": "pairs",
    "Positions": "token_pairs",
    "Subject": "subjects",
    "SubjectFilter": "subjects",
    "TokenPairs": "token_pairs",
    "filter_subjects": "subjects",
    "refusal_subjects": "toy",
    "toy_refusal_pairs": "toy",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
