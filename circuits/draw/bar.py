"""Grouped bars with error bars and a labelled threshold."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.draw import canvas, theme, words

_PER_ROW = 4


def bars(  # noqa: PLR0913  each is a column or a name on the figure
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    title: str,
    x_title: str,
    y_title: str,
    color: str | None = None,
    facet: str | None = None,
    low: str | None = None,
    high: str | None = None,
    threshold: float | None = None,
    threshold_name: str = "threshold",
    caption: str = "",
) -> go.Figure:
    """One bar per row, grouped by `color`; `low` and `high` are the ends of the error bar."""
    canvas.need(frame, x, y, color, facet, low, high)
    parts = canvas.panels(frame, facet)
    columns = min(len(parts), _PER_ROW)
    rows = -(-len(parts) // columns)
    names = canvas.order(frame[color]) if color else [None]
    shade = theme.colours([str(n) for n in names])
    xs = canvas.order(frame[x])
    angle, below = words.tilt([words.visible(v) for v in xs], 860 / columns / len(xs))
    height = 330 if rows == 1 else 280
    gap = below + 70
    fig = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=gap / (rows * height + (rows - 1) * gap) if rows > 1 else 0,
        subplot_titles=[words.plain(name) for name, _ in parts] if facet else None,
    )
    place = {v: i for i, v in enumerate(xs)}
    for i, (panel, part) in enumerate(parts):
        for name in names:
            mine = part if name is None else part[part[color] == name]
            label = "" if name is None else words.plain(name)
            hover = [
                "".join(f"{words.plain(t)}<br>" for t in (panel, label and name) if t)
                + f"{words.plain(x_title)} {words.token(row[x])}<br>"
                + f"{words.plain(y_title)} <b>{words.number(row[y])}</b>"
                + (words.spread(row[low], row[high]) if low and high else "")
                for row in mine.to_dict("records")
            ]
            error = None
            if low and high:
                error = {
                    "array": mine[high] - mine[y],
                    "arrayminus": mine[y] - mine[low],
                    "symmetric": False,
                    "color": theme.INK,
                    "thickness": 2,
                    "width": 4,
                }
            fig.add_trace(
                go.Bar(
                    x=[place[v] for v in mine[x]],
                    y=mine[y],
                    name=label,
                    legendgroup=label,
                    showlegend=i == 0,
                    marker={"color": shade[str(name)], "line": {"width": 0}},
                    error_y=error,
                    hovertext=hover,
                    hovertemplate="%{hovertext}<extra></extra>",
                ),
                row=i // columns + 1,
                col=i % columns + 1,
            )
    canvas.head_panels(fig)
    right = 24.0
    if threshold is not None:
        right = canvas.reference(fig, threshold_name, threshold, rows=rows, columns=columns)
    fig.update_xaxes(
        tickvals=list(range(len(xs))),
        ticktext=[words.token(v) for v in xs],
        tickangle=angle,
        showgrid=False,
        title_text=words.wrapped(x_title, 92 // columns),
        range=[-0.5, len(xs) - 0.5],
    )
    fig.update_yaxes(matches="y")  # rows of panels, too, share one scale
    fig.update_yaxes(title_text=words.wrapped(y_title, 44), col=1)
    fig.update_layout(barmode="group", bargap=0.22, bargroupgap=0.06)
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=rows * height + (rows - 1) * gap,
        bottom=below + 38,
        right=right,
        legend=[str(n) for n in names] if len(names) > 1 else (),
        panel_titles=bool(facet),
    )
