"""A case from the command line: arguments, exit codes. What is asked and answered is the case's own.

    0  done
    2  something asked for cannot be done: one line what, lines that show where, one line what to do
    1  our fault: a traceback

`--config FILE.toml` gives flags from a file (see `config`); `--show-config` and `--write-config` make such a file of the flags
given, and run nothing.

Nothing heavy is imported before the arguments are read, so that --help and a wrong flag answer at once.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, final

from circuits import files
from circuits.case import config
from circuits.case.progress import Progress
from circuits.case.unchanged import Unchanged
from circuits.errors import CircuitError

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


@final
class Parser(argparse.ArgumentParser):
    """An argument parser that also reads words made of a file, and says of the file what is wrong with them."""

    file = ""

    def error(self, message: str) -> NoReturn:
        if self.file:
            raise CircuitError(f"{self.file}: {message}\n{self.prog} --help says what each option takes")
        super().error(message)


def parser(case: Case, prog: str | None = None) -> Parser:
    """The arguments all cases share, and the case's own. Every switch can be taken back: --judge by --no-judge."""
    made = Parser(
        prog=prog or f"python -m {case.module}", description=case.question,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="Any switch is taken back with --no- before its name (--no-images by --images), also one set in FILE.toml.",
    )  # fmt: skip
    fill(made, case)
    return made


def fill(made: argparse.ArgumentParser, case: Case) -> None:
    """Give a parser a case's arguments."""
    add = made.add_argument
    add("--model", default=case.model, help=f"hub id ({case.published}), local folder, or bundled name")
    add("--template", choices=("auto", "chat", "none"), default="auto", help="chat template around each prompt")
    add("--metric", default=None, help="refusal:TOKEN, diff:ANSWER,WRONG, diff (each pair's own), log-odds:TOKEN[,…]")
    for option in case.options:
        option(made)
    add("--out", default=None, help="folder for the report; default: runs/<case>/<model>-<id of the inputs>")
    add("--again", action="store_true", help="compute everything anew, also where a run of the same inputs is complete")
    add("--no-images", action="store_true", help="leave out the figures' still images (PNG, SVG)")
    add("--figures", default=None, help="also copy the still images that README shows to this folder")
    add("--trust-remote-code", action="store_true", help="run Python that comes with the model, with your rights")
    add("--device", default="auto", help="cpu, cuda, …; auto takes CUDA where there is one")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add("--ray", default=None, metavar="ADDRESS", help="sweep on workers: local, auto, HOST:PORT or ray://HOST:PORT")
    add("--ray-workers", type=int, default=None, metavar="N", help="how many; default: as many as there is room for")
    add("--seed", type=int, default=0, help="of random controls and resamples")
    add("--max-new-tokens", type=int, default=32, help="length of completions")
    _take_back(made)
    unset = argparse.SUPPRESS  # what is read is then the same as when the flags had been typed
    add("--config", metavar="FILE.toml", default=unset, help="flags from a file; what is typed as well overrides them")
    add("--show-config", action="store_true", default=unset, help="print the flags as such a file, and run nothing")
    add("--write-config", metavar="FILE.toml", default=unset, help="write them to a new file, and run nothing")


def _take_back(made: argparse.ArgumentParser) -> None:
    """Give every switch its counterpart, so that a flag overrides a file in both directions."""
    for name, action in list(config.options(made)):
        if action.nargs == 0 and action.const is True:
            other = name.removeprefix("no-") if name.startswith("no-") else f"no-{name}"
            made.add_argument(
                f"--{other}", dest=action.dest, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )


def read(made: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Read arguments, and the file that --config names: the same as if its flags had been typed before the others.

    Raises CircuitError for what is wrong with the file; argparse ends the program for a wrong flag.
    """
    args = made.parse_args(arguments)
    if "config" not in args:
        return args
    words = config.words(made, args.config)
    made.file = args.config
    made.parse_args(words)
    made.file = ""
    args = made.parse_args([*words, *arguments])
    vars(args).pop("config")
    return args


def main(case: Case, argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run a case; returns the exit code. `prog` is how it was called, where not by `python -m`."""
    # Read before torch starts its threads: idle ones that spin take the core that the work needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    legible()
    _reuse_memory()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _require_text(arguments)
        args = read(parser(case, prog), arguments)
        shown, target = vars(args).pop("show_config", False), vars(args).pop("write_config", None)
        _check_length(args.max_new_tokens)
        _check_workers(args)
        case.check(args)
        if shown or target is not None:
            _configuration(args, target, shown=shown)
            return 0
        args.command = shlex.join(["python", "-m", case.module, *arguments])
        if args.out is not None:
            writable(Path(args.out))
        index = _studied(case, args)
    except CircuitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was finished is in the output folder\n")
        return 130
    sys.stdout.write(f"report    {index}\n")
    return 0


def _studied(case: Case, args: argparse.Namespace) -> Path:
    """The report, computed or found."""
    progress = Progress(total=0)
    try:
        return case.study(args, progress)
    except Unchanged as found:
        progress.say("run", f"{found}; --again computes it anew")
        return found.index


def legible() -> None:
    """Where the terminal's encoding has no sign for a character, show its escape instead of stopping."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _configuration(args: argparse.Namespace, target: str | None, *, shown: bool) -> None:
    if target is not None:
        config.write(args, Path(target))
        sys.stderr.write(f"wrote {target}\n")
    if shown:
        sys.stdout.write(config.written(args, Path.cwd()))


def _require_text(arguments: Sequence[str]) -> None:
    for word in arguments:
        if not word.isprintable() and any("\ud800" <= character <= "\udfff" for character in word):
            raise CircuitError(f"{word!a} is not UTF-8 text; rename the file or set the terminal's encoding to UTF-8")


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


def _check_workers(args: argparse.Namespace) -> None:
    if args.ray is None and args.ray_workers is not None:
        raise CircuitError("--ray-workers is how many workers --ray has; give --ray local for some on this machine")
    if args.ray is not None and not args.ray.strip():
        raise CircuitError("--ray is empty; give local, auto, HOST:PORT or ray://HOST:PORT")


def _check_length(tokens: int) -> None:
    if tokens < 1:
        raise CircuitError(f"--max-new-tokens {tokens}: completions need at least one token")


def writable(folder: Path) -> Path:
    """Make the folder and prove that it can be written. Raises OutputError."""
    return files.writable(folder, otherwise="choose another --out")
