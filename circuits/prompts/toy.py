"""The sets that come with the package: matched refusal pairs, and subjects to make more of them.

Where each row comes from is told in `data/SOURCES.md` and in the pairs' `source`.
"""

from __future__ import annotations

from importlib import resources

from circuits.prompts import reading
from circuits.prompts.pairs import PairSet
from circuits.prompts.subjects import Subject


def toy_refusal_pairs() -> PairSet:
    """Harmful instructions (clean) and harmless ones (corrupt) that differ in one word."""
    with resources.as_file(resources.files("circuits.prompts") / "data" / "refusal_pairs.csv") as path:
        return PairSet.from_csv(path, name="toy-refusal")


def refusal_subjects() -> tuple[Subject, ...]:
    """Candidate subjects with their kind, "harmful" or "harmless", for `filter_subjects`."""
    with resources.as_file(resources.files("circuits.prompts") / "data" / "refusal_subjects.csv") as path:
        rows = reading.csv_rows(path, needed=("subject", "kind"), optional=())
    return tuple(Subject(row["subject"], row["kind"]) for row in rows)
