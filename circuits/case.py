"""A case from the command line: arguments, progress, exit codes. What is asked and answered is the case's own.

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
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

from circuits.errors import CircuitError, OutputError, SiteError

if TYPE_CHECKING:
    from circuits.result import Result

R = TypeVar("R")

_MALLOPT = {-3: 1 << 25, -1: 1 << 29}
"""glibc's M_MMAP_THRESHOLD (the largest it takes) and M_TRIM_THRESHOLD, in bytes."""
_SMALL = 10_000_000
"""Parameters below which a second thread costs more than it brings."""


@final
@dataclass(frozen=True)
class Case:
    """A question, and the function that answers it. `module` is what follows `python -m`."""

    module: str
    question: str
    study: Callable[[argparse.Namespace, Progress], Path]
    """Runs the case and returns the report's index.html."""


@final
@dataclass
class Progress:
    """Steps with a bar each on a terminal, a line each elsewhere; remembers what each took."""

    total: int
    done: int = 0
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    passes: dict[str, float] = field(default_factory=dict[str, float])
    """Forward passes of one prompt that a step ran, where it says so."""

    def say(self, label: str, text: str) -> None:
        """One line of what is being worked with."""
        sys.stdout.write(f"{label:<10}{text}\n")
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """Text as it is."""
        sys.stdout.write(text + "\n")

    def step(self, name: str, work: Callable[[], R], note: Callable[[R], str] = lambda _: "") -> R:
        """Run one step; `note` makes the few words that follow its name when it is done."""
        self.done += 1
        label = f"{self.done}/{self.total} {name}"
        start = time.perf_counter()
        with _bar(label):
            result = work()
        self.seconds[name] = time.perf_counter() - start
        said = note(result)
        sys.stdout.write(f"{label:<28}{self.seconds[name]:6.1f} s{'  ' + said if said else ''}\n")
        sys.stdout.flush()
        return result


@contextmanager
def _bar(label: str) -> Generator[None]:
    """A bar that lives as long as its step, on a terminal; nothing elsewhere."""
    if not sys.stdout.isatty():
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from circuits.engine.progress import listening

    columns = (TextColumn(f"{label:<28}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bars:
        task = bars.add_task(label, total=1.0)

        def advance(share: float) -> None:
            if bars.tasks[0].completed >= 1 - 1e-9:  # a step of several sweeps begins again
                bars.reset(task)
            bars.advance(task, share)

        with listening(advance):
            yield


def parser(case: Case) -> argparse.ArgumentParser:
    """The arguments all cases share."""
    made = argparse.ArgumentParser(
        prog=f"python -m {case.module}", description=case.question,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("--model", default="refusal-gemma", help="hub id, local folder, or bundled name")
    add(
        "--pairs", default=None, help="CSV or JSON of pairs (columns clean, corrupt[, answer, wrong]); default: bundled"
    )
    add("--template", choices=("auto", "chat", "none"), default="auto", help="chat template around each prompt")
    add("--drop-misaligned", action="store_true", help="leave out pairs that do not align instead of stopping")
    add("--metric", default=None, help="refusal:TOKEN, diff:ANSWER,WRONG, diff (each pair's own), log-odds:TOKEN[,…]")
    for group in ("early", "middle", "late"):
        add(
            f"--layers-{group}", default=None, metavar="A:B", help=f"{group} layers, A to B-1; default: a third of them"
        )
    add("--groups", nargs="+", default=None, metavar="NAME=A:B", help="other groups of layers, in place of the three")
    add("--threshold", type=float, default=0.2, help="score from which a head is direct or diagonal")
    add("--max-kl", type=float, default=0.1, help="candidate directions that change harmless outputs more are left out")
    add("--diverse", default=None, help="CSV, JSON or text of unpaired instructions (columns instruction, label)")
    add("--out", default=None, help="folder for the report; default: runs/<case>/<model>-<id of the inputs>")
    add("--no-images", action="store_true", help="leave out the figures' still images (PNG, SVG)")
    add("--figures", default=None, help="also copy the still images that README shows to this folder")
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
        _check_numbers(args)
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


def _check_numbers(args: argparse.Namespace) -> None:
    if args.max_new_tokens < 1:
        raise CircuitError(f"--max-new-tokens {args.max_new_tokens}: completions need at least one token")
    if not 0 < args.threshold <= 1:
        raise CircuitError(f"--threshold {args.threshold}: attention scores lie between 0 and 1")


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


def layer_groups(args: argparse.Namespace) -> dict[str, list[int]] | None:
    """The groups asked for, by --groups or --layers-…; None for the default thirds.

    Raises SiteError for text that is no range, a group without layers, or only some of the three.
    """
    if args.groups is not None:
        named = [text.partition("=") for text in args.groups]
        unnamed = [name + eq + span for name, eq, span in named if not (name and eq)]
        if unnamed:
            raise SiteError(f"--groups {unnamed[0]}: write NAME=A:B, e.g. early=0:6")
        return {name: _span(f"--groups {name}", span) for name, _, span in named}
    given = {g: getattr(args, f"layers_{g}") for g in ("early", "middle", "late")}
    if all(span is None for span in given.values()):
        return None
    missing = [f"--layers-{g}" for g, span in given.items() if span is None]
    if missing:
        raise SiteError(f"{' and '.join(missing)} not given: name all three groups, or none for thirds")
    return {g: _span(f"--layers-{g}", span) for g, span in given.items()}


def _span(flag: str, text: str) -> list[int]:
    """`A:B` (A to B−1), `A-B` (A to B), or `A,B,C`."""
    try:
        if ":" in text:
            a, b = (int(part) for part in text.split(":"))
            layers = list(range(a, b))
        elif "-" in text:
            a, b = (int(part) for part in text.split("-"))
            layers = list(range(a, b + 1))
        else:
            layers = [int(part) for part in text.split(",")]
    except ValueError:
        raise SiteError(f"{flag}: {text!r} is no range of layers; write A:B (A to B-1), A-B, or A,B,C") from None
    if not layers:
        raise SiteError(f"{flag}: {text!r} holds no layer; A:B means A to B-1")
    return layers


def save(folder: Path, results: dict[str, Result]) -> None:
    """Every result's frame, tensors and provenance, under its name."""
    for name, result in results.items():
        result.save(folder, name=name)


def versions_line(found: dict[str, Any]) -> str:
    """Versions in one line."""
    return ", ".join(f"{name} {version}" for name, version in found.items())
