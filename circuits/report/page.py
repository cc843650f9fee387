"""The HTML of a report: templates filled with autoescape on, data embedded so that no text can end a script.

Every string of a prompt, token or completion reaches the page either through Jinja's autoescape or inside JSON whose `<`,
`>` and `&` are written as escapes. Control characters, which a browser would drop, are shown as their pictures (␀, ␛). The
policy names the page's own script by its hash, so that no other would run even if it came to stand in the page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, final

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from circuits.draw.theme import page_themes
from circuits.report.contents import Completion, Report

ROWS = 60
"""Rows of a table shown on the page; the CSV has all."""
FOLD = 260
"""Characters of a completion shown before the fold."""
OPEN = 4
"""Prompts of each kind shown before the fold."""
_PICTURES = (
    {c: 0x2400 + c for c in range(0x20) if chr(c) not in "\t\n"} | {0x7F: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), 0xFFFD)
)  # fmt: skip


@final
@dataclass(frozen=True)
class Plot:
    """A figure as a page embeds it."""

    name: str
    json: Markup
    height: int
    width: int | None
    stills: Sequence[str]
    alt: str


def plot(name: str, figure: go.Figure, stills: Sequence[str]) -> Plot:
    """Embed a figure; `stills` are the picture formats that exist for it."""
    layout: Any = figure.layout
    heading = re.sub(r"</?b>", "", str(layout.title.text or name)).replace("<br>", " ")
    return Plot(
        name=name,
        json=embed(str(figure.to_json())),
        height=int(layout.height or 500),
        width=int(layout.width) if layout.width else None,
        stills=stills,
        alt=html.unescape(heading),  # what plotly would show; the template escapes it again
    )


def embed(text: str) -> Markup:
    """JSON text that may stand inside a script element: nothing in it can close that element."""
    safe = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(safe)  # noqa: S704  the three characters that matter are gone


def index(report: Report, plots: Mapping[str, Plot], tables: Mapping[str, str], images: str) -> str:
    """The one page; `tables` maps section ids to the paths of their CSV files."""
    return _fill(
        "page.html.jinja",
        report=report,
        plots=plots,
        tables=tables,
        images=images,
        answers=_answers(report.completions),
        counts=_counts(report.completions),
        marks=" or ".join(dict.fromkeys(c.mark for c in report.completions)).capitalize(),
        settings=list(dict.fromkeys(c.setting for c in report.completions)),
    )


def alone(report: Report, shown: Plot) -> str:
    """The standalone page of one figure."""
    return _fill("figure.html.jinja", report=report, plot=shown)


def cell(value: object) -> str:
    """A table cell: four digits for numbers, a dash for what is undefined."""
    if value is None or value is pd.NaT or value is pd.NA:
        return "–"
    if isinstance(value, float) and not math.isfinite(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    return str(value)


def visible(value: object) -> object:
    """What the page shows of a value: text with its control characters as pictures, and U+FFFD for half a surrogate pair.

    A browser drops NUL and shows nothing for the others; UTF-8 cannot hold the halves, which come with file names.
    """
    return value.translate(_PICTURES) if isinstance(value, str) and not isinstance(value, Markup) else value


def undefined(table: pd.DataFrame) -> int:
    """How many cells of a table are undefined."""
    return int(table.isna().to_numpy().sum())


@cache
def _environment() -> Environment:
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=visible
    )


def policy_hash(text: str) -> str:
    """A script or style as a Content-Security-Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return files("circuits.report").joinpath(name).read_text(encoding="utf-8")


def _fill(template: str, **values: Any) -> str:
    return (
        _environment()
        .from_string(_asset(template))
        .render(
            style=Markup(_asset("style.css")),  # noqa: S704  package data
            script=Markup(_asset("page.js")),  # noqa: S704  package data
            policy=Markup(policy_hash(_asset("page.js"))),  # noqa: S704  base64
            themes=embed(json.dumps(page_themes())),
            cell=cell,
            undefined=undefined,
            rows=ROWS,
            fold=FOLD,
            open=OPEN,
            **values,
        )
    )


def _answers(completions: Sequence[Completion]) -> dict[str, dict[str, list[Completion]]]:
    """Kind -> prompt -> completions, in the order given."""
    found: dict[str, dict[str, list[Completion]]] = {}
    for completion in completions:
        found.setdefault(completion.kind, {}).setdefault(completion.prompt, []).append(completion)
    return found


def _counts(completions: Sequence[Completion]) -> dict[str, dict[str, tuple[int, int]]]:
    """Kind -> setting -> (refused, all)."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for c in completions:
        refused, every = found.setdefault(c.kind, {}).get(c.setting, (0, 0))
        found[c.kind][c.setting] = (refused + c.refused, every + 1)
    return found
