"""Write a report as a folder that opens from disk in any browser.

index.html          the page, read top to bottom
figures/NAME.html   each figure alone, interactive; NAME.png and NAME.svg where a browser could draw them
tables/ID.csv       each section's table in full
plotly.min.js       once, used by every page; nothing is fetched from the network
report.json         all of it as values, from which the pages can be drawn again (`redraw`)
manifest.json       what it was made from, and the files written
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from circuits.errors import CircuitError, OutputError
from circuits.files import writable, write_whole
from circuits.report import page, stills, stored
from circuits.report.contents import Report

STORED = "report.json"
NOT_ASKED = "still images: not asked for"
_log = logging.getLogger(__name__)


def write(
    report: Report, folder: str | Path, *, images: Literal["auto", "never"] = "auto", begun: stills.Stills | None = None
) -> Path:
    """Write `report` to `folder` and return the path of its index.html.

    Files of an earlier report in the same folder are replaced, and those no longer needed removed; other
    files stay. `begun` is what is drawing still images of this report in its `figures` folder already. What happened
    to them is logged and stands on the page and in manifest.json under `images`. Raises OutputError before anything
    is drawn when names clash or the folder cannot be written.
    """
    report.check()
    root = Path(folder)
    _prepare(root, begun.names if begun is not None else set())
    try:
        with begun or stills.Stills(root / "figures") as drawing:
            return _write(report, root, None if images == "never" else drawing)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot finish {root}: {reason}; make room or choose another folder") from error


def redraw(folder: str | Path, *, images: Literal["auto", "never"] = "auto") -> Path:
    """Write the pages of a report again, as this version draws them, from its report.json; returns index.html.

    Pages that the case wrote beside it (circuit.html) stay as they are. Raises CircuitError where there is no report.json or
    it is damaged, OutputError where the folder cannot be written.
    """
    path = Path(folder) / STORED
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CircuitError(f"cannot read {path}: {error}; run the case again (its blocks are kept)") from error
    return write(stored.from_json(text, str(path)), folder, images=images)


def _prepare(root: Path, begun: set[str]) -> None:
    """Make the folder, prove that it can be written to, and clear what an earlier report left."""
    writable(root)
    try:
        for part in (root, root / "figures", root / "tables"):
            part.mkdir(parents=True, exist_ok=True)
        for part in (root / "figures", root / "tables"):
            if part.is_symlink():
                raise OutputError(f"{part} is a link out of the report's folder; remove it or choose another folder")
        for old in _earlier(root):
            if old.stem not in begun:
                old.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {root}: {reason}; choose another folder") from error


def _text(path: Path, text: str) -> None:
    """Write to `path` itself, whole or not at all: a link that stands there is replaced, never followed."""
    # text of a file name that is no UTF-8 has halves of surrogate pairs
    write_whole(path, text.encode("utf-8", "backslashreplace"))


def _earlier(root: Path) -> list[Path]:
    """Figures and tables that an earlier manifest lists, and that lie directly in their two folders."""
    try:
        listed: Any = json.loads((root / "manifest.json").read_text(encoding="utf-8"))["files"]
        paths = [root / str(name) for name in listed]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [p for p in paths if p.parent in (root / "figures", root / "tables") and p.is_file()]


def _write(report: Report, root: Path, drawing: stills.Stills | None) -> Path:
    from plotly.offline import get_plotlyjs

    written = ["index.html", "plotly.min.js", STORED]
    _text(root / STORED, stored.to_json(report))
    _text(root / "plotly.min.js", get_plotlyjs())
    tables: dict[str, str] = {}
    for section in report.sections:
        if section.table is not None:
            tables[section.id] = f"tables/{section.id}.csv"
            _text(root / tables[section.id], section.table.to_csv(index=False))
    figures = {name: figure for section in report.sections for name, figure in section.figures.items()}
    line = NOT_ASKED
    if drawing is not None:
        drawing.add(figures)
        line = drawing.finish()
    _log.info(line)
    plots: dict[str, page.Plot] = {}
    for name, figure in figures.items():
        kinds = [kind for kind in stills.FORMATS if (root / "figures" / f"{name}.{kind}").is_file()]
        plots[name] = page.plot(name, figure, kinds)
        _text(root / "figures" / f"{name}.html", page.alone(report, plots[name]))
        written += [f"figures/{name}.{kind}" for kind in ("html", *kinds)]
    written += tables.values()
    index = root / "index.html"
    _text(index, page.index(report, plots, tables, line))
    manifest = {
        "title": report.title,
        "model": report.model,
        "pairs": report.pairs,
        "metric": report.metric,
        "certificate": report.certificate,
        "command": report.command,
        "made": dict(report.manifest),
        "verdicts": [asdict(verdict) for verdict in report.verdicts],
        "images": line,
        "files": sorted(written),
    }
    _text(root / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False))
    return index
