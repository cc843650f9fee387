"""Reading pairs from the outside: every complaint says which file, which row and which column.

All sources become records (column -> value); `checked` turns records into the keyword arguments of `Pair` and
reports every bad cell at once, so that a file is mended in one go. What a file says stands in a message with its control
characters spelled out, so that it cannot steer the terminal that shows it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from circuits.errors import CircuitError

if TYPE_CHECKING:
    import pandas as pd

NEEDED: Final = ("clean", "corrupt")
OPTIONAL: Final = ("answer", "wrong", "source")
COLUMNS: Final = (*NEEDED, *OPTIONAL)

LARGEST: Final = 64 << 20
"""Bytes of a file that are read at most: sets of prompts are a thousand times smaller."""
_LISTED: Final = 100
"""Lines of a list in a message; of more, the rest are counted."""
_NO_TEXT: Final = re.compile("[\x00\ud800-\udfff]")
"""What no prompt holds: NUL, the trace of a file that is no UTF-8, and halves of surrogate pairs, which no file can hold."""

Record = Mapping[str, object]


def csv_rows(path: Path, *, needed: Sequence[str] = NEEDED, optional: Sequence[str] = OPTIONAL) -> list[dict[str, Any]]:
    """Rows of a CSV file as dicts of the needed and optional columns.

    Raises CircuitError for a missing, empty, non-UTF-8 or malformed file, missing columns and blank cells.
    """
    text = read_text(path)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise CircuitError(f"{shown(path)} is not a CSV file: {error}\nsave it as comma-separated UTF-8") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    _require_columns(shown(path), header, needed, optional)
    # Blank lines are not rows of data, but they are rows of the spreadsheet, and must be counted.
    numbered = [(number, row) for number, row in enumerate(rows[1:], start=2) if any(cell.strip() for cell in row)]
    torn = [f"  row {number} has {len(row)} cells" for number, row in numbered if len(row) != len(header)]
    if torn:
        rows_do = "1 row does" if len(torn) == 1 else f"{len(torn)} rows do"
        raise CircuitError(
            f"{shown(path)}: {rows_do} not match the header's {len(header)} columns\n"
            + _listed(torn)
            + "\na cell with a comma in it needs double quotes around it"
        )
    if not numbered:
        raise CircuitError(f"{shown(path)} has a header and no rows\nadd one row per pair: {', '.join(needed)}")
    records = [dict(zip(header, row, strict=True)) for _, row in numbered]
    return checked(shown(path), "row", [number for number, _ in numbered], records, needed=needed, optional=optional)


def json_rows(path: Path) -> list[dict[str, Any]]:
    """Entries of a JSON file: a list of objects, or such a list under `pairs`. Errors as `csv_rows`."""
    data = json_value(path)
    entries = cast("dict[str, object]", data).get("pairs") if isinstance(data, dict) else data
    shape = 'a list of {"clean": …, "corrupt": …}, or {"pairs": [that list]}'
    if not isinstance(entries, list):
        raise CircuitError(f"{shown(path)} holds {_kind(data)}\n  it needs {shape}")
    records = cast("list[object]", entries)
    wrong = [f"  entry {i} is {_kind(entry)}" for i, entry in enumerate(records) if not isinstance(entry, dict)]
    if wrong:
        raise CircuitError(f"{shown(path)}: some entries are no objects\n" + _listed(wrong) + f"\n  it needs {shape}")
    if not records:
        raise CircuitError(f"{shown(path)} holds no pairs\n  it needs {shape}")
    return checked(shown(path), "entry", 0, cast("list[Record]", records))


def json_value(path: Path) -> object:
    """What a JSON file holds. Raises CircuitError as `read_text`, and where it is no JSON or names a key twice."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
            raise CircuitError(f"{shown(path)}: the name {shown(twice)} stands twice in one object\nkeep one of them")
        return found

    try:
        return json.loads(read_text(path), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise CircuitError(
            f"{shown(path)} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}\nmend it there"
        ) from error
    except RecursionError:
        raise CircuitError(f"{shown(path)} is nested too deeply to be read\n  it needs a list of objects") from None
    except ValueError as error:  # a number of thousands of digits
        raise CircuitError(f"{shown(path)} is not JSON that can be read: {error}\ngive texts") from None


def frame_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a DataFrame; errors as `csv_rows`."""
    columns = [str(column) for column in frame.columns]
    _require_columns("the frame", columns, NEEDED, OPTIONAL)
    values = cast("list[list[object]]", frame.to_numpy(dtype=object).tolist())
    if not values:
        raise CircuitError("the frame has no rows\ngive one row per pair")
    return checked("the frame", "row", 0, [dict(zip(columns, row, strict=True)) for row in values])


def tuple_record(pair: Sequence[str | None]) -> Record:
    """A tuple in the order of the columns, as a record."""
    if isinstance(pair, str) or len(pair) > len(COLUMNS):
        raise CircuitError(
            f"{shown(repr(pair))} is not a pair\ngive (clean, corrupt[, answer[, wrong[, source]]]) or Pair(…)"
        )
    return dict(zip(COLUMNS, pair, strict=False))


def checked(
    where: str,
    unit: str,
    numbers: int | Sequence[int],
    records: Sequence[Record],
    *,
    needed: Sequence[str] = NEEDED,
    optional: Sequence[str] = OPTIONAL,
) -> list[dict[str, Any]]:
    """Records reduced to their known columns: needed cells filled, blank optional cells left out.

    `numbers` are the records' own numbers, or the number of the first. Raises CircuitError listing every bad
    cell.
    """
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    labels = range(numbers, numbers + len(records)) if isinstance(numbers, int) else numbers
    for number, record in zip(labels, records, strict=True):
        row: dict[str, Any] = {}
        for column in (*needed, *optional):
            value = record.get(column)
            if _blank(value):
                if column in needed:
                    bad.append(f"  {unit} {number}, column {column}: {'blank' if column in record else 'missing'}")
            elif isinstance(value, str):
                row[column] = value
                if odd := _NO_TEXT.search(value):
                    bad.append(
                        f"  {unit} {number}, column {column}: the character U+{ord(odd[0]):04X}, which is no text"
                    )
            else:
                bad.append(f"  {unit} {number}, column {column}: {_kind(value)}, not text")
        rows.append(row)
    if bad:
        cells = "1 cell is" if len(bad) == 1 else f"{len(bad)} cells are"
        raise CircuitError(f"{where}: {cells} not usable\n" + _listed(bad) + f"\nfill in or delete the {unit}")
    return rows


def read_text(path: Path) -> str:
    """The file as text, without a byte-order mark. Raises CircuitError if missing, empty, too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)  # a device or a pipe may never end
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        missing = isinstance(error, FileNotFoundError)
        reason = "does not exist" if missing else f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise CircuitError(f"{shown(path)} {reason}\ngive the path of a file that can be read") from error
    if len(data) > LARGEST:
        raise CircuitError(f"{shown(path)} has more than {LARGEST} bytes\nat most these are read; split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise CircuitError(
            f"{shown(path)} is not UTF-8: byte 0x{data[error.start]:02x} in row {row}\nsave it again as UTF-8"
        ) from error
    if not text.strip():
        raise CircuitError(f"{shown(path)} is empty\n  it needs the columns {', '.join(NEEDED)}")
    return text


def shown(text: object, most: int = 300) -> str:
    """Text as a message shows it: control characters spelled out, the middle left out where it is long."""
    raw = str(text)
    kept = raw if len(raw) <= most else f"{raw[: most // 2]}…{raw[-most // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in kept)


def _listed(lines: Sequence[str]) -> str:
    more = [f"  … and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "\n".join([*lines[:_LISTED], *more])


def _require_columns(where: str, has: Sequence[str], needed: Sequence[str], optional: Sequence[str]) -> None:
    missing = [column for column in needed if column not in has]
    counts = Counter(has)
    twice = [column for column in (*needed, *optional) if counts[column] > 1]
    if twice:
        raise CircuitError(f"{where}: column {', '.join(twice)} comes twice\nkeep one of them")
    if missing:
        may = f" (and may have {', '.join(optional)})" if optional else ""
        other = next((mark for mark in (";", "\t", "|") if len(has) == 1 and mark in has[0]), None)
        remedy = f"separate the columns with commas, not {other!r}" if other else "rename or add it in the header"
        raise CircuitError(
            f"{where}: no column {' and no column '.join(missing)}\n"
            f"  it has   {_names(has)}\n  it needs {', '.join(needed)}{may}\n{remedy}"
        )


def _names(columns: Iterable[str]) -> str:
    return shown(", ".join(shown(column, 60) for column in columns)) or "none"


def _blank(value: object) -> bool:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return missing or (isinstance(value, str) and not value.strip())


def _kind(value: object) -> str:
    names: dict[type, str] = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        type(None): "nothing",
    }
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
