"""`python -m circuits.cases.gemma_refusal`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from circuits.case import Case, Progress, main, options
from circuits.errors import CircuitError


def _study(args: argparse.Namespace, progress: Progress) -> Path:
    from circuits.cases.gemma_refusal.study import study

    return study(args, progress)


def _options(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    for group in ("early", "middle", "late"):
        add(
            f"--layers-{group}", default=None, metavar="A:B", help=f"{group} layers, A to B-1; default: a third of them"
        )
    add("--groups", nargs="+", default=None, metavar="NAME=A:B", help="other groups of layers, in place of the three")
    add("--threshold", type=float, default=0.2, help="score from which a head is direct or diagonal")
    add("--diverse", default=None, help="CSV, JSON or text of unpaired instructions (columns instruction, label)")


def _check(args: argparse.Namespace) -> None:
    if not 0 < args.threshold <= 1:
        raise CircuitError(f"--threshold {args.threshold}: attention scores lie between 0 and 1")


CASE = Case(
    module="circuits.cases.gemma_refusal",
    question="Which components of the model carry the difference between the two prompts of each pair, and how?",
    study=_study,
    options=(options.pairs, options.max_kl, _options),
    check=_check,
)

if __name__ == "__main__":
    sys.exit(main(CASE))
