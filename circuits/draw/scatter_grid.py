"""Scatter grid: every prompt in a plane, one small square panel per layer, classes told apart by colour and form."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.draw import canvas, theme, words

_SIDE: Final = 168
"""Pixels of a panel's side."""
_COLUMNS: Final = 5
_GAP: Final = 46
"""Between rows: room for a panel's title of two lines."""
_SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "x", "star")


def scatter_grid(  # noqa: PLR0913  each is a column or a name on the figure
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str,
    facet: str,
    title: str,
    x_title: str,
    y_title: str,
    facet_note: str | None = None,
    means: bool = True,
    caption: str = "",
) -> go.Figure:
    """A point per row, a panel per value of `facet`; hover shows a column `text`.

    A column `facet_note` gives each panel a second line of title (its first row counts). Both axes of a panel have one
    scale, so that distances are what they look like, and no ticks; `means` marks each class's mean with a cross. Rows
    without both coordinates are left out, and a panel without points says that it is undefined.
    """
    canvas.need(frame, x, y, color, facet, facet_note)
    parts = canvas.panels(frame, facet)
    columns = min(len(parts), _COLUMNS)
    rows = -(-len(parts) // columns)
    names = canvas.order(frame[color])
    shade = theme.colours([str(n) for n in names])
    tall = rows * _SIDE + (rows - 1) * _GAP
    heads = [_head(name, part, facet_note) for name, part in parts]
    fig = make_subplots(
        rows=rows,
        cols=columns,
        horizontal_spacing=0.02,
        vertical_spacing=_GAP / tall if rows > 1 else 0,
        subplot_titles=heads,
    )
    canvas.head_panels(fig, 11.5)
    shown: set[Any] = set()
    for i, (panel, part) in enumerate(parts):
        where: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
        there = part[np.isfinite(part[x].astype(float)) & np.isfinite(part[y].astype(float))]
        for n, name in enumerate(names):
            mine = there[there[color] == name]
            if mine.empty:
                continue
            fig.add_trace(_points(mine, panel, name, shade[str(name)], n, (x, y), first=name not in shown), **where)
            shown.add(name)
            if means:
                fig.add_trace(_mean(mine, name, shade[str(name)], n, (x, y)), **where)
        axis = "" if i == 0 else str(i + 1)
        square = {} if there.empty else {"scaleanchor": f"x{axis}", "constrain": "range"}
        fig.update_xaxes(showticklabels=False, ticks="", zeroline=False, showgrid=False, mirror=True, **where)
        fig.update_yaxes(showticklabels=False, ticks="", zeroline=False, showgrid=False, mirror=True, **square, **where)
        if there.empty:
            fig.add_annotation(
                text="undefined", showarrow=False, font={"color": theme.GREY}, x=0.5, y=0.5,
                xref=f"x{axis} domain", yref=f"y{axis} domain",
            )  # fmt: skip
            fig.add_trace(go.Scatter(x=[None], y=[None], showlegend=False, hoverinfo="skip"), **where)
        if i + columns >= len(parts):
            fig.update_xaxes(title_text=words.wrapped(x_title, 26), title_font={"size": 11}, **where)
        if i % columns == 0:
            fig.update_yaxes(title_text=words.wrapped(y_title, 26), title_font={"size": 11}, **where)
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=tall,
        bottom=34,
        left=44,
        legend=[str(n) for n in names] if len(names) > 1 else (),
        panel_titles=True,
        above=14 if facet_note else 0,
    )


def _head(name: str, part: pd.DataFrame, note: str | None) -> str:
    said = "" if note is None else str(part[note].iloc[0])
    return words.plain(name) + (f"<br>{words.plain(said)}" if said else "")


def _points(
    mine: pd.DataFrame, panel: str, name: Any, tint: str, n: int, at: tuple[str, str], *, first: bool
) -> go.Scatter:
    x, y = at
    texts = mine["text"] if "text" in mine else [""] * len(mine)
    hover = [
        f"{words.plain(f'{panel} {name}')}<br>{words.wrapped(text, 60)}<br>{words.number(a)}, {words.number(b)}"
        for text, a, b in zip(texts, mine[x], mine[y], strict=True)
    ]
    return go.Scatter(
        x=mine[x], y=mine[y], mode="markers", name=words.plain(name), legendgroup=str(n), showlegend=first,
        marker={"color": canvas.rgba(tint, 0.6), "size": 5, "symbol": _SYMBOLS[n % 6]},
        hovertext=hover, hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip


def _mean(mine: pd.DataFrame, name: Any, tint: str, n: int, at: tuple[str, str]) -> go.Scatter:
    return go.Scatter(
        x=[mine[at[0]].mean()], y=[mine[at[1]].mean()], mode="markers", legendgroup=str(n), showlegend=False,
        marker={"color": tint, "size": 13, "symbol": "cross-thin", "line": {"color": tint, "width": 3}},
        hovertext=[f"mean of {words.plain(name)}"], hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
