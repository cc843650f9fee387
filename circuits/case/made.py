"""How a report was made: the manifest, what each step took, the stills that README shows."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from circuits.case.command import writable
from circuits.case.drawn import FILE, described
from circuits.case.progress import Progress
from circuits.errors import OutputError
from circuits.model import Model
from circuits.report import Report
from circuits.runs.record import Record


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


def manifest(record: Record, model: Model, prompts: str, seconds: float) -> dict[str, str]:
    """What it was made from; all of it stands in run.json."""
    proved = ", ".join(f"{fact} {value:.1e}" for fact, value in model.facts.items())
    asked = {name: value for name, value in record.configuration.items() if value is not None}
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "model": f"{model.title}, {record.model['dtype']} on {record.model['device']}",
        "weights, tokenizer": f"{record.model['weights']}, {record.model['tokenizer']} (sha256)",
        "proved on load": proved,
        "prompts": prompts,
        "seed": str(record.seed),
        "configuration": ", ".join(f"{name.replace('_', '-')} = {value}" for name, value in asked.items()),
        "seconds": f"{seconds:.1f} before the report was written",
        "code": record.code,
        "versions": ", ".join(f"{name} {version}" for name, version in record.packages.items()),
    }


def copy_stills(report: Report, source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy the still images that README shows, and write beside them what they were drawn from (`drawn`).

    Raises OutputError where one was not drawn.
    """
    writable(target)
    missing = [name for name in names if not (source / f"{name}.png").is_file()]
    if missing:
        raise OutputError(f"no still image of {', '.join(missing)}: kaleido and a browser are needed (see the report)")
    figures = {name: figure for section in report.sections for name, figure in section.figures.items()}
    kept: dict[str, Any] = {}
    for name in names:
        raw = (source / f"{name}.png").read_bytes()
        (target / f"{name}.png").write_bytes(raw)
        kept[name] = {"png": hashlib.sha256(raw).hexdigest(), **described(figures[name])}
    (target / FILE).write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
