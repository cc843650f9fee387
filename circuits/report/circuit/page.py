"""The one file: template, scripts and data in a page that may fetch nothing.

Every text of a graph reaches the page through Jinja's autoescape or inside JSON that no text can end; the scripts only
ever write it as text. The policy names the page's own scripts and styles by their hashes, so that nothing else would run
even if it came to stand in the page.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from circuits.draw import theme
from circuits.errors import CircuitError, OutputError
from circuits.graph.receivers import EDGE_KINDS
from circuits.graph.scalars import writable
from circuits.report.circuit.contents import AnyGraph, Contents, read
from circuits.report.circuit.curve import points
from circuits.report.circuit.layout import place
from circuits.report.circuit.levels import levels, opening
from circuits.report.page import cell, embed, policy_hash, visible
from circuits.stats import ALPHA

SCRIPTS: Final = ("words", "state", "looks", "drawing", "axes", "panel", "amount", "controls", "picture", "circuit")
"""The parts of the page's script, in the order in which they stand."""
STATIC: Final = 100
"""Edges in the table that a reader without scripts sees."""


def write_page(
    graph: AnyGraph, path: str | Path, *, curve: pd.DataFrame | None = None, title: str = "The circuit",
    size: str | None = None,
) -> Path:  # fmt: skip
    """Write the page of `graph` to `path`, whole or not at all, and return the path.

    `graph` is a directed graph or multigraph as `component_graph` or `load_graph` returns it. `curve` has one row per
    pruning (`curve.points` says which columns). `size` names the attribute that the components are sized by: `effect`, or
    the one that most of them have with an interval, unless it is given.

    Raises CircuitError for a graph or a curve that cannot be shown, and OutputError where nothing can be written.
    """
    path = Path(path)
    if path.suffix.lower() not in {".html", ".htm"}:
        raise OutputError(f"{path.name}: a page ends in .html; `export` writes the graph in other formats")
    text = circuit_page(graph, curve=curve, title=title, size=size)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        with suppress(OSError, ValueError):
            part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {path}: {reason}; choose another folder") from error
    return path


def circuit_page(
    graph: AnyGraph, *, curve: pd.DataFrame | None = None, title: str = "The circuit", size: str | None = None
) -> str:
    """The page as text, for the `srcdoc` of a frame in a notebook; arguments and errors as in `write_page`."""
    contents = read(graph)
    data = _data(contents, curve, size) | {"title": writable(title, "title")}
    style = _asset("style.css") + _asset("circuit/circuit.css")
    parts = "".join(_asset(f"circuit/script/{name}.js") for name in SCRIPTS)
    script, library = f'(() => {{\n"use strict";\n{parts}}})();', _library()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=visible
    )
    template = environment.from_string(_asset("circuit/circuit.html.jinja"))
    return template.render(
        title=title,
        facts=contents.facts,
        style=Markup(style),  # noqa: S704  package data
        library=Markup(library),  # noqa: S704  package data
        script=Markup(script),  # noqa: S704  package data
        data=embed(json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))),
        scripts=Markup(f"{policy_hash(library)} {policy_hash(script)}"),  # noqa: S704  base64
        styles=Markup(policy_hash(style)),  # noqa: S704  base64
        nodes=contents.nodes,
        strongest=list({edge.measurement: edge for edge in reversed(contents.edges)}.values())[::-1][:STATIC],
        total=contents.total,
        cell=cell,
    )


def _data(contents: Contents, curve: pd.DataFrame | None, size: str | None) -> dict[str, Any]:
    """What the scripts read."""
    layout = place(contents.nodes)
    stops = levels(contents)
    measured = [] if curve is None else points(curve, contents)
    drawn = [point for point in measured if point.edges <= contents.measured]
    return {
        "facts": list(contents.facts.items()),
        "nodes": [
            {"id": node.id, "kind": node.kind, "group": node.group, "has": node.has, "sure": node.sure,
             "label": layout.labels[i], "x": round(layout.x[i], 1), "y": round(layout.y[i], 1)}
            for i, node in enumerate(contents.nodes)
        ],
        "edges": [asdict(edge) for edge in contents.edges],
        "measures": [asdict(measure) for measure in contents.measures],
        "edgeMeasures": [asdict(measure) for measure in contents.edge_measures],
        "size": _size(contents, size),
        "levels": [asdict(stop) for stop in stops],
        "opening": opening(stops),
        "total": contents.total,
        "measured": contents.measured,
        "leftOut": contents.total - contents.measured,
        "curve": [asdict(point) for point in drawn],
        "beyond": len(measured) - len(drawn),
        "columns": [asdict(strip) for strip in layout.columns],
        "lanes": [asdict(strip) for strip in layout.lanes],
        "largest": layout.style.largest,
        "font": layout.style.font,
        "kinds": [kind for kind in EDGE_KINDS if any(edge.kind == kind for edge in contents.edges)],
        "colours": _colours([node.group for node in contents.nodes]),
        "signs": {scheme: dict(zip(("negative", "positive"), _signs(scheme), strict=True)) for scheme in ("light", "dark")},
        "alpha": ALPHA,
    }  # fmt: skip


def _size(contents: Contents, wanted: str | None) -> str | None:
    """The measure that nodes are sized by; None where nodes have no number."""
    names = [measure.name for measure in contents.measures]
    if wanted is not None:
        if wanted not in names:
            raise CircuitError(f"size: no node has the number {wanted!r}; there are {', '.join(names) or 'none'}")
        return wanted
    if "effect" in names:
        return "effect"
    known = {m.name: sum(m.name in node.has for node in contents.nodes) for m in contents.measures if m.low is not None}
    return max(known, key=known.__getitem__) if known else next(iter(names), None)


def _colours(groups: Sequence[str]) -> dict[str, str]:
    """Colour of each class: its own in the theme, else one that is neither taken nor the colour of a sign."""
    signs = {theme.POSITIVE, theme.NEGATIVE}
    names = list(dict.fromkeys(groups))
    own = theme.CLASS_COLOURS
    fixed = {name: own[name.lower()] for name in names if own.get(name.lower(), theme.POSITIVE) not in signs}
    usable = [colour for colour in theme.PALETTE if colour not in signs]
    free = [colour for colour in usable if colour not in fixed.values()] or usable
    rest = [name for name in names if name not in fixed]
    return {name: fixed[name] if name in fixed else free[rest.index(name) % len(free)] for name in names}


def _signs(scheme: theme.Scheme) -> tuple[str, str]:
    """Colours of negative and positive effects: those of the diverging scale where it is clearly coloured."""
    stops = [str(colour) for _, colour in theme.scale("diverging", scheme)]
    return stops[1], stops[-2]


@cache
def _asset(name: str) -> str:
    return files("circuits.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """cytoscape.js; vendor/NOTICE says which release."""
    packed = files("circuits.report").joinpath("circuit/vendor/cytoscape.min.js.gz").read_bytes()
    return gzip.decompress(packed).decode("utf-8")
