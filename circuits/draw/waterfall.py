"""A sum, drawn as its terms: each bar starts where the one before it ended, and the totals stand on zero."""

from __future__ import annotations

import math
from typing import Any, Final

import pandas as pd
import plotly.graph_objects as go

from circuits.draw import canvas, theme, words
from circuits.errors import CircuitError

_GAP: Final = 1e-3
"""A total further from the sum of its terms, as a share of what was added up, is none."""
_WIDTH: Final = 0.78
"""Of a bar, given outright: plotly would widen the bars of a colour that has few."""
_SHADES: Final = {"raises": theme.POSITIVE, "lowers": theme.NEGATIVE, "total": theme.GREY}


def waterfall(  # noqa: PLR0913  each is a column or a name on the figure
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    total: str,
    title: str,
    x_title: str,
    y_title: str,
    low: str | None = None,
    high: str | None = None,
    caption: str = "",
) -> go.Figure:
    """One bar per row, in the order of the rows; where the column `total` is true, the sum so far, from zero.

    `low` and `high` are the ends of each term's interval, drawn at the bar's end. Raises CircuitError where a term is
    undefined and where a total is not the sum of the terms before it.
    """
    canvas.need(frame, x, y, total, low, high)
    rows = frame.to_dict("records")
    bars = _bars(rows, x, y, total)
    hover = [
        f"{words.token(row[x])}<br>{words.plain(y_title)} <b>{words.number(row[y])}</b>"
        + (words.spread(row[low], row[high]) if low and high else "")
        + ("" if row[total] else f"<br>sum so far {words.number(base + height)}")
        for row, (base, height, _) in zip(rows, bars, strict=True)
    ]
    fig = go.Figure()
    for name, shade in _SHADES.items():
        mine = [i for i, (_, _, kind) in enumerate(bars) if kind == name]
        if mine:
            fig.add_trace(
                go.Bar(
                    x=mine, y=[bars[i][1] for i in mine], base=[bars[i][0] for i in mine], name=name, width=_WIDTH,
                    marker={"color": shade, "line": {"width": 0}}, hovertext=[hover[i] for i in mine],
                    hovertemplate="%{hovertext}<extra></extra>",
                )
            )  # fmt: skip
    ends = [base + height for base, height, _ in bars]
    for i, end in enumerate(ends[:-1]):
        line = {"color": theme.GREY, "width": 1, "dash": "dot"}
        fig.add_shape(type="line", x0=i - _WIDTH / 2, x1=i + 1 + _WIDTH / 2, y0=end, y1=end, line=line, layer="below")
    if low and high:
        error = {
            "array": [row[high] - row[y] for row in rows], "arrayminus": [row[y] - row[low] for row in rows],
            "symmetric": False, "color": theme.INK, "thickness": 2, "width": 4,
        }  # fmt: skip
        fig.add_trace(
            go.Scatter(
                x=list(range(len(rows))), y=ends, error_y=error, mode="markers", marker={"size": 1, "color": theme.INK},
                hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip
    ticks = [words.token(row[x]) for row in rows]
    angle, below = words.tilt([words.visible(row[x]) for row in rows], 860 / len(rows))
    fig.update_xaxes(
        tickvals=list(range(len(rows))), ticktext=ticks, tickangle=angle, showgrid=False,
        title_text=words.wrapped(x_title, 92), range=[-0.5, len(rows) - 0.5],
    )  # fmt: skip
    fig.update_yaxes(title_text=words.wrapped(y_title, 44), zeroline=True)
    fig.update_layout(barmode="overlay")
    shown = [name for name in _SHADES if any(kind == name for _, _, kind in bars)]
    return canvas.finish(
        fig, title=title, caption=caption, plot_height=340, bottom=below + 38, legend=shown if len(shown) > 1 else ()
    )


def _bars(rows: list[dict[Any, Any]], x: str, y: str, total: str) -> list[tuple[float, float, str]]:
    """Where each bar starts, how high it is (signed), and which kind it is."""
    bars: list[tuple[float, float, str]] = []
    so_far, added = 0.0, 0.0
    for row in rows:
        height = float(row[y])
        if math.isnan(height):
            raise CircuitError(f"{row[x]}: an undefined term has no place in a sum; leave it out and say so")
        if row[total]:
            if abs(height - so_far) > _GAP * max(added, abs(height)):
                raise CircuitError(f"{row[x]} is {height:.4g}, but the terms before it add up to {so_far:.4g}")
            bars.append((0.0, height, "total"))
            continue
        bars.append((so_far, height, "raises" if height >= 0 else "lowers"))
        so_far, added = so_far + height, added + abs(height)
    return bars
