"""Lines with bands: a number along layers, a clamp or a dose, one colour per series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.draw import canvas, theme, words

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down")
_PER_ROW = 3


def lines(  # noqa: PLR0913  each is a column or a name on the figure
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str,
    title: str,
    x_title: str,
    y_title: str,
    facet: str | None = None,
    low: str | None = None,
    high: str | None = None,
    dash: str | None = None,
    reference: Mapping[str, float] | None = None,
    caption: str = "",
) -> go.Figure:
    """One line per value of `color` (and of `dash`), with a band from `low` to `high`.

    `reference` draws labelled horizontal lines. Rows with an undefined y leave a gap. One row per point.
    """
    canvas.need(frame, x, y, color, facet, low, high, dash)
    parts = canvas.panels(frame, facet)
    columns = min(len(parts), _PER_ROW)
    rows = -(-len(parts) // columns)
    names = canvas.order(frame[color])
    shade = theme.colours([str(n) for n in names])
    strokes = canvas.order(frame[dash]) if dash else [None]
    fig = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=110 / (rows * 330) if rows > 1 else 0,
        subplot_titles=[words.plain(name) for name, _ in parts] if facet else None,
    )
    labels: dict[str, None] = {}
    xs = canvas.order(frame[x])
    marks = len(xs) <= 40
    for i, (_, part) in enumerate(parts):
        where: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
        for n, name in enumerate(names):
            for d, stroke in enumerate(strokes):
                rows_of = part[part[color] == name]
                if dash:
                    rows_of = rows_of[rows_of[dash] == stroke]
                if rows_of.empty:
                    continue
                rows_of = rows_of.sort_values(x) if pd.api.types.is_numeric_dtype(rows_of[x]) else rows_of
                label = words.plain(name if stroke is None else f"{name}, {stroke}")
                tint = shade[str(name)]
                if low and high:
                    for band in _bands(rows_of, x, low, high, canvas.rgba(tint, 0.2), label):
                        fig.add_trace(band, **where)
                fig.add_trace(
                    go.Scatter(
                        x=rows_of[x],
                        y=rows_of[y],
                        name=label,
                        legendgroup=label,
                        showlegend=label not in labels,
                        mode="lines+markers" if marks else "lines",
                        line={"color": tint, "dash": _DASHES[d % 5], "width": 2.4},
                        marker={"symbol": _SYMBOLS[n % 8], "size": 7},
                        hovertext=_hover(rows_of, label, x, y, x_title, y_title, low, high),
                        hovertemplate="%{hovertext}<extra></extra>",
                    ),
                    **where,
                )
                labels[label] = None
    canvas.head_panels(fig)
    margins = _references(fig, frame, [c for c in (y, low, high) if c], reference or {}, rows, columns)
    fig.update_xaxes(title_text=words.wrapped(x_title, 92 // columns), zeroline=False)
    bottom = 56
    if pd.api.types.is_integer_dtype(frame[x]):
        fig.update_xaxes(
            dtick=max(1, -(-(int(xs[-1]) - int(xs[0])) // (26 // columns))), range=[xs[0] - 0.4, xs[-1] + 0.4]
        )
    elif not pd.api.types.is_numeric_dtype(frame[x]):
        angle, below = words.tilt([words.visible(v) for v in xs], 860 / columns / len(xs))
        fig.update_xaxes(
            type="category",
            categoryorder="array",
            categoryarray=xs,
            tickangle=angle,
            tickvals=xs,
            ticktext=[words.token(v) for v in xs],
        )
        bottom = below + 38
    fig.update_yaxes(matches="y")  # rows of panels, too, share one scale
    fig.update_yaxes(title_text=words.wrapped(y_title, 46), col=1)
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=rows * (340 if rows == 1 else 300),
        bottom=bottom,
        right=max([24, *margins]),
        legend=labels if len(labels) > 1 else (),
        panel_titles=bool(facet),
    )


def _references(
    fig: go.Figure, frame: pd.DataFrame, drawn: list[str], levels: Mapping[str, float], rows: int, columns: int
) -> list[float]:
    """A line per level, names kept apart; returns the right margins that they need."""
    if not levels:
        return []
    values = [float(v) for column in drawn for v in frame[column].dropna()] + list(levels.values())
    shifts = canvas.apart(list(levels.values()), (min(values), max(values)), 250.0 if rows == 1 else 210.0)
    named = zip(levels.items(), shifts, strict=True)
    return [canvas.reference(fig, *item, rows=rows, columns=columns, shift=shift) for item, shift in named]


def _bands(rows: pd.DataFrame, x: str, low: str, high: str, tint: str, group: str) -> list[go.Scatter]:
    """The interval as filled outlines, one per unbroken stretch: an outline cannot hold a gap."""
    ok = rows[low].notna() & rows[high].notna()
    stretches = [part for _, part in rows[ok].groupby((~ok).cumsum()[ok])]
    return [
        go.Scatter(
            x=[*part[x], *part[x][::-1]],
            y=[*part[high], *part[low][::-1]],
            fill="toself",
            fillcolor=tint,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            legendgroup=group,
        )
        for part in stretches
    ]


def _hover(
    rows: pd.DataFrame,
    label: str,
    x: str,
    y: str,
    x_title: str,
    y_title: str,
    low: str | None,
    high: str | None,
) -> list[str]:
    def one(row: dict[Any, Any]) -> str:
        interval = words.spread(row[low], row[high]) if low and high else ""
        return (
            f"{label}<br>{words.plain(x_title)} {words.number(row[x])}<br>"
            f"{words.plain(y_title)} <b>{words.number(row[y])}</b>{interval}"
        )

    return [one(row) for row in rows.to_dict("records")]
