"""`python -m circuits.cases.gemma_refusal`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from circuits.case import Case, Progress, main


def _study(args: argparse.Namespace, progress: Progress) -> Path:
    from circuits.cases.gemma_refusal.study import study

    return study(args, progress)


CASE = Case(
    module="circuits.cases.gemma_refusal",
    question="Which components of the model carry the difference between the two prompts of each pair, and how?",
    study=_study,
)

if __name__ == "__main__":
    sys.exit(main(CASE))
