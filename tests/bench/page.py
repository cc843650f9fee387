"""Tables, printed as they are measured, kept as data, and put into the page.

What was measured stands in `benchmark.json` next to the page, section by section; the page is made from it and from
the template. So a section that needs another machine is measured there and stays when the others are measured again.
"""

from __future__ import annotations

import datetime as dt
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import torch

TEMPLATE = Path(__file__).with_name("page.md.jinja")
PAGE = Path(__file__).parents[2] / "docs" / "benchmark.md"


@dataclass
class Table:
    """Rows of text under headings, the first column wide."""

    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    wide: int = 48
    quiet: bool = False

    def head(self) -> Table:
        """Print the headings."""
        print(self._line(self.columns), flush=True)
        print(self._line(["---"] * len(self.columns)), flush=True)
        return self

    def add(self, *cells: str) -> None:
        """Keep a row and print it."""
        self.rows.append(cells)
        if not self.quiet:
            print(self._line(cells), flush=True)

    @property
    def text(self) -> str:
        """As Markdown."""
        return "\n".join(self._line(row) for row in (self.columns, ["---"] * len(self.columns), *self.rows))

    def _line(self, cells: Sequence[str]) -> str:
        widths = [self.wide, *(max(8, len(column)) for column in self.columns[1:])]
        return "| " + " | ".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=True)) + " |"


def section(about: str, **found: Any) -> dict[str, Any]:
    """What a section measured, and on what."""
    threads = torch.get_num_threads()
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{threads} CPU thread{'s' * (threads > 1)}"
    versions = ", ".join(
        f"{name} {version(name).split('+')[0]}" for name in ("torch", "transformers", "transformer-lens")
    )
    today = dt.datetime.now(dt.UTC).date().isoformat()
    return {"about": about, "on": f"{on} ({platform.machine()}), {versions}, {today}", **found}


def times(x: float) -> str:
    """A ratio, as it is said."""
    return f"{x:.0f}×" if x >= 100 else f"{x:.1f}×" if x >= 10 else f"{x:.2f}×"


def percent(x: float) -> str:
    """A share."""
    return f"{100 * x:.0f} %" if abs(x) >= 0.1 else f"{100 * x:.1f} %"


def write(page: Path, found: dict[str, dict[str, Any]], command: str) -> None:
    """Add what was found to the page's data, and make the page again."""
    data = page.with_suffix(".json")
    known: dict[str, Any] = json.loads(data.read_text()) if data.exists() else {}
    known |= {name: {**measured, "by": command} for name, measured in found.items()}
    page.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    options = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(**options, keep_trailing_newline=True)  # noqa: S701  Markdown, not HTML
    page.write_text(environment.from_string(TEMPLATE.read_text()).render(found=known))
