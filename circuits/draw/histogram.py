"""Histograms: how many of very many things fall into each bin, beside how many would by chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.draw import canvas, theme, words


def histogram(  # noqa: PLR0913  each is a column or a name on the figure
    frame: pd.DataFrame,
    *,
    left: str,
    right: str,
    count: str,
    title: str,
    x_title: str,
    y_title: str,
    expected: str | None = None,
    facet: str | None = None,
    marks: Mapping[str, Mapping[str, float]] | None = None,
    caption: str = "",
) -> go.Figure:
    """A bar per row, from `left` to `right`; `expected` is drawn as a line, named by its column.

    Counts stand on a logarithmic axis, so that single things far out are seen; an empty bin has no bar. `marks` are
    labelled vertical lines by panel ("" without a facet); a mark without a name is drawn and not labelled.
    """
    canvas.need(frame, left, right, count, expected, facet)
    parts = canvas.panels(frame, facet)
    fig = make_subplots(
        rows=1,
        cols=len(parts),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[words.plain(name) for name, _ in parts] if facet else None,
    )
    canvas.head_panels(fig)
    names = ["counted", *([expected] if expected else [])]
    for i, (panel, part) in enumerate(parts):
        where: dict[str, Any] = {"row": 1, "col": i + 1}
        middle = (part[left] + part[right]) / 2
        fig.add_trace(
            go.Bar(
                x=middle,
                y=part[count].where(part[count] > 0),
                width=part[right] - part[left],
                name=names[0],
                legendgroup=names[0],
                showlegend=i == 0,
                marker={"color": theme.BLUE, "line": {"width": 0}},
                hovertext=[_said(row, panel, x_title, left, right, count, expected) for row in part.to_dict("records")],
                hovertemplate="%{hovertext}<extra></extra>",
            ),
            **where,
        )
        if expected:
            fig.add_trace(
                go.Scatter(
                    x=middle,
                    y=part[expected].where(part[expected] >= 0.1),  # less than one in ten such bins holds anything
                    name=words.plain(expected),
                    legendgroup=expected,
                    showlegend=i == 0,
                    mode="lines",
                    line={"color": theme.GREY, "width": 2.4, "dash": "dash"},
                    hoverinfo="skip",
                ),
                **where,
            )
        for label, x in (marks or {}).get(panel, {}).items():
            note: dict[str, Any] = {}
            if label:
                note = {"annotation_text": words.wrapped(label, 16), "annotation_position": "top left"}
                note["annotation_font"] = {"color": theme.GREY, "size": 11}
            fig.add_vline(x=x, line={"color": theme.GREY, "dash": "dot", "width": 1.6}, **note, **where)
    fig.update_xaxes(title_text=words.wrapped(x_title, 92 // len(parts)), matches="x", zeroline=False)
    fig.update_yaxes(type="log", matches="y", dtick=1)
    fig.update_yaxes(title_text=words.wrapped(y_title, 40), col=1)
    fig.update_layout(bargap=0)
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=330,
        bottom=56,
        legend=names if expected else (),
        panel_titles=bool(facet),
    )


def _said(
    row: dict[Any, Any], panel: str, x_title: str, left: str, right: str, count: str, expected: str | None
) -> str:
    by_chance = f"<br>{words.plain(expected)} {words.number(row[expected])}" if expected else ""
    return (
        (f"{words.plain(panel)}<br>" if panel else "")
        + f"{words.plain(x_title)} {words.number(row[left])} to {words.number(row[right])}<br>"
        + f"counted <b>{words.number(row[count])}</b>{by_chance}"
    )
