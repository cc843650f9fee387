"""A case from the command line: arguments, exit codes. What is asked and answered is the case's own.

    0  done
    2  something asked for cannot be done: one line what, lines that show where, one line what to do
    1  our fault: a traceback

Nothing heavy is imported before the arguments are read, so that --help and a wrong flag answer at once.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from circuits.case.progress import Progress
from circuits.errors import CircuitError, OutputError

_MALLOPT = {-3: 1 << 25, -1: 1 << 29}
"""glibc's M_MMAP_THRESHOLD (the largest it takes) and M_TRIM_THRESHOLD, in bytes."""
_SMALL = 10_000_000
"""Parameters below which a second thread costs more than it brings."""
Option = Callable[[argparse.ArgumentParser], object]
"""Adds an argument."""


@final
@dataclass(frozen=True)
class Case:
    """A question, and the function that answers it. `module` is what follows `python -m`."""

    module: str
    question: str
    study: Callable[[argparse.Namespace, Progress], Path]
    """Runs the case and returns the report's index.html."""
    model: str = "refusal-gemma"
    """The bundled model it runs on by default."""
    published: str = "google/gemma-2b-it"
    """The model that the write-up is about, as one would name it to --model."""
    options: Sequence[Option] = ()
    """Arguments beyond those that all cases share."""
    check: Callable[[argparse.Namespace], object] = lambda _: None
    """Raises CircuitError for numbers that make no sense, before anything is loaded."""


def parser(case: Case) -> argparse.ArgumentParser:
    """The arguments all cases share, and the case's own."""
    made = argparse.ArgumentParser(
        prog=f"python -m {case.module}", description=case.question,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("--model", default=case.model, help=f"hub id ({case.published}), local folder, or bundled name")
    add("--template", choices=("auto", "chat", "none"), default="auto", help="chat template around each prompt")
    add("--metric", default=None, help="refusal:TOKEN, diff:ANSWER,WRONG, diff (each pair's own), log-odds:TOKEN[,…]")
    for option in case.options:
        option(made)
    add("--out", default=None, help="folder for the report; default: runs/<case>/<model>-<id of the inputs>")
    add("--no-images", action="store_true", help="leave out the figures' still images (PNG, SVG)")
    add("--figures", default=None, help="also copy the still images that README shows to this folder")
    add("--trust-remote-code", action="store_true", help="run Python that comes with the model, with your rights")
    add("--device", default="auto", help="cpu, cuda, …; auto takes CUDA where there is one")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add("--seed", type=int, default=0, help="of random controls and resamples")
    add("--max-new-tokens", type=int, default=32, help="length of completions")
    return made


def main(case: Case, argv: Sequence[str] | None = None) -> int:
    """Run a case; returns the exit code."""
    # Read before torch starts its threads: idle ones that spin take the core that the work needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _reuse_memory()
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser(case).parse_args(arguments)
    args.command = shlex.join(["python", "-m", case.module, *arguments])
    try:
        if args.out is not None:
            writable(Path(args.out))
        _check_length(args.max_new_tokens)
        case.check(args)
        index = case.study(args, Progress(total=0))
    except CircuitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was finished is in the output folder\n")
        return 130
    sys.stdout.write(f"report    {index}\n")
    return 0


def _reuse_memory() -> None:
    """Keep the memory of freed activations for the next ones.

    glibc gives every tensor of more than a few hundred kB back at once; asking for it again, page by page, takes a
    sixth of a case's time. At most 512 MB are held. Does nothing with another C library.
    """
    try:
        mallopt: Any = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: CDLL(None) on Windows
        return
    for option, size in _MALLOPT.items():
        mallopt(option, size)


def few_threads(n_parameters: int) -> None:
    """Run a small model on one CPU thread, unless OMP_NUM_THREADS says how many: its products are too short to share.

    Measured with 0.7 M parameters on 2 cores: a case takes two thirds of the time.
    """
    import torch

    if n_parameters < _SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _check_length(tokens: int) -> None:
    if tokens < 1:
        raise CircuitError(f"--max-new-tokens {tokens}: completions need at least one token")


def writable(folder: Path) -> Path:
    """Make the folder and prove that it can be written. Raises OutputError."""
    probe = folder / ".writing"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}; choose another --out") from error
    return folder
