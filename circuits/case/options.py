"""Arguments that several cases have, each said once."""

from __future__ import annotations

import argparse

from circuits.errors import CircuitError


def pairs(made: argparse.ArgumentParser) -> None:
    """`--pairs`, `--drop-misaligned`."""
    made.add_argument(
        "--pairs", default=None, help="CSV or JSON of pairs (columns clean, corrupt[, answer, wrong]); default: bundled"
    )
    made.add_argument(
        "--drop-misaligned", action="store_true", help="leave out pairs that do not align instead of stopping"
    )


def instructions(made: argparse.ArgumentParser) -> None:
    """`--instructions`."""
    made.add_argument(
        "--instructions", default=None, metavar="FILE",
        help="CSV, JSON or text of unpaired instructions (columns instruction, label); default: bundled",
    )  # fmt: skip


def max_kl(made: argparse.ArgumentParser) -> None:
    """`--max-kl`."""
    made.add_argument(
        "--max-kl", type=float, default=0.1, help="candidate directions that change harmless outputs more are left out"
    )


def alphas(made: argparse.ArgumentParser) -> None:
    """`--alphas`."""
    made.add_argument(
        "--alphas", nargs="*", type=float, default=[0.5, 0.75, 1.0, 1.25, 1.5], help="strengths of ablation"
    )


def judge(made: argparse.ArgumentParser) -> None:
    """`--judge`."""
    made.add_argument(
        "--judge", action="store_true",
        help="also ask the endpoint named by CIRCUITS_JUDGE_URL and CIRCUITS_JUDGE_MODEL; answers are kept with the run",
    )  # fmt: skip


def positive_max_kl(args: argparse.Namespace) -> None:
    """Raise CircuitError for a limit that no candidate can keep."""
    if not args.max_kl > 0:
        raise CircuitError(f"--max-kl {args.max_kl}: a divergence is at least 0; give a positive limit")
