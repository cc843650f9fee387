"""The picture of the architecture: rooms in the order in which they may import each other, drawn from the code.

    python docs/site/rooms.py            writes docs/rooms.svg

1. The rows are ORDER of tests/test_structure.py, which the tests enforce. 2. An arrow runs from a room to one that it
imports; those that follow from others are left out (transitive reduction). 3. Within a row rooms are sorted by the mean
place of their neighbours. Nothing is random, and nothing depends on anything but names and imports.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "rooms.svg"
WIDTH, ROW, HIGH, EDGE = 960, 78, 36, 30
"""Pixels: the picture's width, from row to row, a box, the margin."""
SWEEPS = 8
_LETTER, _PADDING = 9, 22
_FONT = 'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="15"'
_TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#78909c"/></marker></defs>'
)
_COLOURS = ("#eceff1", "#e3f2fd", "#e8f5e9", "#fff8e1", "#fce4ec")


@cache
def order() -> list[tuple[str, ...]]:
    """Rows of rooms, lowest first; rooms that do not exist are left out."""
    tree = ast.parse((ROOT / "tests" / "test_structure.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER":
            rows: tuple[tuple[str, ...], ...] = ast.literal_eval(node.value)
            return [kept for row in rows if (kept := tuple(name for name in row if sources(name)))]
    raise LookupError("tests/test_structure.py has no ORDER")


def sources(room: str) -> list[Path]:
    """Files of a room; none where there is no such room."""
    home = ROOT / "circuits" / room
    return sorted(home.rglob("*.py")) or [p for p in [home.with_suffix(".py")] if p.is_file()]


@cache
def imports() -> nx.DiGraph[str]:
    """Room -> room that it imports, for type checking too."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    names = {room for row in order() for room in row}
    graph.add_nodes_from(sorted(names))
    for room in sorted(names):
        for path in sources(room):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                graph.add_edges_from((room, used) for used in _used(node) if used in names - {room})
    return graph


def _used(node: ast.AST) -> list[str]:
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == "circuits":
        modules = [f"circuits.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        modules = [node.module]
    return [module.split(".")[1] for module in modules if module.startswith("circuits.")]


def laid(rows: list[tuple[str, ...]], graph: nx.DiGraph[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows with a free place wherever an arrow passes, and every arrow as the places it runs through."""
    level = {room: i for i, row in enumerate(rows) for room in row}
    full, ways = [list(row) for row in rows], list[list[str]]()
    for user, used in sorted(graph.edges):
        between = [(f"{user}>{used}", i) for i in range(level[user] - 1, level[used], -1)]
        for name, i in between:
            full[i].append(f"{name}@{i}")
        ways.append([user, *(f"{name}@{i}" for name, i in between), used])
    return full, ways


def places(rows: list[list[str]], ways: list[list[str]]) -> dict[str, tuple[float, float]]:
    """Centre of every place, top row first; each row sorted by the mean place of its neighbours."""
    near: dict[str, set[str]] = {name: set() for row in rows for name in row}
    for way in ways:
        for one, other in pairwise(way):
            near[one].add(other)
            near[other].add(one)
    at: dict[str, float] = {}
    for row in rows:
        at |= _spread(row)
    for turn in range(SWEEPS):
        for row in rows if turn % 2 == 0 else rows[::-1]:
            mean = {name: sum(at[n] for n in near[name]) / len(near[name]) if near[name] else at[name] for name in row}
            row.sort(key=lambda name: (round(mean[name], 3), name))
            at |= _spread(row)
    top = EDGE / 2 + HIGH / 2
    return {name: (at[name], top + (len(rows) - 1 - i) * ROW) for i, row in enumerate(rows) for name in row}


def _spread(row: list[str]) -> dict[str, float]:
    """Side by side, as far apart as the picture is wide."""
    gap = (WIDTH - 2 * EDGE - sum(map(_wide, row))) / (len(row) + 1)
    x, found = EDGE + gap, dict[str, float]()
    for name in row:
        found[name] = round(x + _wide(name) / 2, 1)
        x += _wide(name) + gap
    return found


def _wide(name: str) -> float:
    return 6 if ">" in name else len(name) * _LETTER + _PADDING


def _curve(points: list[tuple[float, float]]) -> str:
    """From the foot of the first box to the head of the last, upright in every row."""
    (x, y), *rest = points
    y += HIGH / 2
    said = f"M{x:g} {y:g}"
    for i, (x1, y1) in enumerate(rest):
        below = y1 - HIGH / 2 if i == len(rest) - 1 else y1
        bend = (below - y) / 2
        said += f"C{x:g} {y + bend:g} {x1:g} {below - bend:g} {x1:g} {below:g}"
        x, y = x1, below
    return said


def draw() -> str:
    """The picture, as SVG."""
    rows, ways = laid(order(), nx.transitive_reduction(imports()))
    at = places(rows, ways)
    height = round(EDGE + HIGH + (len(rows) - 1) * ROW)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {_FONT}>',
        "<title>Rooms of the package; an arrow runs from a room to one that it imports</title>",
        _TIP,
        '<g fill="none" stroke="#78909c" stroke-width="1.1" stroke-opacity="0.75" marker-end="url(#tip)">',
        *(f'<path d="{_curve([at[name] for name in way])}"/>' for way in ways),
        "</g>",
        '<g text-anchor="middle" fill="#1c2a30">',
    ]
    for i, row in enumerate(rows):
        for room in (name for name in row if ">" not in name):
            (x, y), wide = at[room], _wide(room)
            lines.append(
                f'<rect x="{x - wide / 2:g}" y="{y - HIGH / 2:g}" width="{wide:g}" height="{HIGH}" rx="5" '
                f'fill="{_COLOURS[i * len(_COLOURS) // len(rows)]}" stroke="#546e7a"/>'
                f'<text x="{x:g}" y="{y + 5:g}">{escape(room)}</text>'
            )
    return "\n".join([*lines, "</g>", "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}\n")
