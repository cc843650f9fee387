"""`circuits datasets`: the sets of prompts that come with the package, and a copy of one to start from."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import Counter
from importlib import resources
from typing import Final

from circuits.command.listings import text
from circuits.command.nearest import unknown

_KINDS: Final = {
    "clean": ("pairs of prompts", "--pairs FILE, or ct.PairSet.from_csv"),
    "instruction": ("instructions", "--instructions FILE, or ct.InstructionSet.from_file"),
    "subject": ("words to make pairs of", "ct.filter_subjects"),
}
"""First column -> what a row is, and who reads such a file."""
_COUNTED: Final = ("label", "kind")
"""Columns whose values are counted."""


def files() -> dict[str, str]:
    """Name -> text of every bundled set."""
    folder = resources.files("circuits.prompts") / "data"
    found = {file.name: file for file in folder.iterdir() if file.name.endswith(".csv")}
    return {
        name.removesuffix(".csv").replace("_", "-"): found[name].read_text(encoding="utf-8") for name in sorted(found)
    }


def told() -> dict[str, list[str]]:
    """Of every bundled set: how many rows of what, and what reads it."""
    return {name: _told(content) for name, content in files().items()}


def _told(content: str) -> list[str]:
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    what, reader = _KINDS[next(iter(rows[0]))]
    counts = [Counter(row[column] for row in rows) for column in _COUNTED if column in rows[0]]
    shares = [f"{n} {value}" for count in counts for value, n in count.items()]
    among = f" ({', '.join(shares)})" if shares else ""
    return [f"{len(rows)} {what}{among}; columns {', '.join(rows[0])}; {reader}"]


def arguments(made: argparse.ArgumentParser) -> None:
    """`--show`."""
    made.add_argument("--show", metavar="NAME", help="write this set as CSV, to start one of your own from it")


def show(args: argparse.Namespace) -> int:
    """Run `circuits datasets`. Raises CircuitError for a name that is none."""
    if args.show is None:
        sys.stdout.write(text(told(), ""))
        sys.stdout.write("\ncircuits datasets --show NAME > mine.csv   writes one to start from\n")
        return 0
    known = files()
    name = args.show.removesuffix(".csv").replace("_", "-")
    if name not in known:
        raise unknown("dataset", args.show, known)
    sys.stdout.write(known[name])
    return 0
