"""`circuits`: the first word chooses what to do.

Exit codes are those of a case: 0 done; 2 something asked for cannot be done, or a check failed; 1 our fault, a traceback (and
`runs diff` where numbers differ); 130 stopped from the keyboard; and 141 where whoever read the output stopped reading.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from circuits.case.command import fill, legible
from circuits.command import completion, datasets, listings
from circuits.command.doctor import arguments as doctor_arguments
from circuits.command.doctor import examine
from circuits.command.doctor.packages import version
from circuits.command.nearest import unknown
from circuits.command.run import TOLD, run
from circuits.errors import CircuitError
from circuits.runs.command import fill as fill_runs
from circuits.runs.command import main as runs


def _nothing(_made: argparse.ArgumentParser) -> None:
    """No arguments."""


def _complete(args: argparse.Namespace) -> int:
    return completion.write(whole(), args.shell)


@final
@dataclass(frozen=True)
class Command:
    """A first word: what it does in a line, its arguments, and the function that does it."""

    told: str
    arguments: Callable[[argparse.ArgumentParser], None]
    act: Callable[[argparse.Namespace], int]


READ_ELSEWHERE = {
    "run": (TOLD, run),
    "runs": ("list, show, compare, redraw and export the runs in runs/", runs),
}
"""First words whose arguments are read by what they start."""
COMMANDS = {
    "cases": Command("studies that can be run", _nothing, listings.show_cases),
    "models": Command("models that come with the package", _nothing, listings.show_models),
    "datasets": Command("sets of prompts that come with the package", datasets.arguments, datasets.show),
    "doctor": Command("what is installed, and whether the engine is exact on this machine", doctor_arguments, examine),
    "completion": Command("a script that completes these commands in a shell", completion.arguments, _complete),
}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Tables below stay as they are; the longest command leaves room beside it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=16)


def parser(*, listed: bool = True) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the first word, and those of the commands; `listed`: with all there is, for --help."""
    made = argparse.ArgumentParser(
        prog="circuits", description="Find, test and draw circuits in language models.",
        formatter_class=_Formatter, epilog=_listed() if listed else None,
    )  # fmt: skip
    made.add_argument("--version", action="version", version=f"circuits {version()}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    below: dict[str, argparse.ArgumentParser] = {}
    for name, (told, _) in READ_ELSEWHERE.items():
        below[name] = commands.add_parser(name, help=told, description=told)
    for name, command in COMMANDS.items():
        below[name] = commands.add_parser(name, help=command.told, description=command.told)
        command.arguments(below[name])
        below[name].set_defaults(act=command.act)
    return made, below


def whole() -> argparse.ArgumentParser:
    """The parser with every case and its flags below it: what a shell completes."""
    made, below = parser(listed=False)
    of_run = below["run"].add_subparsers(metavar="CASE")
    for name, case in listings.cases().items():
        fill(of_run.add_parser(name, help=case.question, description=case.question), case)
    fill_runs(below["runs"])
    return made


def _listed() -> str:
    tables = {
        "cases (circuits run CASE)": listings.told_cases(),
        "models (--model NAME)": listings.told_models(),
        "datasets (circuits datasets --show NAME)": datasets.told(),
        "last runs (in runs/)": listings.told_runs(),
    }
    return "\n".join(f"{title}:\n{listings.text(told)}" for title, told in tables.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Read the first word and do what it says; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    legible()
    try:
        return _act(words)
    except CircuitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    except BrokenPipeError:
        # what is left in the buffer is written when Python ends, and would be refused again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _act(words: Sequence[str]) -> int:
    if not words:
        sys.stderr.write(parser()[0].format_help())
        return 2
    first, *rest = words
    if first in READ_ELSEWHERE:
        return READ_ELSEWHERE[first][1](rest)
    if not first.startswith("-") and first not in COMMANDS:
        raise unknown("command", first, [*READ_ELSEWHERE, *COMMANDS])
    args = parser(listed=first in ("-h", "--help"))[0].parse_args(words)
    done = args.act(args)
    sys.stdout.flush()
    return done
