"""`python -m circuits.cases.gemma2_replication`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from circuits.case import Case, Progress, main, options
from circuits.errors import CircuitError


def _study(args: argparse.Namespace, progress: Progress) -> Path:
    from circuits.cases.gemma2_replication.study import study

    return study(args, progress)


def _options(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--threshold",
        type=float,
        default=0.005,
        help="effect of a single head (fraction recovered) from which it is chosen",
    )
    made.add_argument(
        "--coefficients",
        nargs="*",
        type=float,
        default=[-2.0, -1.0, -0.5, 0.5, 1.0, 2.0],
        help="of the steering vectors",
    )


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.threshold < 1:
        raise CircuitError(f"--threshold {args.threshold}: effects are shares of the metric's gap; give 0 to 1")


CASE = Case(
    module="circuits.cases.gemma2_replication",
    question="Does the refusal mechanism found in one model replicate in another family, with another metric?",
    study=_study,
    model="refusal-gemma2",
    published="google/gemma-2-2b-it",
    options=(options.pairs, _options),
    check=_check,
)

if __name__ == "__main__":
    sys.exit(main(CASE))
