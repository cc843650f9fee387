"""Heatmaps: one number per cell, layer 0 at the bottom, zero in the middle of the colour scale."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.draw import canvas, theme, words
from circuits.errors import CircuitError

_PER_ROW = 4


def heatmap(  # noqa: PLR0913  each is a column or a name on the figure
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    value: str,
    title: str,
    x_title: str,
    y_title: str,
    unit: str,
    facet: str | None = None,
    diverging: bool = True,
    x_labels: Mapping[Any, str] | None = None,
    muted: Collection[Any] = (),
    quantile: float = 0.99,
    low: str | None = None,
    high: str | None = None,
    p: str | None = None,
    marked: str | None = None,
    caption: str = "",
) -> go.Figure:
    """One row per cell becomes one coloured cell; panels of `facet` share axes and scale.

    `x_labels` are token texts by x value, greyed for those in `muted`. The scale is symmetric around 0
    (unless `diverging=False`) and clipped at `quantile` of |value|, which the legend then says. `low` and
    `high` are the columns of an interval, `p` that of a p-value, all shown on hover; a dot marks cells where the
    boolean column `marked` is true, and the caption has to say what that means. Undefined cells show a dash.
    Raises CircuitError where a cell has more than one row.
    """
    canvas.need(frame, x, y, value, facet, low, high, p, marked)
    keys = [c for c in (facet, y, x) if c is not None]
    if frame.duplicated(keys).any():
        raise CircuitError(f"more than one row for a cell of {' × '.join(keys)}; average the frame first")
    xs, ys = canvas.order(frame[x]), canvas.order(frame[y])
    parts = canvas.panels(frame, facet)
    columns = min(len(parts), _PER_ROW)
    rows = -(-len(parts) // columns)
    labels = [str((x_labels or {}).get(v, v)) for v in xs]
    ticks = [words.token(t, muted=v in muted) for t, v in zip(labels, xs, strict=True)]
    left = 40 + words.CHAR * max(3, *(len(words.visible(v)) for v in ys))
    pixels = (canvas.WIDTH - left - 130) / columns / len(xs)
    right = 130 + max(0, pixels - 92) * len(xs) * columns  # few cells: keep them from becoming slabs
    pixels = min(pixels, 92)
    angle, below = words.tilt([words.visible(t) for t in labels], pixels)
    row_height = max(170, min(30, max(13, 420 / len(ys))) * len(ys))
    gap = (below + 66) / (rows * row_height + (rows - 1) * (below + 66))
    fig = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=gap if rows > 1 else 0,
        subplot_titles=[words.plain(name) for name, _ in parts] if facet else None,
    )
    at_x, at_y = ({v: i for i, v in enumerate(vs)} for vs in (xs, ys))
    for i, (name, part) in enumerate(parts):
        where: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
        z = np.full((len(ys), len(xs)), np.nan)
        text = np.full(z.shape, "not measured", dtype=object)
        for row in part.to_dict("records"):
            number = words.number(row[value]) + (f" {words.plain(unit)}" if unit else "")
            interval = words.spread(row[low], row[high]) if low and high else ""
            chance = f"<br>p {words.number(row[p])}" if p else ""
            dot = "<br>● survives the sweep-wide test" if marked and row[marked] == 1 else ""
            at = at_y[row[y]], at_x[row[x]]
            label = labels[at[1]]
            said = words.plain(row[x]) + (f" {words.token(label)}" if str(row[x]) != label else "")
            z[at] = row[value]
            text[at] = (
                (f"{words.plain(name)}<br>" if name else "")
                + f"{words.plain(y_title)} {words.plain(row[y])} · {words.plain(x_title)} {said}<br>"
                + f"<b>{number}</b>{interval}{chance}{dot}"
            )
        fig.add_trace(
            go.Heatmap(
                z=z,
                hovertext=text,
                hovertemplate="%{hovertext}<extra></extra>",
                coloraxis="coloraxis",
                xgap=1,
                ygap=1,
            ),
            **where,
        )
        holes = np.argwhere(~np.isfinite(z))
        if len(holes):
            fig.add_trace(
                go.Scatter(
                    x=holes[:, 1],
                    y=holes[:, 0],
                    mode="text",
                    text=["–"] * len(holes),
                    hoverinfo="skip",
                    textfont={"color": theme.GREY},
                    showlegend=False,
                ),
                **where,
            )
        if marked:
            dots = part[part[marked].astype(bool)]
            fig.add_trace(
                go.Scatter(
                    x=[at_x[v] for v in dots[x]],
                    y=[at_y[v] for v in dots[y]],
                    mode="markers",
                    hoverinfo="skip",
                    showlegend=False,
                    marker={"size": 6, "color": "#111", "line": {"color": "#fff", "width": 1.2}},
                ),
                **where,
            )
    canvas.head_panels(fig)
    fig.update_xaxes(
        tickvals=list(range(len(xs))),
        ticktext=ticks,
        tickangle=angle,
        range=[-0.5, len(xs) - 0.5],
        showgrid=False,
        zeroline=False,
        title_text=words.plain(x_title),
    )
    every = -(-len(ys) // int(row_height // 13))
    shown = list(range(0, len(ys), every))
    fig.update_yaxes(
        tickvals=shown,
        ticktext=[words.token(ys[i]) for i in shown],
        range=[-0.5, len(ys) - 0.5],
        showgrid=False,
        zeroline=False,
    )
    fig.update_yaxes(title_text=words.plain(y_title), col=1)
    fig.update_layout(
        coloraxis=_coloraxis(frame[value], unit=unit, quantile=quantile, diverging=diverging),
        meta={"scale": "diverging" if diverging else "sequential"},
    )
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=rows * row_height + (rows - 1) * (below + 66),
        bottom=below + 34,
        left=left,
        right=right,
        panel_titles=bool(facet),
    )


def _coloraxis(values: pd.Series[float], *, unit: str, quantile: float, diverging: bool) -> dict[str, Any]:
    """Range and legend of the shared scale; the legend says where it clips."""
    finite = values.to_numpy(dtype=float)
    finite = finite[np.isfinite(finite)]
    size = np.abs(finite) if diverging else finite
    top = float(size.max()) if len(size) else 1.0
    clip = float(np.quantile(size, quantile)) if len(size) else 1.0
    clip = clip if clip > 0 else (top if top > 0 else 1.0)
    floor = -clip if diverging else min(0.0, float(finite.min()) if len(finite) else 0.0)
    heading = words.wrapped(unit, 16)
    if clip < top:
        sign = "±" if diverging else ""
        said = f"clipped at {sign}{clip:.3g}<br>({quantile:.0%} of cells)"
        heading += f"<br><span style='font-size:10px'>{said}</span>"
    axis: dict[str, Any] = {
        "colorscale": theme.scale("diverging" if diverging else "sequential"),
        "cmin": floor,
        "cmax": clip,
        "colorbar": {
            "title": {"text": heading, "side": "top", "font": {"size": 12}},
            "thickness": 13,
            "outlinewidth": 0,
            "x": 1,
            "xpad": 16,
            "xanchor": "left",
            "len": 1,
            "y": 0.5,
            "tickfont": {"size": 11},
        },
    }
    return axis | ({"cmid": 0} if diverging else {})
