"""How a report was made: the manifest, what each step took, the folder it goes to, the stills that README shows."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from circuits.case.command import writable
from circuits.case.progress import Progress
from circuits.errors import OutputError
from circuits.model import Model
from circuits.result import versions


def folder(args: argparse.Namespace, case: str, model: Model, identity: Sequence[object]) -> Path:
    """Where the run goes: the same inputs give the same folder, other inputs another."""
    if args.out is not None:
        return writable(Path(args.out))
    digest = hashlib.sha256(repr((model.hash, args.dtype, *identity)).encode()).hexdigest()[:8]
    return writable(Path("runs") / case / f"{model.name.replace('/', '--')}-{digest}")


def bundled_note(model: Model) -> str:
    """What must not be misread about a bundled model; empty for others."""
    if model.origin != "bundled":
        return ""
    architecture = type(model.hf).__name__.removesuffix("ForCausalLM")
    brand = architecture.rstrip("0123456789")
    return (
        f"A small model trained from scratch on a synthetic grammar: it has {architecture}'s architecture and is not {brand}."
    )


def steps_table(progress: Progress) -> pd.DataFrame:
    """What each measurement took and cost, and all of them together."""
    table = pd.DataFrame([
        {"step": name, "seconds": round(seconds, 2), "forward passes": round(progress.passes[name])}
        for name, seconds in progress.seconds.items()
    ])  # fmt: skip
    whole = {"step": "all", "seconds": table["seconds"].sum(), "forward passes": table["forward passes"].sum()}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


def manifest(args: argparse.Namespace, model: Model, prompts: str, seconds: float) -> dict[str, str]:
    """What it was made from."""
    proved = ", ".join(f"{fact} {value:.1e}" for fact, value in model.facts.items())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "model": f"{model.title}, hash {model.hash}, {args.dtype} on {model.device}",
        "proved on load": proved,
        "prompts": prompts,
        "seed": str(args.seed),
        "seconds": f"{seconds:.1f} before the report was written",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def copy_stills(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy the still images that README shows. Raises OutputError where one was not drawn."""
    writable(target)
    missing = [name for name in names if not (source / f"{name}.png").is_file()]
    if missing:
        raise OutputError(f"no still image of {', '.join(missing)}: kaleido and a browser are needed (see the report)")
    for name in names:
        shutil.copy2(source / f"{name}.png", target / f"{name}.png")
