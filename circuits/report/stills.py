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
import time
from collections.abc import Mapping
from pathlib import Path
from queue import Queue
from typing import Any, final

import plotly.graph_objects as go

FORMATS = ("png", "svg")
_WIDTH = 1000
Batches = Queue[list[dict[str, Any]] | None]
"""Figures as they come; None when there will be no more."""


@final
class Stills:
    """Pictures drawn by one browser while other work goes on.

        with Stills(folder) as stills:
            stills.add(figures)          # as soon as there are some
            ...
            line = stills.finish()       # waits for the rest; says what was written or why not

    Gives up when nothing has been drawn `start` seconds after the browser was asked for, or `limit` seconds after
    `finish` was called.
    """

    def __init__(self, folder: Path, *, start: float = 25.0, limit: float = 180.0) -> None:
        self._folder, self._start, self._limit = folder, start, limit
        self._missing = ""
        self._jobs: list[dict[str, Any]] = []
        self._batches: Batches = Queue()
        self._outcome: list[str] = []
        self._worker: threading.Thread | None = None
        self._began = 0.0

    def __enter__(self) -> Stills:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; what waits to be drawn is let go."""
        while not self._batches.empty():
            self._batches.get_nowait()
        self._batches.put(None)

    @property
    def names(self) -> set[str]:
        """Of the figures asked for so far."""
        return {Path(job["path"]).stem for job in self._jobs}

    def add(self, figures: Mapping[str, go.Figure]) -> None:
        """Ask for `NAME.png` and `NAME.svg` of each figure; one that was asked for is not drawn again."""
        known = self.names
        new = [_job(n, f, self._folder, kind) for n, f in figures.items() if n not in known for kind in FORMATS]
        if not new:
            return
        self._jobs += new
        self._missing = self._missing or _missing()
        if self._missing:
            return
        for job in new:
            Path(job["path"]).unlink(missing_ok=True)  # an earlier picture is not this one
        self._batches.put(new)
        if self._worker is None:
            self._began = time.monotonic()
            self._worker = threading.Thread(target=_run, args=(self._batches, self._outcome), daemon=True)
            self._worker.start()

    def finish(self) -> str:
        """Wait until everything is drawn; returns one line on what was written or why not."""
        if not self._jobs:
            return "no figures"
        if self._worker is None:
            return self._missing
        self._batches.put(None)
        self._worker.join(max(0.0, self._began + self._start - time.monotonic()))
        if self._written:
            self._worker.join(self._limit)
        written, wanted = self._written, len(self._jobs)
        if not self._outcome:
            waited = self._limit if written else self._start
            return f"still images: {written} of {wanted}; gave up on the browser after {waited:.0f} s"
        if written < wanted:
            return f"still images: {written} of {wanted}; {self._outcome[0] or 'the browser drew no more'}"
        return f"still images: {written} (PNG and SVG)"

    @property
    def _written(self) -> int:
        return sum(Path(job["path"]).is_file() for job in self._jobs)


def draw(figures: Mapping[str, go.Figure], folder: Path, *, start: float = 25.0, limit: float = 180.0) -> str:
    """Write `NAME.png` and `NAME.svg` for each figure; returns one line on what was written or why not."""
    with Stills(folder, start=start, limit=limit) as stills:
        stills.add(figures)
        return stills.finish()


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


def _run(batches: Batches, outcome: list[str]) -> None:
    """Body of the worker thread: whatever goes wrong becomes one line."""
    try:
        errors = asyncio.run(_draw_all(batches))
        outcome.append("; ".join(sorted({_line(error) for error in errors})))
    except Exception as error:  # noqa: BLE001  a picture must never cost the report
        outcome.append(_line(error))


async def _draw_all(batches: Batches) -> tuple[Exception, ...]:
    import kaleido

    errors: list[Exception] = []
    # mathjax=False: kaleido would otherwise fetch it from the network
    async with kaleido.Kaleido(n=1, timeout=30, mathjax=False) as browser:
        while (jobs := await _next(batches)) is not None:
            errors += await browser.write_fig_from_object(jobs, cancel_on_error=False) or ()
    return tuple(errors)


async def _next(batches: Batches) -> Any:
    """The next figures to draw; None when there will be no more."""
    while batches.empty():  # noqa: ASYNC110  waiting in a thread would keep the program from ending
        await asyncio.sleep(0.05)
    return batches.get_nowait()


def _line(error: Exception) -> str:
    said = str(error.args[0] if error.args else "").strip().splitlines()
    return f"{type(error).__name__}: {said[0][:160]}" if said else type(error).__name__
