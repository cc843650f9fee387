"""All checks one after the other, told as they are made."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from circuits.command.doctor import exactness, machine, packages, surroundings
from circuits.command.doctor.check import Check


def arguments(made: argparse.ArgumentParser) -> None:
    """`--json`."""
    made.add_argument("--json", action="store_true", help="one JSON object with everything that was found")


def examine(args: argparse.Namespace) -> int:
    """Run `circuits doctor`; 2 where a check failed."""
    found: list[Check] = []
    for check in _checks():
        found.append(check)
        if not args.json:
            sys.stdout.write(check.text)
            sys.stdout.flush()
    failed = [check.name for check in found if check.status == "failed"]
    if args.json:
        sys.stdout.write(json.dumps({"ok": not failed, "checks": [asdict(check) for check in found]}, indent=1) + "\n")
    else:
        said = f"failed: {', '.join(failed)}; what to do stands below each" if failed else "all is well"
        sys.stdout.write(f"\n{said}\n")
    return 2 if failed else 0


def _checks() -> Iterator[Check]:
    yield from packages.checks()
    yield from machine.checks()
    yield from surroundings.checks()
    yield exactness.check()
