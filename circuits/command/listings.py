"""What there is: cases, bundled models, runs so far; read from the files, without loading a model."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from circuits.case import Case
from circuits.case.config import bundled_models
from circuits.cases import names
from circuits.runs.found import runs_below
from circuits.runs.record import Record

RUNS = Path("runs")


def cases() -> dict[str, Case]:
    """Every case by name."""
    return {name: import_module(f"circuits.cases.{name}.__main__").CASE for name in names()}


def told_cases() -> dict[str, list[str]]:
    """Of every case: its question, and its models."""
    return {
        name: [case.question, f"runs on {case.model} unless told otherwise; the write-up's model is {case.published}"]
        for name, case in cases().items()
    }


def told_models() -> dict[str, list[str]]:
    """Of every bundled model: what it is, and what it is not."""
    return {name: _model(folder) for name, folder in bundled_models().items()}


def _model(folder: Path) -> list[str]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = str(config["architectures"][0]).removesuffix("ForCausalLM")
    saes = sorted(found.name for found in (folder / "sae").glob("*") if found.is_dir())
    said = [
        f"{architecture} architecture, not {architecture.rstrip('0123456789')}: trained from scratch on a synthetic grammar",
        f"{n_parameters(folder) / 1e6:.1f} M parameters, {config['num_hidden_layers']} layers, width {config['hidden_size']}",
    ]
    return [*said, f"with a sparse autoencoder of {', '.join(saes)}"] if saes else said


def n_parameters(folder: Path) -> int:
    """Parameters of a checkpoint, from the header of its file: 8 bytes of length, then JSON with every tensor's shape."""
    with (folder / "model.safetensors").open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def told_runs(limit: int = 3) -> dict[str, list[str]]:
    """The last runs in runs/, the newest first: how each ended, and when its last try began."""
    last = sorted(runs_below(RUNS), key=lambda run: _begun(run.record), reverse=True)[:limit]
    return {str(run.folder.relative_to(RUNS)): [_run(run.record)] for run in last}


def _run(record: Record | None) -> str:
    return "damaged" if record is None else f"{record.status}, {_begun(record) or 'never begun'}"


def _begun(record: Record | None) -> str:
    return record.tries[-1].started if record is not None and record.tries else ""


def text(told: dict[str, list[str]], indent: str = "  ") -> str:
    """Names in a column, what is told of them beside it, as wide as the terminal."""
    if not told:
        return f"{indent}none\n"
    column = max(map(len, told)) + 2
    width = max(40, min(120, shutil.get_terminal_size().columns))
    beside = column + len(indent) < width / 2
    return "".join(_entry(name, lines, indent, column if beside else 4, width) for name, lines in told.items())


def _entry(name: str, lines: Sequence[str], indent: str, column: int, width: int) -> str:
    margin = indent + " " * column
    wrapped = [part for line in lines for part in textwrap.wrap(line, width - len(margin), break_on_hyphens=False)]
    head = f"{indent}{name:<{column}}"
    if len(name) < column and wrapped:
        head += wrapped.pop(0)
    return "".join(f"{line.rstrip()}\n" for line in (head, *(margin + part for part in wrapped)))


def show_cases(_args: argparse.Namespace) -> int:
    """`circuits cases`."""
    sys.stdout.write(text(told_cases(), ""))
    return 0


def show_models(_args: argparse.Namespace) -> int:
    """`circuits models`."""
    sys.stdout.write(text(told_models(), ""))
    return 0
