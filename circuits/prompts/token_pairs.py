"""Aligned pairs as tensors, with every position named.

    before … before  SUBJECT  post_subject … post_subject  LAST

Left padding puts the last token of every prompt into the last column; the subject is the one token that
differs between clean and corrupt, and stands in the same column of both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, SupportsIndex, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.errors import SiteError
from circuits.prompts.columns import Column, columns_of
from circuits.prompts.pairs import Pair, PairSet

if TYPE_CHECKING:
    import pandas as pd

PositionName = Literal["subject", "post_subject", "last", "all"]
Positions = PositionName | int | Sequence[int]
Role = Literal["before", "subject", "post_subject", "last", "padding"]


@final
@dataclass(frozen=True)
class Dropped:
    """A pair that was left out: its index in the set asked for, and why."""

    index: int
    pair: Pair
    reason: str


@final
@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Clean and corrupt token ids [pair, pos], left-padded to one width; compared by `hash`."""

    pairs: PairSet
    """The pairs kept, one per row."""
    clean: Int[Tensor, "pair pos"]
    corrupt: Int[Tensor, "pair pos"]
    mask: Bool[Tensor, "pair pos"]
    """True at real tokens; the same for clean and corrupt."""
    subject: Int[Tensor, " pair"]
    """Column of the one token that differs."""
    instruction: Bool[Tensor, "pair pos"]
    """True on the instruction's tokens, False on `<bos>`, template and padding."""
    clean_text: tuple[tuple[str, ...], ...]
    """Tokens as people read them, "" at padding."""
    corrupt_text: tuple[tuple[str, ...], ...]
    dropped: tuple[Dropped, ...] = ()

    @property
    def n_pairs(self) -> int:
        """How many pairs."""
        return self.clean.shape[0]

    @property
    def n_pos(self) -> int:
        """How many columns, padding included."""
        return self.clean.shape[1]

    @property
    def last(self) -> int:
        """Column of the last token, the same for all pairs."""
        return self.n_pos - 1

    @property
    def first_difference(self) -> int:
        """First column where any pair differs: before it, clean and corrupt runs are equal."""
        return int(self.subject.min())

    @property
    def lengths(self) -> Int[Tensor, " pair"]:
        """Real tokens per prompt."""
        return self.mask.sum(dim=1)

    @property
    def hash(self) -> str:
        """Twelve hex digits of the sha256 of ids and padding."""
        digest = hashlib.sha256(repr(tuple(self.clean.shape)).encode())
        for tensor in (self.clean, self.corrupt, self.mask.long()):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def position_mask(self, positions: Positions) -> Bool[Tensor, "pair pos"]:
        """True at the positions meant, never at padding.

        "subject"; "post_subject", strictly between subject and last, so a row may be empty; "last"; "all"
        real tokens; an int or several: negative from the end, otherwise real tokens from the start of each
        prompt. Raises SiteError for an unknown name, and for a position that some prompt is too short for.
        """
        column = torch.arange(self.n_pos)
        if isinstance(positions, str):
            return self._named(positions)
        chosen = [positions] if isinstance(positions, int) else list(positions)
        result = torch.zeros_like(self.mask)
        for position in chosen:
            result |= column == self._column(position).unsqueeze(1)
        return result

    def role(self, pair: int, pos: int) -> Role:
        """What column `pos` is in pair `pair`. A subject that is also the last token is called "subject"."""
        if not (0 <= pair < self.n_pairs and -self.n_pos <= pos < self.n_pos):
            raise SiteError(
                f"no pair {pair}, column {pos}; there are {self.n_pairs} pairs and {self.n_pos} columns"
            )
        column, subject = pos % self.n_pos, int(self.subject[pair])
        if not self.mask[pair, column]:
            return "padding"
        if column <= subject:
            return "subject" if column == subject else "before"
        return "last" if column == self.last else "post_subject"

    def axis(self) -> list[Column]:
        """One record per column for the axis of a figure."""
        return columns_of(self)

    def select(
        self, indices: Iterable[SupportsIndex] | Int[Tensor, " row"] | Bool[Tensor, " pair"]
    ) -> TokenPairs:
        """The pairs at these indices, in this order, in unchanged columns; a boolean mask selects too.

        Raises SiteError for an index that is not there, and where nothing is selected.
        """
        given = indices.tolist() if isinstance(indices, Tensor) else list(indices)
        is_mask = bool(given) and all(isinstance(index, bool) for index in given)
        if is_mask and len(given) != self.n_pairs:
            raise SiteError(f"a mask of {len(given)} entries for {self.n_pairs} pairs")
        rows = (
            [i for i, hit in enumerate(given) if hit] if is_mask else [index.__index__() for index in given]
        )
        bad = [row for row in rows if not -self.n_pairs <= row < self.n_pairs]
        if bad or not rows:
            raise SiteError(f"no pair {bad[0]}; there are {self.n_pairs}" if bad else "no pair selected")
        return TokenPairs(
            pairs=PairSet(tuple(self.pairs[row] for row in rows), self.pairs.name),
            clean=self.clean[rows],
            corrupt=self.corrupt[rows],
            mask=self.mask[rows],
            subject=self.subject[rows],
            instruction=self.instruction[rows],
            clean_text=tuple(self.clean_text[row] for row in rows),
            corrupt_text=tuple(self.corrupt_text[row] for row in rows),
            dropped=self.dropped,
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and real token: pos, relative, role, is_template, both tokens and their ids."""
        from circuits.prompts.columns import token_rows

        return token_rows(self)

    def __repr__(self) -> str:
        size = f"{self.n_pairs} pairs, {self.n_pos} positions"
        dropped = f", {len(self.dropped)} dropped" if self.dropped else ""
        return f"TokenPairs({self.pairs.name!r}, {size}{dropped}, {self.hash})"

    def _repr_html_(self) -> str:
        from circuits.prompts.show import token_table

        return token_table(self)

    def _named(self, position: str) -> Bool[Tensor, "pair pos"]:
        column, subject = torch.arange(self.n_pos), self.subject.unsqueeze(1)
        named = {
            "subject": column == subject,
            "post_subject": (column > subject) & (column < self.last),
            "last": (column == self.last).expand(self.n_pairs, -1).clone(),
            "all": self.mask.clone(),
        }
        if position not in named:
            raise SiteError(f"unknown position {position!r}\nwrite {', '.join(named)}, or integers")
        return named[position]

    def _column(self, position: int) -> Int[Tensor, " pair"]:
        """Column of a position in each prompt."""
        if isinstance(position, bool):
            raise SiteError(f"{position} is not a position; write an integer")
        lengths = self.lengths
        needed = -position if position < 0 else position + 1
        for pair in (lengths < needed).nonzero().flatten().tolist():
            raise SiteError(
                f"position {position} does not exist in pair {pair}, which has {int(lengths[pair])} tokens\n"
                f"use {-int(lengths.min())} to {int(lengths.min()) - 1}, or drop the short pairs"
            )
        if position < 0:
            return torch.full_like(self.subject, self.n_pos + position)
        return self.n_pos - lengths + position
