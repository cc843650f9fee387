"""Write a report as a folder that opens from disk in any browser.

index.html          the page, read top to bottom
figures/NAME.html   each figure alone, interactive; NAME.png and NAME.svg where a browser could draw them
tables/ID.csv       each section's table in full
plotly.min.js       once, used by every page; nothing is fetched from the network
manifest.json       what it was made from, and the files written
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from circuits.errors import OutputError
from circuits.report import page, stills
from circuits.report.contents import Report

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


def _prepare(root: Path, begun: set[str]) -> None:
    """Make the folder, prove that it can be written to, and clear what an earlier report left."""
    probe = root / ".writing"
    try:
        for part in (root, root / "figures", root / "tables"):
            part.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
        probe.unlink()
        for old in _earlier(root):
            if old.stem not in begun:
                old.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {root}: {reason}; choose another folder") from error


def _earlier(root: Path) -> list[Path]:
    """Figures and tables that an earlier manifest lists, and that lie directly in their two folders."""
    try:
        listed: Any = json.loads((root / "manifest.json").read_text(encoding="utf-8"))["files"]
        paths = [root / str(name) for name in listed]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [p for p in paths if p.parent in (root / "figures", root / "tables") and p.is_file()]


def _write(report: Report, root: Path, drawing: stills.Stills | None) -> Path:
    from plotly.offline import get_plotlyjs

    written = ["index.html", "plotly.min.js"]
    (root / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    tables: dict[str, str] = {}
    for section in report.sections:
        if section.table is not None:
            tables[section.id] = f"tables/{section.id}.csv"
            section.table.to_csv(root / tables[section.id], index=False)
    figures = {name: figure for section in report.sections for name, figure in section.figures.items()}
    line = "still images: not asked for"
    if drawing is not None:
        drawing.add(figures)
        line = drawing.finish()
    _log.info(line)
    plots: dict[str, page.Plot] = {}
    for name, figure in figures.items():
        kinds = [kind for kind in stills.FORMATS if (root / "figures" / f"{name}.{kind}").is_file()]
        plots[name] = page.plot(name, figure, kinds)
        (root / "figures" / f"{name}.html").write_text(page.alone(report, plots[name]), encoding="utf-8")
        written += [f"figures/{name}.{kind}" for kind in ("html", *kinds)]
    written += tables.values()
    index = root / "index.html"
    index.write_text(page.index(report, plots, tables, line), encoding="utf-8")
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
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    return index
