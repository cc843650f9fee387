"""Instructions as tensors: left-padded, so that the last token of every prompt is the last column.

There is no second prompt and no subject. Means, ablations and given values need neither; a patch from another run does.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits import display
from circuits.errors import CircuitError
from circuits.prompts.chat import Template, render, uses_chat
from circuits.prompts.instructions import LABELS, InstructionSet
from circuits.prompts.pairs import Pair, PairSet
from circuits.prompts.token_pairs import TokenPairs
from circuits.prompts.tokenizer import tokenizer_of


@final
@dataclass(frozen=True, eq=False)
class InstructionTokens:
    """Token ids of unpaired instructions; compared by `hash`."""

    instructions: InstructionSet
    ids: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]
    instruction: Bool[Tensor, "prompt pos"]
    """True on the instruction's tokens, False on `<bos>`, template and padding."""
    text: tuple[tuple[str, ...], ...]
    """Tokens as people read them, "" at padding."""

    @classmethod
    def from_pairs(cls, tokens: TokenPairs) -> InstructionTokens:
        """Both prompts of every pair on their own, as they are tokenised: all clean ones (harmful), then all corrupt."""
        return cls(
            instructions=InstructionSet.from_pairs(tokens.pairs), ids=torch.cat([tokens.clean, tokens.corrupt]),
            mask=tokens.mask.repeat(2, 1), instruction=tokens.instruction.repeat(2, 1),
            text=tokens.clean_text + tokens.corrupt_text,
        )  # fmt: skip

    @property
    def harmful(self) -> Bool[Tensor, " prompt"]:
        """Which are labelled harmful."""
        return self.labelled("harmful")

    def labelled(self, label: str) -> Bool[Tensor, " prompt"]:
        """Which have this label."""
        return torch.tensor([i.label == label for i in self.instructions])

    def first_of_each(self, n: int) -> InstructionTokens:
        """The first `n` prompts of every label, in order."""
        seen: Counter[str] = Counter()
        kept: list[bool] = []
        for instruction in self.instructions:
            seen[instruction.label] += 1
            kept.append(seen[instruction.label] <= n)
        return self.only(torch.tensor(kept))

    def only(self, chosen: Bool[Tensor, " prompt"]) -> InstructionTokens:
        """Some of the prompts, padded as they stand. Raises CircuitError for none."""
        rows = [i for i, kept in enumerate(chosen.tolist()) if kept]
        if not rows:
            raise CircuitError(f"{self.instructions.name}: no prompt is left\nchoose at least one")
        every = self.instructions
        return InstructionTokens(
            instructions=InstructionSet(tuple(every[i] for i in rows), every.name), ids=self.ids[rows],
            mask=self.mask[rows], instruction=self.instruction[rows], text=tuple(self.text[i] for i in rows),
        )  # fmt: skip

    @property
    def hash(self) -> str:
        """Twelve hex digits of the sha256 of ids, padding and labels."""
        digest = hashlib.sha256(repr(tuple(self.ids.shape)).encode())
        labels = torch.tensor([LABELS.index(i.label) for i in self.instructions])
        for tensor in (self.ids, self.mask.long(), labels):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def beside_themselves(self) -> TokenPairs:
        """Every prompt as both prompts of a pair, which is the form in which the engine takes prompts.

        For edits that bring their own values alone: a patch from "the other" prompt would change nothing. No token
        differs, so `subject` is the last column; positions "subject" and "post_subject" have no meaning here.
        """
        return TokenPairs(
            pairs=PairSet(tuple(Pair(i.text, i.text, source=i.source) for i in self.instructions), self.instructions.name),
            clean=self.ids, corrupt=self.ids, mask=self.mask, subject=torch.full((len(self.ids),), self.ids.shape[1] - 1),
            instruction=self.instruction, clean_text=self.text, corrupt_text=self.text,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"InstructionTokens({self.instructions.name!r}, {len(self.ids)} prompts, {self.hash})"

    def _repr_html_(self) -> str:
        texts = ("|".join(piece for piece in pieces if piece) for pieces in self.text)
        table = zip((i.label for i in self.instructions), self.mask.sum(-1).tolist(), texts, strict=True)
        return display.card(repr(self), display.rows(("label", "n_tokens", "tokens"), table, total=len(self.ids)))


def tokenize(instructions: InstructionSet, model: object, *, template: Template = "auto") -> InstructionTokens:
    """See `InstructionSet.tokenize`. Raises CircuitError naming the first instruction that does not render."""
    tokenizer = tokenizer_of(model)
    if not len(instructions):
        raise CircuitError(f"{instructions.name} holds no instructions\ngive at least one")
    chat = uses_chat(tokenizer, template)
    found = [render(tokenizer, i.text, chat=chat) for i in instructions]
    width = max(len(r.ids) for r in found)
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    pad = next(token for token in known if token is not None)  # masked: any id the embedding has will do
    left = [width - len(r.ids) for r in found]
    return InstructionTokens(
        instructions=instructions,
        ids=torch.tensor([[pad] * n + list(r.ids) for n, r in zip(left, found, strict=True)]),
        mask=torch.arange(width) >= torch.tensor(left)[:, None],
        instruction=torch.tensor([[False] * n + list(r.instruction) for n, r in zip(left, found, strict=True)]),
        text=tuple(("",) * n + r.pieces for n, r in zip(left, found, strict=True)),
    )
