"""PNG and SVG of every figure, through one headless browser, where there is one.

Pictures are a courtesy: without kaleido, without a browser, or with one that hangs, the report is complete
and says in one line what is missing. All figures go through one browser, in a thread of its own, so that it
also works inside a notebook's event loop and a stuck browser holds the report up for seconds, not for ever.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

FORMATS = ("png", "svg")
_WIDTH = 1000


def draw(figures: Mapping[str, go.Figure], folder: Path, *, start: float = 25.0, limit: float = 180.0) -> str:
    """Write `NAME.png` and `NAME.svg` for each figure; returns one line on what was written or why not.

    Gives up when nothing has been drawn `start` seconds after the browser was asked for, or after `limit`.
    """
    if not figures:
        return "no figures"
    missing = _missing()
    if missing:
        return missing
    jobs = [_job(name, figure, folder, kind) for name, figure in figures.items() for kind in FORMATS]
    outcome: list[str] = []
    worker = threading.Thread(target=_run, args=(jobs, outcome), daemon=True)
    worker.start()
    worker.join(start)
    if any(Path(job["path"]).is_file() for job in jobs):
        worker.join(max(0.0, limit - start))
    written = sum(Path(job["path"]).is_file() for job in jobs)
    if not outcome:
        waited = limit if written else start
        return f"still images: {written} of {len(jobs)}; gave up on the browser after {waited:.0f} s"
    if written < len(jobs):
        return f"still images: {written} of {len(jobs)}; {outcome[0] or 'the browser drew no more'}"
    return f"still images: {written} (PNG and SVG)"


def _missing() -> str:
    """Why no picture can be drawn, found without starting anything; empty when it can be tried."""
    if importlib.util.find_spec("kaleido") is None:
        return "no still images: kaleido is not installed (pip install kaleido); the pages need none"
    if _browser() is None:
        return "no still images: no Chrome or Chromium was found; the pages need none"
    return ""


def _browser() -> str | None:
    """Path of the browser kaleido would start."""
    try:
        from choreographer.browsers.chromium import Chromium

        found = Chromium.find_browser(skip_local=False)
    except (ImportError, AttributeError):  # other versions of kaleido look by name only
        names = ("chromium", "chromium-browser", "google-chrome", "chrome")
        found = next((path for path in map(shutil.which, names) if path), None)
    return str(found) if found and shutil.which(str(found)) else None


def _job(name: str, figure: go.Figure, folder: Path, kind: str) -> dict[str, Any]:
    layout: Any = figure.layout
    size = {"width": layout.width or _WIDTH, "height": layout.height or 600}
    return {
        "fig": figure,
        "path": str(folder / f"{name}.{kind}"),
        "opts": {"format": kind, "scale": 2 if kind == "png" else 1, **size},
    }


def _run(jobs: list[dict[str, Any]], outcome: list[str]) -> None:
    """Body of the worker thread: whatever goes wrong becomes one line."""
    try:
        errors = asyncio.run(_draw_all(jobs))
        outcome.append("; ".join(sorted({_line(error) for error in errors})))
    except Exception as error:  # noqa: BLE001  a picture must never cost the report
        outcome.append(_line(error))


async def _draw_all(jobs: Any) -> tuple[Exception, ...]:
    import kaleido

    # mathjax=False: kaleido would otherwise fetch it from the network
    async with kaleido.Kaleido(n=1, timeout=30, mathjax=False) as browser:
        return tuple(await browser.write_fig_from_object(jobs, cancel_on_error=False) or ())


def _line(error: Exception) -> str:
    said = str(error.args[0] if error.args else "").strip().splitlines()
    return f"{type(error).__name__}: {said[0][:160]}" if said else type(error).__name__
