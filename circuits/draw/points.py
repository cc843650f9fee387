"""Every prompt as a point: a distribution along one axis, or a scatter in a plane."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.draw import canvas, theme, words


def distribution(
    frame: pd.DataFrame,
    *,
    value: str,
    color: str,
    title: str,
    x_title: str,
    facet: str | None = None,
    caption: str = "",
) -> go.Figure:
    """A row per value of `color`: box of the quartiles and every point; hover shows a column `text`."""
    canvas.need(frame, value, color, facet)
    parts = canvas.panels(frame, facet)
    names = canvas.order(frame[color])
    shade = theme.colours([str(n) for n in names])
    fig = make_subplots(
        rows=1,
        cols=len(parts),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[words.plain(name) for name, _ in parts] if facet else None,
    )
    for i, (_, part) in enumerate(parts):
        for name in reversed(names):  # the first group on top
            mine = part[(part[color] == name) & part[value].notna()]
            tint = shade[str(name)]
            fig.add_trace(
                go.Box(
                    x=mine[value],
                    y=[str(name)] * len(mine),
                    orientation="h",
                    name=words.plain(name),
                    boxpoints="all",
                    jitter=0.55,
                    pointpos=-1.55,
                    width=0.34,
                    showlegend=False,
                    line={"color": tint, "width": 1.8},
                    fillcolor=canvas.rgba(tint, 0.18),
                    marker={"color": canvas.rgba(tint, 0.75), "size": 6, "line": {"width": 0}},
                    hovertext=[_said(row, str(name), x_title, value) for row in mine.to_dict("records")],
                    hovertemplate="%{hovertext}<extra></extra>",
                    hoveron="points",
                ),
                row=1,
                col=i + 1,
            )
    canvas.head_panels(fig)
    rows = [str(n) for n in names]
    fig.update_xaxes(title_text=words.wrapped(x_title, 92 // len(parts)), matches="x", zeroline=False)
    fig.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=rows[::-1],
        tickvals=rows,
        ticktext=[words.token(r) for r in rows],
        showgrid=False,
        range=[-0.75, len(rows) - 0.6],
    )
    fig.update_yaxes(title_text=words.plain(color), col=1)
    left = 52 + words.CHAR * max(len(words.visible(r)) for r in rows)
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=max(190, 96 * len(rows)),
        bottom=56,
        left=left,
        panel_titles=bool(facet),
    )


def scatter(  # noqa: PLR0913  each is a column or a name on the figure
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str,
    title: str,
    x_title: str,
    y_title: str,
    facet: str | None = None,
    caption: str = "",
) -> go.Figure:
    """A point per row, a panel per value of `facet`, each with its own axes; hover shows a column `text`."""
    canvas.need(frame, x, y, color, facet)
    parts = canvas.panels(frame, facet)
    columns = min(len(parts), 4 if len(parts) > 3 else 3)
    rows = -(-len(parts) // columns)
    names = canvas.order(frame[color])
    shade = theme.colours([str(n) for n in names])
    height, gap = (380 if columns == 1 else 230), 106
    fig = make_subplots(
        rows=rows,
        cols=columns,
        horizontal_spacing=0.06,
        vertical_spacing=gap / (rows * height + (rows - 1) * gap) if rows > 1 else 0,
        subplot_titles=[words.plain(name) for name, _ in parts] if facet else None,
    )
    symbols = ("circle", "square", "diamond", "triangle-up", "x", "star")
    for i, (panel, part) in enumerate(parts):
        for n, name in enumerate(names):
            mine = part[part[color] == name]
            tint = shade[str(name)]
            fig.add_trace(
                go.Scatter(
                    x=mine[x],
                    y=mine[y],
                    mode="markers",
                    name=words.plain(name),
                    legendgroup=str(n),
                    showlegend=i == 0,
                    marker={"color": canvas.rgba(tint, 0.8), "size": 7, "symbol": symbols[n % 6]},
                    hovertext=[
                        _said(row, f"{panel} {name}".strip(), y_title, y)
                        + f"<br>{words.plain(x_title)} <b>{words.number(row[x])}</b>"
                        for row in mine.to_dict("records")
                    ],
                    hovertemplate="%{hovertext}<extra></extra>",
                ),
                row=i // columns + 1,
                col=i % columns + 1,
            )
    canvas.head_panels(fig)
    fig.update_xaxes(title_text=words.wrapped(x_title, 92 // columns))
    fig.update_yaxes(title_text=words.wrapped(y_title, 30), col=1)
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=rows * height + (rows - 1) * gap,
        bottom=56,
        legend=[str(n) for n in names] if len(names) > 1 else (),
        panel_titles=bool(facet),
    )


def _said(row: dict[Any, Any], group: str, title: str, value: str) -> str:
    text = f"<br>{words.wrapped(row['text'], 60)}" if "text" in row and isinstance(row["text"], str) else ""
    return f"{words.plain(group)}{text}<br>{words.plain(title)} <b>{words.number(row[value])}</b>"
