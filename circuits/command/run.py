"""`circuits run CASE [flags]`: the same as `python -m circuits.cases.CASE [flags]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from circuits.case import main
from circuits.command.listings import cases, text, told_cases
from circuits.command.nearest import unknown
from circuits.errors import CircuitError

TOLD = "run a case and write its report"


def run(words: Sequence[str]) -> int:
    """Run `circuits run` with what follows. Raises CircuitError without a case, or for one that is none."""
    if not words:
        raise CircuitError(f"run what? name a case: circuits run CASE\ncases: {', '.join(cases())}")
    first, *flags = words
    if first in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0
    known = cases()
    if first.startswith("-"):
        raise CircuitError(f"name the case before its flags: circuits run CASE {first} …\ncases: {', '.join(known)}")
    name = first.replace("-", "_")
    if name not in known:
        raise unknown("case", first, known)
    return main(known[name], flags, prog=f"circuits run {name}")


def _help() -> str:
    made = argparse.ArgumentParser(
        prog="circuits run", usage="circuits run CASE [flags]", add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{TOLD}; circuits run CASE --help lists the case's flags\n\ncases\n{text(told_cases())}",
    )  # fmt: skip
    return made.format_help()
