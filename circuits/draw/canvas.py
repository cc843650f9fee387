"""The frame around every plot: panels, axis orders, reference lines, title, legend, caption and margins.

Margins are counted from the labels instead of left to the browser: the caption then never meets a tick label.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.draw import theme, words
from circuits.errors import CircuitError

WIDTH = 980
"""Pixels a figure is laid out for; in a page it may be a little narrower or wider."""


def need(frame: pd.DataFrame, *columns: str | None) -> None:
    """Raise CircuitError where the frame lacks a column or has no rows."""
    missing = [c for c in columns if c is not None and c not in frame.columns]
    if missing:
        there = ", ".join(map(str, frame.columns))
        raise CircuitError(f"no column {', '.join(missing)} to draw; the frame has {there}")
    if frame.empty:
        raise CircuitError("nothing to draw: the frame has no rows")


def order(values: pd.Series[Any]) -> list[Any]:
    """Distinct values to draw: categories as declared, numbers ascending, the rest as they first appear."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        present = set(values.dropna())
        return [c for c in values.cat.categories if c in present]
    found = list(pd.unique(values.dropna()))
    return sorted(found) if pd.api.types.is_numeric_dtype(values) else found


def panels(frame: pd.DataFrame, facet: str | None) -> list[tuple[str, pd.DataFrame]]:
    """The frame split by facet, in drawing order; one unnamed panel without a facet."""
    if facet is None:
        return [("", frame)]
    return [(str(name), frame[frame[facet] == name]) for name in order(frame[facet])]


def rgba(colour: str, alpha: float) -> str:
    """A hex colour with transparency."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def finish(  # noqa: PLR0913  each is a column or a name on the figure
    fig: go.Figure,
    *,
    title: str,
    caption: str,
    plot_height: float,
    bottom: float,
    left: float = 76,
    right: float = 24,
    legend: Iterable[object] = (),
    panel_titles: bool = False,
    width: int | None = None,
    above: float = 0,
) -> go.Figure:
    """Title, legend, caption and margins around a plot of `plot_height` pixels.

    `bottom`, `left` and `right` are the pixels that labels, axis titles and a colour bar need.
    `above` keeps room over the plot for a horizontal colour bar.
    """
    inner = width or WIDTH
    heading = words.wrapped(title, int(inner / 9.2))
    note = words.wrapped(caption, int((inner - 20) / 6.1)) if caption else ""
    names = [str(name) for name in legend]
    beyond = right  # what stands right of the plot already
    beside = sum(len(name) * 7.2 + 48 for name in names) > inner - left - right
    top = 18 + 22 * (heading.count("<br>") + 1)
    legend_y = top
    if names and not beside:
        top += 28
    if beside:
        right += 44 + 7.2 * max(len(name) for name in names)
    top += above + (26 if panel_titles else 8)
    foot = 16 + 15 * (note.count("<br>") + 1) if note else 8
    height = round(top + plot_height + bottom + foot)
    fig.layout.template = theme.template("light")  # whole: update_layout would merge it into plotly's own
    fig.update_layout(
        title={
            "text": f"<b>{heading}</b>",
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 14, "t": 17},
        },
        margin={"l": left, "r": right, "t": top, "b": bottom + foot},
        height=height,
        width=width,
        showlegend=bool(names),
        hovermode="closest",
    )
    if beside:
        x = 1 + max(8.0, beyond - 16) / (inner - left - right)
        fig.update_layout(legend={"x": x, "xanchor": "left", "y": 1, "yanchor": "top", "orientation": "v"})
    elif names:
        fig.update_layout(
            legend={
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "orientation": "h",
                "traceorder": "normal",
                "y": 1 - legend_y / height,
                "yref": "container",
                "yanchor": "top",
            },
        )
    if note:
        fig.add_annotation(
            name="caption",
            text=note,
            font={"size": 11, "color": theme.GREY},
            showarrow=False,
            align="left",
            xref="paper",
            x=0,
            xanchor="left",
            xshift=14 - left,
            yref="paper",
            y=0,
            yanchor="top",
            yshift=-(bottom + 10),
        )
    return fig


def apart(levels: Sequence[float], span: tuple[float, float], height: float, least: float = 34.0) -> list[float]:
    """How far, in pixels upwards, each level's name has to move so that names do not cover each other."""
    size = (span[1] - span[0]) or 1.0
    own = [(level - span[0]) / size * height for level in levels]
    moved = dict[int, float]()
    below = -float("inf")
    for i in sorted(range(len(own)), key=lambda k: own[k]):
        moved[i] = below = max(own[i], below + least)
    over = max(0.0, below - height)  # what would stand above the panel pushes the others down again
    above = float("inf")
    for i in sorted(range(len(own)), key=lambda k: -own[k]):
        moved[i] = above = min(moved[i], above - least, height) if over else moved[i]
    return [moved[i] - own[i] for i in range(len(own))]


def reference(fig: go.Figure, label: str, level: float, *, rows: int, columns: int, shift: float = 0.0) -> float:
    """A dashed line across every panel, named beside the last; returns the right margin its name needs."""
    fig.add_hline(y=level, line={"color": theme.GREY, "dash": "dash", "width": 1.6}, row="all", col="all")
    text = words.wrapped(label, 17) + f"<br>{words.number(level)}"
    last = "" if rows * columns == 1 else str(columns)
    fig.add_annotation(
        text=text,
        xref=f"x{last} domain",
        x=1,
        xanchor="left",
        xshift=6,
        yref=f"y{last}",
        y=level,
        yanchor="middle",
        yshift=shift,
        showarrow=False,
        align="left",
        font={"size": 11.5, "color": theme.GREY},
    )
    return 18 + words.CHAR * 0.9 * max(len(line) for line in text.split("<br>"))


def head_panels(fig: go.Figure, size: float = 14) -> None:
    """Panel titles at one size; called while they are the figure's only annotations."""
    fig.update_annotations(font={"size": size})
