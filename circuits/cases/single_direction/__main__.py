"""`python -m circuits.cases.single_direction`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from circuits.case import Case, Progress, main, options


def _study(args: argparse.Namespace, progress: Progress) -> Path:
    from circuits.cases.single_direction.study import study

    return study(args, progress)


def _tasks(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--tasks", nargs="*", default=["circuits_harm", "circuits_kinds"],
        help="lm-eval tasks for the edited and the unedited model (needs the extra lm-eval); none: leave them out",
    )  # fmt: skip
    made.add_argument("--limit", type=int, default=100, help="documents of each task")


CASE = Case(
    module="circuits.cases.single_direction",
    question="Is refusal carried by one direction: across layers, prompts, padding and seeds, and at what cost?",
    study=_study,
    model="refusal-qwen2",
    published="Qwen/Qwen1.5-1.8B-Chat",
    options=(options.pairs, options.instructions, options.alphas, options.judge, _tasks),
)

if __name__ == "__main__":
    sys.exit(main(CASE))
