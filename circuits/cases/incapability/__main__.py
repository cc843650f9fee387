"""`python -m circuits.cases.incapability`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from circuits.case import Case, Progress, main, options


def _study(args: argparse.Namespace, progress: Progress) -> Path:
    from circuits.cases.incapability.study import study

    return study(args, progress)


def _options(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add(
        "--words", nargs="+", default=None, metavar="NAME=A,B",
        help="named sets of single-token words whose probability is followed; default: the model's own openings",
    )  # fmt: skip
    add("--sae", default=None, help="autoencoder: a folder, a sae-lens release, or a bundled model's name")
    add("--sae-id", default=None, help="which one of a release")
    add("--any-sae", action="store_true", help="read an autoencoder that was trained on another model, too")
    add("--heads", type=int, default=4, help="heads whose attention is drawn")


CASE = Case(
    module="circuits.cases.incapability",
    question="Does a model say that it may not and that it cannot by the same direction?",
    study=_study,
    model="refusal-qwen2",
    published="Qwen/Qwen1.5-1.8B-Chat",
    options=(options.instructions, options.alphas, options.max_kl, _options),
    check=options.positive_max_kl,
)

if __name__ == "__main__":
    sys.exit(main(CASE))
