"""Prompts: pairs that differ in one token, the chat template around them, and the tokens aligned.

Read `pairs`, then `chat`, `align` and `token_pairs`; `subjects` chooses words that are one token, `toy` loads
the pairs that come with the package, `instructions` reads prompts without a partner, `clusters` says which pairs share a
template. Names are loaded on first use, because aligned tokens need torch and
reading pairs does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuits.prompts.clusters import subject_clusters, template_clusters
    from circuits.prompts.columns import Column
    from circuits.prompts.instruction_tokens import InstructionTokens
    from circuits.prompts.instructions import Instruction, InstructionSet, capability_instructions, diverse_instructions
    from circuits.prompts.pairs import Pair, PairSet
    from circuits.prompts.subjects import Subject, SubjectFilter, filter_subjects
    from circuits.prompts.token_pairs import Dropped, Positions, TokenPairs
    from circuits.prompts.toy import refusal_subjects, toy_refusal_pairs

__all__ = [
    "Column",
    "Dropped",
    "Instruction",
    "InstructionSet",
    "InstructionTokens",
    "Pair",
    "PairSet",
    "Positions",
    "Subject",
    "SubjectFilter",
    "TokenPairs",
    "capability_instructions",
    "diverse_instructions",
    "filter_subjects",
    "refusal_subjects",
    "subject_clusters",
    "template_clusters",
    "toy_refusal_pairs",
]

_HOME = {
    "Column": "columns",
    "Dropped": "token_pairs",
    "Instruction": "instructions",
    "InstructionSet": "instructions",
    "InstructionTokens": "instruction_tokens",
    "Pair": "pairs",
    "PairSet": "pairs",
    "Positions": "token_pairs",
    "Subject": "subjects",
    "SubjectFilter": "subjects",
    "TokenPairs": "token_pairs",
    "capability_instructions": "instructions",
    "diverse_instructions": "instructions",
    "filter_subjects": "subjects",
    "refusal_subjects": "toy",
    "subject_clusters": "clusters",
    "template_clusters": "clusters",
    "toy_refusal_pairs": "toy",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
