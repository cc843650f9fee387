"""A pair is two prompts that differ in one thing; a set of pairs is what every measurement runs on.

The *clean* prompt shows the behaviour, the *corrupt* one does not. Nothing here knows a tokenizer:
`PairSet.tokenize` hands over to `align`, which needs one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final, overload

from circuits.prompts import reading

if TYPE_CHECKING:
    import pandas as pd

    from circuits.prompts.chat import Template
    from circuits.prompts.token_pairs import TokenPairs


@final
@dataclass(frozen=True)
class Pair:
    """Two prompts; optionally the token expected after each, and where the pair comes from."""

    clean: str
    corrupt: str
    answer: str | None = None
    wrong: str | None = None
    source: str = ""


@final
@dataclass(frozen=True)
class PairSet(Sequence[Pair]):
    """Pairs in order, with a name. Indexing gives a `Pair`, slicing a `PairSet`.

    `from_csv`, `from_json`, `from_frame` and `from_pairs` check what they read and raise CircuitError with
    the file, the row and the column. Columns `clean` and `corrupt` are needed; `answer`, `wrong`, `source`
    are optional.
    """

    pairs: tuple[Pair, ...]
    name: str = "pairs"

    @classmethod
    def from_csv(cls, path: str | Path, *, name: str | None = None) -> PairSet:
        """Read a UTF-8 file with a header row. Rows are counted as in a spreadsheet: the header is row 1."""
        return cls(_pairs(reading.csv_rows(Path(path))), name or Path(path).stem)

    @classmethod
    def from_json(cls, path: str | Path, *, name: str | None = None) -> PairSet:
        """Read a list of objects, or an object with such a list under `pairs`. Entries are counted from 0."""
        return cls(_pairs(reading.json_rows(Path(path))), name or Path(path).stem)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, name: str = "frame") -> PairSet:
        """Read the columns of a pandas DataFrame. Rows are counted from 0, whatever the index says."""
        return cls(_pairs(reading.frame_rows(frame)), name)

    @classmethod
    def from_pairs(cls, pairs: Iterable[Pair | Sequence[str | None]], *, name: str = "pairs") -> PairSet:
        """Take `Pair`s, or tuples in the order clean, corrupt, answer, wrong, source."""
        records = [asdict(pair) if isinstance(pair, Pair) else reading.tuple_record(pair) for pair in pairs]
        return cls(_pairs(reading.checked(name, "pair", 0, records)), name)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> PairSet: ...
    def __getitem__(self, index: int | slice) -> Pair | PairSet:
        if isinstance(index, slice):
            return PairSet(self.pairs[index], self.name)
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    @property
    def hash(self) -> str:
        """Twelve hex digits of the sha256 of what the pairs say, in order; name and source do not count."""
        said = [[p.clean, p.corrupt, p.answer, p.wrong] for p in self.pairs]
        return hashlib.sha256(json.dumps(said, ensure_ascii=True).encode()).hexdigest()[:12]

    def tokenize(
        self, model: object, *, template: Template = "auto", drop_misaligned: bool = False
    ) -> TokenPairs:
        """Token ids of both prompts of every pair, aligned and left-padded, with the subject found.

        `model` is a tokenizer or anything with a `.tokenizer`. `template` "chat" wraps each prompt as the
        user's turn with the generation prompt after it, "none" takes the text as it is, "auto" chats where
        the tokenizer can. Raises AlignmentError listing every pair that is not a one-token swap; with
        `drop_misaligned` those pairs are left out and told in `dropped`, and only an empty rest is an error.
        """
        from circuits.prompts.align import align

        return align(self, model, template=template, drop_misaligned=drop_misaligned)

    def to_frame(self) -> pd.DataFrame:
        """One row per pair: clean, corrupt, answer, wrong, source; read back by `from_frame`."""
        import pandas as pd

        return pd.DataFrame([asdict(pair) for pair in self.pairs], columns=list(reading.COLUMNS))

    def __repr__(self) -> str:
        return f"PairSet({self.name!r}, {len(self)} pairs, {self.hash})"

    def _repr_html_(self) -> str:
        from circuits.prompts.show import pair_table

        return pair_table(self)


def _pairs(rows: Iterable[dict[str, Any]]) -> tuple[Pair, ...]:
    return tuple(Pair(**row) for row in rows)
