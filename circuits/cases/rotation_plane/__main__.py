"""`python -m circuits.cases.rotation_plane`."""

from __future__ import annotations

import argparse
import sys
from math import isfinite
from pathlib import Path

from circuits.case import Case, Progress, main, options
from circuits.errors import CircuitError


def _study(args: argparse.Namespace, progress: Progress) -> Path:
    from circuits.cases.rotation_plane.study import study

    return study(args, progress)


def _options(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--angles", nargs="*", type=float, default=[10.0 * k for k in range(36)], help="degrees of the circle")
    add("--rotated-layers", default=None, metavar="A:B", help="layers whose entering residual is rotated; default: all")
    add("--unit-norm", action="store_true", help="principal components of candidates at norm 1, not at their own")
    add("--uncentred", action="store_true", help="principal components of candidates about zero, not about their mean")
    add("--prompts", type=int, default=24, help="prompts of each kind that are completed at every angle")


def _check(args: argparse.Namespace) -> None:
    if args.prompts < 2:
        raise CircuitError(f"--prompts {args.prompts}: an interval needs at least two")
    if args.angles and all(map(isfinite, args.angles)) and len({angle % 360 for angle in args.angles}) < 3:
        raise CircuitError("--angles: an axis needs three angles that differ around the circle, e.g. 0 120 240")


CASE = Case(
    module="circuits.cases.rotation_plane",
    question="What does the model do as the residual stream is turned around a plane that holds the refusal direction?",
    study=_study,
    model="refusal-qwen2",
    published="Qwen/Qwen2.5-7B-Instruct",
    options=(options.instructions, _options),
    check=_check,
)

if __name__ == "__main__":
    sys.exit(main(CASE))
