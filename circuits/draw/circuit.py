"""A circuit drawn left to right: columns are layers, rows are positions or groups, edges are influence."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from circuits.draw import canvas, theme, words
from circuits.errors import CircuitError

_WIDTHS = (0.6, 1.2, 2.0, 3.0, 4.4, 6.2)
_STEPS = 20


def network(nodes: pd.DataFrame, edges: pd.DataFrame, *, title: str, caption: str = "") -> go.Figure:
    """Nodes `id label column row effect klass`, edges `source target weight`.

    Node area grows with |effect|, colour is the class; edge width grows with |weight|, vermilion adds and
    blue takes away. Nodes that share a column and a row are stacked. Edges to unknown nodes raise
    CircuitError.
    """
    canvas.need(nodes, "id", "label", "column", "row", "effect", "klass")
    spots, bands, tall = _places(nodes)
    fig = go.Figure()
    if not edges.empty:
        canvas.need(edges, "source", "target", "weight")
        _require(edges, spots)
        for trace in _edge_traces(edges, spots, dict(zip(nodes["id"], nodes["label"], strict=True))):
            fig.add_trace(trace)
    biggest = float(nodes["effect"].abs().max()) or 1.0
    names = canvas.order(nodes["klass"])
    shade = theme.colours([str(n) for n in names])
    for name in names:
        mine = nodes[nodes["klass"] == name]
        fig.add_trace(
            go.Scatter(
                x=[spots[i][0] for i in mine["id"]],
                y=[spots[i][1] for i in mine["id"]],
                mode="markers+text",
                name=words.plain(name),
                text=[words.plain(words.visible(t, 16)) for t in mine["label"]],
                textposition="top center",
                textfont={"size": 11.5},
                marker={
                    "size": [
                        11 + 25 * (abs(e) / biggest) ** 0.5 if pd.notna(e) else 11 for e in mine["effect"]
                    ],
                    "color": shade[str(name)],
                    "line": {"color": "#FFFFFF", "width": 1.2},
                    "opacity": 1,
                },
                hovertext=[
                    f"<b>{words.plain(r['label'])}</b> {words.plain(name)}<br>{words.plain(r['row'])}, "
                    f"column {words.plain(r['column'])}<br>effect <b>{words.number(r['effect'])}</b>"
                    for r in mine.to_dict("records")
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    columns = canvas.order(nodes["column"])
    fig.update_xaxes(
        title_text="layer (left feeds right)",
        tickvals=list(range(len(columns))),
        zeroline=False,
        ticktext=[words.token(c) for c in columns],
        range=[-0.6, len(columns) - 0.4],
    )
    fig.update_yaxes(
        title_text="position or group",
        tickvals=[middle for _, middle in bands],
        showgrid=False,
        ticktext=[words.token(row) for row, _ in bands],
        zeroline=False,
        range=[-tall + 0.25, 0.75],
    )
    left = 52 + words.CHAR * max(len(words.visible(row)) for row, _ in bands)
    legend = [*(str(n) for n in names), *(("adds", "takes away") if not edges.empty else ())]
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=max(260, 74 * tall),
        bottom=58,
        left=left,
        legend=legend,
    )


def _places(nodes: pd.DataFrame) -> tuple[dict[object, tuple[float, float]], list[tuple[str, float]], float]:
    """Where each node goes, the middle of each row, and how far down the drawing reaches."""
    columns = {c: i for i, c in enumerate(canvas.order(nodes["column"]))}
    spots: dict[object, tuple[float, float]] = {}
    bands: list[tuple[str, float]] = []
    top = 0.0
    for row in canvas.order(nodes["row"]):
        stacks = [part for _, part in nodes[nodes["row"] == row].groupby("column", sort=False)]
        tall = max(len(part) for part in stacks)
        for part in stacks:
            start = top + (tall - len(part)) / 2
            for i, node in enumerate(part.to_dict("records")):
                spots[node["id"]] = (float(columns[node["column"]]), -(start + i))
        bands.append((str(row), -(top + (tall - 1) / 2)))
        top += tall + 0.4
    return spots, bands, top - 0.4


def _require(edges: pd.DataFrame, spots: dict[object, tuple[float, float]]) -> None:
    unknown = sorted({str(i) for i in [*edges["source"], *edges["target"]] if i not in spots})
    if unknown:
        raise CircuitError(f"edges name nodes that are not drawn: {', '.join(unknown[:5])}; add them")


def _edge_traces(
    edges: pd.DataFrame, spots: dict[object, tuple[float, float]], labels: dict[object, str]
) -> list[go.Scatter]:
    """One trace per sign and width: a browser draws a dozen traces faster than a thousand."""
    biggest = float(edges["weight"].abs().max()) or 1.0
    paths: dict[tuple[bool, int], tuple[list[float | None], list[float | None]]] = {}
    middles: list[tuple[float, float, str]] = []
    for edge in edges.to_dict("records"):
        weight = float(edge["weight"])
        share = 0.0 if math.isnan(weight) else abs(weight) / biggest
        step = min(len(_WIDTHS) - 1, int(share * len(_WIDTHS)))
        xs, ys = paths.setdefault((weight >= 0, step), ([], []))
        curve = _curve(spots[edge["source"]], spots[edge["target"]])
        xs += [*(p[0] for p in curve), None]
        ys += [*(p[1] for p in curve), None]
        said = f"{words.plain(labels[edge['source']])} → {words.plain(labels[edge['target']])}"
        middles.append((*curve[_STEPS // 2], f"{said}<br>weight <b>{words.number(weight)}</b>"))
    traces = [
        go.Scatter(
            x=xs,
            y=ys,
            mode="lines",
            hoverinfo="skip",
            legendgroup=f"sign{adds}",
            showlegend=False,
            line={
                "color": canvas.rgba(theme.POSITIVE if adds else theme.NEGATIVE, 0.3 + 0.1 * step),
                "width": _WIDTHS[step],
            },
        )
        for (adds, step), (xs, ys) in sorted(paths.items())
    ]
    traces.append(
        go.Scatter(
            x=[m[0] for m in middles],
            y=[m[1] for m in middles],
            mode="markers",
            showlegend=False,
            marker={"size": 9, "opacity": 0},
            hovertext=[m[2] for m in middles],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    traces += [
        go.Scatter(
            x=[None], y=[None], mode="lines", name=name, line={"color": tint, "width": 4}, legendgroup=group
        )
        for name, tint, group in (
            ("adds", theme.POSITIVE, "signTrue"),
            ("takes away", theme.NEGATIVE, "signFalse"),
        )
    ]
    return traces


def _curve(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """A cubic that leaves and arrives horizontally; one between nodes of one height bows under others."""
    (x0, y0), (x1, y1) = start, end
    pull = max((x1 - x0) * 0.5, 0.35)
    cx0, cx1 = x0 + pull, (x1 - pull if x1 > x0 else x1 + pull)
    points: list[tuple[float, float]] = []
    for i in range(_STEPS + 1):
        t = i / _STEPS
        a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        sag = 0.5 * min(1.0, (x1 - x0) / 4) * 4 * t * (1 - t) if y0 == y1 and x1 - x0 > 1 else 0.0
        points.append((a * x0 + b * cx0 + c * cx1 + d * x1, a * y0 + b * y0 + c * y1 + d * y1 - sag))
    return points
