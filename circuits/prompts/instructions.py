"""Instructions without counterparts: harmful, harmless, or incapable (they ask for a body), not matched one to one.

    instructions = diverse_instructions()                  # the set that comes with the package
    instructions = InstructionSet.from_file("mine.csv")    # columns instruction, label; .json or .txt as well

What was found on pairs can be tested on these. Nothing here knows a tokenizer: `tokenize` needs one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final, overload

from circuits import display
from circuits.errors import CircuitError
from circuits.prompts import reading
from circuits.prompts.pairs import PairSet

if TYPE_CHECKING:
    from circuits.prompts.chat import Template
    from circuits.prompts.instruction_tokens import InstructionTokens

LABELS: Final = ("harmful", "harmless", "incapable")
_NEEDED: Final = ("instruction", "label")
_OPTIONAL: Final = ("source",)


@final
@dataclass(frozen=True)
class Instruction:
    """One instruction, its label ("harmful", "harmless", "incapable"), and where it comes from."""

    text: str
    label: str
    source: str = ""


@final
@dataclass(frozen=True)
class InstructionSet(Sequence[Instruction]):
    """Instructions in order, with a name. Every reader raises CircuitError with the file, the row and the column."""

    instructions: tuple[Instruction, ...]
    name: str = "instructions"

    @classmethod
    def from_file(cls, path: str | Path, *, label: str | None = None, name: str | None = None) -> InstructionSet:
        """Read a UTF-8 file by its ending.

        .csv: columns `instruction`, `label` (and `source`). .json: a list of such objects. .txt: one instruction per line,
        with its label after a tab; a file without labels takes `label` for all its lines.
        """
        where = Path(path)
        match where.suffix.lower():
            case ".csv":
                rows = reading.csv_rows(where, needed=_NEEDED, optional=_OPTIONAL)
            case ".json":
                rows = _json_rows(where)
            case ".txt":
                rows = _txt_rows(where, label)
            case other:
                ending = reading.shown(other) or "a file without an ending"
                raise CircuitError(f"{reading.shown(where)}: cannot read {ending}\ngive .csv, .json or .txt")
        return cls(_instructions(reading.shown(where), rows), name or where.stem)

    @classmethod
    def from_pairs(cls, pairs: PairSet) -> InstructionSet:
        """Both prompts of every pair on their own: clean ones are the harmful, corrupt ones the harmless."""
        sides = ([Instruction(p.clean, "harmful", p.source) for p in pairs],
                 [Instruction(p.corrupt, "harmless", p.source) for p in pairs])  # fmt: skip
        return cls(tuple(sides[0] + sides[1]), pairs.name)

    @overload
    def __getitem__(self, index: int) -> Instruction: ...
    @overload
    def __getitem__(self, index: slice) -> InstructionSet: ...
    def __getitem__(self, index: int | slice) -> Instruction | InstructionSet:
        if isinstance(index, slice):
            return InstructionSet(self.instructions[index], self.name)
        return self.instructions[index]

    def __len__(self) -> int:
        return len(self.instructions)

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions)

    @property
    def hash(self) -> str:
        """Twelve hex digits of the sha256 of texts and labels, in order."""
        said = [[i.text, i.label] for i in self.instructions]
        return hashlib.sha256(json.dumps(said, ensure_ascii=True).encode()).hexdigest()[:12]

    def labelled(self, *labels: str) -> InstructionSet:
        """Those with one of these labels. Raises CircuitError for a label that is none, or that no instruction has."""
        for label in labels:
            if not any(i.label == label for i in self.instructions):
                known = ", ".join(sorted({i.label for i in self.instructions}))
                raise CircuitError(f"{self.name}: no instruction is labelled {label!r}; there are {known}")
        return InstructionSet(
            tuple(i for i in self.instructions if i.label in labels), f"{self.name} ({', '.join(labels)})"
        )

    def __add__(self, other: InstructionSet) -> InstructionSet:
        """These and then the others, each text once."""
        seen = {i.text for i in self.instructions}
        more = tuple(i for i in other.instructions if i.text not in seen)
        return InstructionSet(self.instructions + more, f"{self.name} + {other.name}")

    def of_source(self, *sources: str) -> InstructionSet:
        """Those of some sources alone. Raises CircuitError where none is."""
        kept = tuple(i for i in self.instructions if i.source in sources)
        if not kept:
            known = ", ".join(sorted({i.source for i in self.instructions}))
            raise CircuitError(f"{self.name}: no instruction of {', '.join(sources)}; there are {known}")
        return InstructionSet(kept, f"{self.name} ({', '.join(sources)})")

    def tokenize(self, model: object, *, template: Template = "auto") -> InstructionTokens:
        """Token ids, left-padded; `model` is a tokenizer or anything with one, `template` as in `PairSet.tokenize`."""
        from circuits.prompts.instruction_tokens import tokenize

        return tokenize(self, model, template=template)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {label}" for label in LABELS if (n := sum(i.label == label for i in self)))
        return f"InstructionSet({self.name!r}, {counts}, {self.hash})"

    def _repr_html_(self) -> str:
        table = ((i.text, i.label, i.source) for i in self)
        return display.card(repr(self), display.rows(("instruction", "label", "source"), table, total=len(self)))


def capability_instructions() -> InstructionSet:
    """Requests that need a body ("incapable"), each followed by a harmless one about the same thing.

    Comes with the package; `source` as in `diverse_instructions`. Row 2k + 1 is the partner of row 2k.
    """
    with resources.as_file(resources.files("circuits.prompts") / "data" / "capability_instructions.csv") as path:
        return InstructionSet.from_file(path, name="capability")


def diverse_instructions() -> InstructionSet:
    """The set that comes with the package: harmful and harmless instructions, alike in form and unpaired.

    `source` "grammar": sentences of the bundled model's language; "free": words it does not know (see `data/SOURCES.md`).
    """
    with resources.as_file(resources.files("circuits.prompts") / "data" / "diverse_instructions.csv") as path:
        return InstructionSet.from_file(path, name="diverse")


def _instructions(where: str, rows: Iterable[dict[str, Any]]) -> tuple[Instruction, ...]:
    found = tuple(Instruction(row["instruction"], row["label"].strip(), row.get("source", "")) for row in rows)
    bad = [f"  {reading.shown(repr(i.text))}: {reading.shown(repr(i.label))}" for i in found if i.label not in LABELS]
    if bad:
        raise CircuitError(f"{where}: labels must be {', '.join(LABELS[:-1])} or {LABELS[-1]}\n" + "\n".join(bad[:10]))
    return found


def _json_rows(path: Path) -> list[dict[str, Any]]:
    data = reading.json_value(path)
    entries = cast("list[Any]", data) if isinstance(data, list) else []
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise CircuitError(f'{reading.shown(path)}: it needs a list of {{"instruction": …, "label": …}}')
    return reading.checked(reading.shown(path), "entry", 0, entries, needed=_NEEDED, optional=_OPTIONAL)


def _txt_rows(path: Path, label: str | None) -> list[dict[str, Any]]:
    # `splitlines` would also break at characters that a text may hold, such as U+2028 or a form feed
    every = re.split(r"\r\n|\r|\n", reading.read_text(path))
    lines = [(n, line) for n, line in enumerate(every, start=1) if line.strip()]
    records: list[reading.Record] = []
    for _, line in lines:
        text, tab, own = line.partition("\t")
        records.append({"instruction": text.strip(), "label": own.strip() if tab else label})
    return reading.checked(reading.shown(path), "line", [n for n, _ in lines], records, needed=_NEEDED, optional=())
