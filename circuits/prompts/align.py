"""Pairs to aligned tensors, or one error that names every pair that does not align.

1. Render both prompts of every pair (`chat`).
2. Find the one token that differs, or say what is wrong (`mismatch`).
3. Pad on the left, so that the last token of every prompt is the last column.

Nothing is reported before all pairs were looked at, and nothing runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.errors import AlignmentError, CircuitError
from circuits.prompts.chat import Rendered, Template, render, uses_chat
from circuits.prompts.mismatch import Mismatch, find_subject, report
from circuits.prompts.pairs import PairSet
from circuits.prompts.token_pairs import Dropped, Positions, TokenPairs
from circuits.prompts.tokenizer import Tokenizer, tokenizer_of

__all__ = ["Positions", "TokenPairs", "align"]

T = TypeVar("T")


def align(
    pairs: PairSet, model: object, *, template: Template = "auto", drop_misaligned: bool = False
) -> TokenPairs:
    """Tokenize and align `pairs`; see `PairSet.tokenize`.

    Raises AlignmentError naming every pair that is not a one-token swap, or, with `drop_misaligned`, only if
    no pair is left.
    """
    tokenizer = tokenizer_of(model)
    if not len(pairs):
        raise CircuitError(f"{pairs.name} holds no pairs\ngive at least one")
    chat = uses_chat(tokenizer, template)
    clean = [_rendered(tokenizer, i, pair.clean, chat=chat) for i, pair in enumerate(pairs)]
    corrupt = [_rendered(tokenizer, i, pair.corrupt, chat=chat) for i, pair in enumerate(pairs)]
    unknown = tokenizer.unk_token_id
    found = [find_subject(i, a, b, unknown) for i, (a, b) in enumerate(zip(clean, corrupt, strict=True))]
    bad = [mismatch for mismatch in found if isinstance(mismatch, Mismatch)]
    kept = [i for i, subject in enumerate(found) if not isinstance(subject, Mismatch)]
    if bad and not (drop_misaligned and kept):
        raise AlignmentError(report(bad, len(pairs)))
    width = max(len(clean[i].ids) for i in kept)
    offsets = [width - len(clean[i].ids) for i in kept]
    subjects = [subject for subject in found if not isinstance(subject, Mismatch)]
    mask = torch.arange(width) >= torch.tensor(offsets).unsqueeze(1)
    return TokenPairs(
        pairs=PairSet(tuple(pairs[i] for i in kept), pairs.name),
        clean=_ids([clean[i] for i in kept], width, tokenizer),
        corrupt=_ids([corrupt[i] for i in kept], width, tokenizer),
        mask=mask,
        subject=torch.tensor([offset + subject for offset, subject in zip(offsets, subjects, strict=True)]),
        instruction=_marks([clean[i] for i in kept], width),
        clean_text=tuple(_padded(clean[i].pieces, width, padding="") for i in kept),
        corrupt_text=tuple(_padded(corrupt[i].pieces, width, padding="") for i in kept),
        dropped=tuple(Dropped(mismatch.index, pairs[mismatch.index], mismatch.reason) for mismatch in bad),
    )


def _rendered(tokenizer: Tokenizer, index: int, prompt: str, *, chat: bool) -> Rendered:
    try:
        return render(tokenizer, prompt, chat=chat)
    except CircuitError as error:
        raise type(error)(f"pair {index}: {error}") from error


def _ids(rendered: Sequence[Rendered], width: int, tokenizer: Tokenizer) -> Int[Tensor, "pair pos"]:
    # Padding is masked, so any id will do; a model's embedding must only have it.
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    pad = next(token for token in known if token is not None)
    return torch.tensor([_padded(prompt.ids, width, padding=pad) for prompt in rendered])


def _marks(rendered: Sequence[Rendered], width: int) -> Bool[Tensor, "pair pos"]:
    return torch.tensor([_padded(prompt.instruction, width, padding=False) for prompt in rendered])


def _padded(row: Sequence[T], width: int, *, padding: T) -> tuple[T, ...]:
    return (padding,) * (width - len(row)) + tuple(row)
