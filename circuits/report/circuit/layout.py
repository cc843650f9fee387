"""Where each component stands: left to right by layer, top to bottom by position and, within it, by kind.

1. A layer is a column: `embed` stands before the first, `metric` after the last. Layers without components take no room.
2. A position is a band of rows, and a kind of component (heads, attention, MLPs, features) a lane within it. The ends
   stand halfway up, unless they have a position.
3. Components of one lane and layer are stacked by head, then by id. A stack that is too tall goes on beside itself.
4. What a layer computes later stands a little further to the right, so that every edge runs to the right.
5. The roomiest of `STYLES` that fits a window is taken, or the one whose letters come out largest, each with stacks of
   the height that lets the whole be drawn largest. The page then pulls rows and columns apart to fill its own window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from circuits.graph.names import KINDS
from circuits.report.circuit.contents import ENDS, Node

ROLES: Final = ("subject", "post_subject", "last")
"""Named positions in the order of a prompt; other positions come between them, in the graph's order."""
TITLES: Final = {
    "head": "heads", "attn": "attention", "norm": "post-norms", "mlp": "MLPs", "feature": "features",
    "error": "errors",
}  # fmt: skip
"""Kind → title of its lane, where that is not its name."""
_WINDOW: Final = (720.0, 440.0)
"""Width and height that a window of a common size leaves for the drawing, in CSS pixels."""
_GROWN: Final = (720.0, 640.0)
"""The same where the drawing is given more height than the window has, as large graphs are."""
_Stacks = dict[tuple[int, int, str], list[int]]
"""(block, band, kind) → the nodes that stand there, top to bottom."""
_CHARACTER: Final = 0.6
"""Mean width of a character, in units of the font's size."""
_MARK: Final = 1.6
"""Characters kept free for the minus after the name of a component with a negative effect."""


@final
@dataclass(frozen=True)
class Style:
    """How roomy a drawing is: CSS pixels at a zoom of one."""

    largest: float
    """Diameter of the largest component."""
    font: float
    gap: float
    """Between neighbours."""
    lean: float
    """How much further right a later step of a layer stands, in widths of a component."""
    short: bool
    """Whether a label leaves the layer to the column's heading."""


STYLES: Final = (
    Style(34, 12, 12, 0.4, short=False),
    Style(34, 12, 10, 0.35, short=True),
    Style(26, 11.5, 8, 0.3, short=True),
    Style(20, 11, 5, 0.2, short=True),
    Style(15, 10, 2, 0.05, short=True),
)
"""From roomy to dense."""


@final
@dataclass(frozen=True)
class Strip:
    """A column or a lane: its title and where it begins and ends."""

    title: str
    start: float
    end: float


@final
@dataclass(frozen=True)
class Layout:
    """Centres and labels in the order of the nodes; x to the right, y down."""

    x: list[float]
    y: list[float]
    labels: list[str]
    columns: list[Strip]
    lanes: list[Strip]
    style: Style


def place(nodes: Sequence[Node]) -> Layout:
    """Give every node its place."""
    bands = _bands(nodes)
    stacks = _stacks(nodes, bands)
    tallest = max(len(stack) for stack in stacks.values())

    def best(style: Style, window: tuple[float, float]) -> Layout:
        heights = range(tallest, 0, -1)  # of equally good ones the tallest, which goes on beside itself least
        return max(
            (_placed(nodes, stacks, bands, style, tall) for tall in heights), key=lambda found: _zoom(found, window)
        )

    for style in STYLES:
        layout = best(style, _WINDOW)
        if _zoom(layout, _WINDOW) == 1:
            return layout
    dense = [best(style, _GROWN) for style in STYLES]
    return max(dense, key=lambda found: found.style.font * _zoom(found, _GROWN))


def label(node: Node, *, short: bool) -> str:
    """What stands under a node: its id without the position; `short` leaves out the layer as well, and cuts what is long."""
    text = node.id.rpartition("@")[0] if node.position is not None and "@" in node.id else node.id
    if short:
        text = text.removeprefix(f"L{node.place[0]}.")
        text = "norm" if node.kind == "norm" and text == "post-norm" else text  # its lane says which
    longest = 7 if short else 14
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _bands(nodes: Sequence[Node]) -> list[str | None]:
    """The positions from top to bottom, as a prompt has them; last the nodes that have none."""
    found = dict.fromkeys(node.position for node in nodes if node.kind not in ENDS or node.position is not None)
    names = [position for position in found if position is not None]
    ranks = {name: ROLES.index(name) if name in ROLES else 1.5 for name in names}
    return [*sorted(names, key=ranks.__getitem__), *([None] if None in found else [])]


def _stacks(nodes: Sequence[Node], bands: Sequence[str | None]) -> _Stacks:
    """The nodes by where they stand; ends that have no position are in band −1, which is all bands."""
    stacks: _Stacks = {}
    for i, node in enumerate(nodes):
        band = -1 if node.position is None and node.kind in ENDS else bands.index(node.position)
        stacks.setdefault((node.place[0], band, node.kind), []).append(i)
    for stack in stacks.values():
        stack.sort(key=lambda i: (nodes[i].place[1:3], _natural(nodes[i].id)))
    return stacks


def _natural(text: str) -> list[tuple[int, str]]:
    """A key by which F2 comes before F10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", text)]


def _placed(nodes: Sequence[Node], stacks: _Stacks, bands: Sequence[str | None], style: Style, height: int) -> Layout:
    """The layout whose stacks are at most `height` tall."""
    labels = [label(node, short=style.short) for node in nodes]
    row = style.largest + style.font + style.gap
    rooms, lanes = _rooms(stacks, bands, height, row)
    x, y = [0.0] * len(nodes), [0.0] * len(nodes)
    columns: list[Strip] = []
    left = 0.0
    for here in sorted({where for where, _, _ in stacks}):
        mine = {key: stack for key, stack in stacks.items() if key[0] == here}
        letters = max(len(labels[i]) + _MARK * (nodes[i].kind not in ENDS) for stack in mine.values() for i in stack)
        wide = max(style.largest, letters * style.font * _CHARACTER) + style.gap
        lean = _leans([(nodes[i].place[1], k // height) for stack in mine.values() for k, i in enumerate(stack)], style)
        for (_, band, kind), stack in mine.items():
            top, bottom = rooms[band, "" if kind in ENDS else kind]
            for k, i in enumerate(stack):
                across, down = divmod(k, height)
                used = min(height, len(stack) - across * height)
                x[i] = left + (0.5 + across + lean[nodes[i].place[1]]) * wide
                y[i] = (top + bottom) / 2 + (down + 0.5 - used / 2) * row
        right = max(x[i] for stack in mine.values() for i in stack) + wide / 2
        end = next((kind for _, _, kind in mine if kind in ENDS), None)
        columns.append(Strip(end or f"L{here}", left, right))
        left = right + style.gap
    return Layout(x, y, labels, columns, lanes, style)


def _leans(found: Sequence[tuple[int, int]], style: Style) -> dict[int, float]:
    """Step of a layer → how far right it starts, in widths; `found` has the step and the sub-column of each component."""
    leans: dict[int, float] = {}
    start = 0.0
    for step in sorted({step for step, _ in found}):
        leans[step] = start
        start += max(across for here, across in found if here == step) + style.lean
    return leans


def _rooms(
    stacks: _Stacks, bands: Sequence[str | None], height: int, row: float
) -> tuple[dict[tuple[int, str], tuple[float, float]], list[Strip]]:
    """(band, kind) → top and bottom of its lane, (band, "") → those of the band; and the lanes with their titles."""
    rooms: dict[tuple[int, str], tuple[float, float]] = {}
    lanes: list[Strip] = []
    top = bottom = 0.0
    for band, position in enumerate(bands):
        begin = top
        for kind in (kind for kind in KINDS if kind not in ENDS):
            tall = max((min(height, len(s)) for (_, b, k), s in stacks.items() if (b, k) == (band, kind)), default=0)
            if tall:
                bottom = top + tall * row
                rooms[band, kind] = (top, bottom)
                title = TITLES.get(kind, kind)
                alone = position is None and len(bands) == 1
                lanes.append(Strip(title if alone else f"{_spelled(position)} · {title}", top, bottom))
                top = bottom + 0.3 * row
        bottom = max(bottom, begin + row)
        rooms[band, ""] = (begin, bottom)
        top = bottom + 0.8 * row
    rooms[-1, ""] = (0.0, max(bottom, row))
    return rooms, lanes


def _spelled(position: str | None) -> str:
    return "no position" if position is None else position.replace("-", "−").replace("_", " ")


def _zoom(layout: Layout, window: tuple[float, float]) -> float:
    """How large the layout can be drawn in a window; one is large enough."""
    wide = layout.columns[-1].end
    tall = max(layout.y) - min(layout.y) + 2 * layout.style.largest
    return min(window[0] / wide, window[1] / tall, 1.0)
