"""Text with weights: every token of a few prompts as a cell with the token written in it, shaded by its weight."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.draw import canvas, theme, words
from circuits.errors import CircuitError

_ROW: Final = 27
_HEAD: Final = 34
_PER_LINE: Final = 12
"""Tokens side by side; longer prompts go on in the next line, as text does."""


def token_cells(  # noqa: PLR0913  each is a column or a name on the figure
    frame: pd.DataFrame,
    *,
    row: str,
    pos: str,
    token: str,
    value: str,
    facet: str,
    title: str,
    unit: str,
    muted: str | None = None,
    caption: str = "",
) -> go.Figure:
    """A panel per value of `facet` (a head), a block of lines per value of `row` (a prompt), a cell per `pos`.

    Tokens are written in their cells, greyed where the boolean column `muted` is true; shades go from 0 to the largest
    weight of the figure. Raises CircuitError where one cell has more than one row.
    """
    canvas.need(frame, row, pos, token, value, facet, muted)
    if frame.duplicated([facet, row, pos]).any():
        raise CircuitError(f"more than one row for a cell of {facet} × {row} × {pos}; choose one query")
    parts = canvas.panels(frame, facet)
    lines = [sum(-(-len(prompt) // _PER_LINE) for _, prompt in part.groupby(row, sort=False)) for _, part in parts]
    tall = _ROW * sum(lines) + _HEAD * (len(parts) - 1)
    fig = make_subplots(
        rows=len(parts),
        cols=1,
        row_heights=[n / sum(lines) for n in lines],
        vertical_spacing=_HEAD / tall if len(parts) > 1 else 0,
        subplot_titles=[words.plain(name) for name, _ in parts],
    )
    canvas.head_panels(fig)
    top = float(np.nanmax(frame[value].to_numpy(dtype=float)))
    names = [words.visible(name, 24) for name in canvas.order(frame[row])]
    for i, ((panel, part), n_lines) in enumerate(zip(parts, lines, strict=True)):
        where: dict[str, Any] = {"row": i + 1, "col": 1}
        z, text, hover, ticks = _laid_out(part, panel, n_lines, (row, pos, token, value, muted), top)
        fig.add_trace(
            go.Heatmap(
                z=z, text=text, texttemplate="%{text}", textfont={"size": 10.5}, hovertext=hover, coloraxis="coloraxis",
                hovertemplate="%{hovertext}<extra></extra>", hoverongaps=False, xgap=2, ygap=3,
            ),
            **where,
        )  # fmt: skip
        fig.update_yaxes(
            tickvals=list(ticks), ticktext=[words.token(t, limit=24) for t in ticks.values()],
            range=[n_lines - 0.5, -0.5], showgrid=False, zeroline=False, ticks="", **where,
        )  # fmt: skip
    fig.update_xaxes(
        showticklabels=False, ticks="", showgrid=False, zeroline=False, range=[-0.5, _PER_LINE - 0.5], showline=False
    )
    fig.update_yaxes(showline=False, title_text=words.plain(row))
    fig.update_xaxes(title_text="tokens, in reading order", title_font={"size": 12}, row=len(parts), col=1)
    fig.update_layout(
        coloraxis={
            "colorscale": theme.scale("sequential"), "cmin": 0.0, "cmax": top if top > 0 else 1.0,
            "colorbar": {
                "title": {"text": words.wrapped(unit, 16), "side": "top", "font": {"size": 12}}, "thickness": 13,
                "outlinewidth": 0, "x": 1, "xpad": 16, "xanchor": "left", "tickfont": {"size": 11},
            },
        },
        meta={"scale": "sequential"},
    )  # fmt: skip
    left = 52 + words.CHAR * max(len(name) for name in names)
    return canvas.finish(
        fig, title=title, caption=caption, plot_height=tall, bottom=34, left=left, right=120, panel_titles=True
    )


def _laid_out(
    part: pd.DataFrame, panel: str, n_lines: int, named: tuple[str, str, str, str, str | None], top: float
) -> tuple[Any, Any, Any, dict[int, str]]:
    """Weights, texts and hover texts as [line, place], and each prompt's name at its first line."""
    row, pos, token, value, muted = named
    z = np.full((n_lines, _PER_LINE), np.nan)
    text, hover = (np.full(z.shape, "", dtype=object) for _ in range(2))
    ticks: dict[int, str] = {}
    line = 0
    for name, prompt in part.groupby(row, sort=False):
        ticks[line] = str(name)
        for place, cell in enumerate(prompt.sort_values(pos).to_dict("records")):
            at = line + place // _PER_LINE, place % _PER_LINE
            said = str(cell[token])
            z[at] = cell[value]
            # greyed words on a dark cell could not be read: there the token stays as it is
            grey = muted is not None and bool(cell[muted]) and not cell[value] > top / 2
            text[at] = words.token(said, muted=grey, limit=9)
            hover[at] = (
                f"{words.plain(panel)}<br>{words.plain(name)}<br>{words.token(said)} (position {words.number(cell[pos])})"
                f"<br><b>{words.number(cell[value])}</b>"
            )
        line += -(-len(prompt) // _PER_LINE)
    return z, text, hover, ticks
