"""Polar lines: a number as a function of an angle in a plane."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from circuits.draw import canvas, theme, words


def polar(
    frame: pd.DataFrame,
    *,
    angle: str,
    radius: str,
    color: str,
    title: str,
    radius_title: str,
    angle_title: str = "angle in the plane (°)",
    caption: str = "",
) -> go.Figure:
    """One closed curve per value of `color`; `angle` in degrees, counted anticlockwise from the right."""
    canvas.need(frame, angle, radius, color)
    names = canvas.order(frame[color])
    shade = theme.colours([str(n) for n in names])
    fig = go.Figure()
    for name in names:
        mine = frame[frame[color] == name].sort_values(angle)
        turn = pd.concat([mine, mine.head(1)]) if len(mine) > 2 else mine
        fig.add_trace(
            go.Scatterpolar(
                theta=turn[angle],
                r=turn[radius],
                name=words.plain(name),
                mode="lines+markers",
                line={"color": shade[str(name)], "width": 2.4},
                marker={"size": 5},
                hovertext=[
                    f"{words.plain(name)}<br>angle {words.number(row[angle])}°<br>"
                    f"{words.plain(radius_title)} <b>{words.number(row[radius])}</b>"
                    for row in turn.to_dict("records")
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    fig.update_layout(
        polar={
            "angularaxis": {"dtick": 30, "ticksuffix": "°"},
            "radialaxis": {"angle": 90, "tickangle": 90},
        }
    )
    notes = (f"distance from the centre: {radius_title}", f"around it: {angle_title}")
    said = "<br>".join(words.wrapped(note, 26) for note in notes)
    fig.add_annotation(
        text=said,
        xref="paper",
        x=1,
        xanchor="right",
        yref="paper",
        y=1,
        yanchor="top",
        align="right",
        showarrow=False,
        font={"size": 13},
    )
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=440,
        bottom=40,
        left=60,
        right=60,
        legend=[str(n) for n in names] if len(names) > 1 else (),
    )
