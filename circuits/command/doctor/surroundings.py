"""What is around: a browser for still images, a folder to write to, the model hub, an endpoint. No secret is shown."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from circuits.command.doctor.check import Check
from circuits.command.listings import RUNS

_LEAST: Final = 2**30
"""Bytes that should be free where runs are written."""
_SHOWN: Final = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_SECRET: Final = ("HF_TOKEN", "HF_ENDPOINT", "CIRCUITS_JUDGE_URL", "CIRCUITS_JUDGE_MODEL", "OPENAI_API_KEY")
"""Of these it is said only whether they are set: an address may hold a password."""


def checks() -> Iterator[Check]:
    """Still images, runs/, the hub."""
    yield _stills()
    yield writable(RUNS)
    yield hub()


def _stills() -> Check:
    from circuits.report import stills

    missing = stills._missing()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  what a report would say
    if missing:
        return Check("still images", "note", missing, "for PNG and SVG: pip install kaleido, and Chrome or Chromium")
    browser = stills._browser()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return Check("still images", "ok", f"kaleido, with {browser}", details={"browser": browser})


def writable(folder: Path) -> Check:
    """Whether runs can be written here; a folder that is not there yet is not made."""
    absolute = folder.absolute()
    there = next(place for place in (absolute, *absolute.parents) if place.exists())
    remedy = "run from another folder, or give --out"
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        return Check("runs", "failed", f"cannot write {absolute}: {error.strerror or error}", remedy)
    found, details = f"{absolute}: {free / 2**30:.1f} GiB free", {"folder": str(absolute), "free": free}
    if free < _LEAST:
        return Check("runs", "note", found, f"a report with its data takes some 10 to 100 MB; {remedy}", details)
    return Check("runs", "ok", found, details=details)


def hub() -> Check:
    """Where models of the hub are kept, whether the network may be asked, and what is set."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    n_models = sum(1 for _ in cache.glob("models--*")) if cache.is_dir() else 0
    shown: dict[str, object] = {name: os.environ.get(name) for name in _SHOWN}
    shown |= {name: "set" if os.environ.get(name) else "not set" for name in _SECRET}
    said = ", ".join(f"{name} {value}" for name, value in shown.items() if value not in (None, "not set"))
    offline = "; offline: models must lie there already" if constants.HF_HUB_OFFLINE else ""
    token = f"; HF_TOKEN {shown['HF_TOKEN']}" if shown["HF_TOKEN"] == "not set" else ""
    found = f"{n_models} model{'s' * (n_models != 1)} in {cache}{offline}{f'; {said}' if said else ''}{token}"
    return Check("model hub", "ok", found, details={"cache": str(cache), "models": n_models, **shown})
