"""Attention grid: one small map per head on the same tokens, ordered by class, labels at the edges only."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.draw import canvas, theme, words

_CLASSES = ("direct", "diagonal", "other", "BOS")
_TITLE, _GAP, _RIGHT, _WIDTH = 26, 14, 20, 1060


def attention_grid(
    frame: pd.DataFrame,
    *,
    title: str,
    token_labels: Sequence[str],
    muted_tokens: Collection[int] = (),
    caption: str = "",
) -> go.Figure:
    """A map per head from columns `head klass score query key value`; positions count into `token_labels`.

    Maps are ordered by class, then by falling score. Cells are square and at least as tall as a label, so
    the figure grows with the number of heads. A causal model's empty upper triangle is left blank.
    """
    canvas.need(frame, "head", "klass", "score", "query", "key", "value")
    heads = frame.drop_duplicates("head")[["head", "klass", "score"]]
    rank = {name: i for i, name in enumerate(_CLASSES)}
    heads = heads.assign(rank=[rank.get(str(k), len(rank)) for k in heads["klass"]])
    heads = heads.sort_values(["rank", "score"], ascending=[True, False], kind="stable")
    n = len(token_labels)
    shown = [words.visible(t, 12) for t in token_labels]
    margin = 42 + words.CHAR * 0.85 * max(len(t) for t in shown)
    room = _WIDTH - margin - _RIGHT
    columns = int(max(1, min(8, len(heads), (room + _GAP) // (n * 8.8 + _GAP))))
    side = min((room - (columns - 1) * _GAP) / columns, 30 * n)
    rows = -(-len(heads) // columns)
    width = round(margin + _RIGHT + columns * side + (columns - 1) * _GAP)
    tall = rows * side + (rows - 1) * _TITLE
    fig = make_subplots(
        rows=rows,
        cols=columns,
        horizontal_spacing=_GAP / (width - margin - _RIGHT),
        vertical_spacing=_TITLE / tall if rows > 1 else 0,
    )
    every = max(1, -(-int(n * 8.7) // int(side)))
    ticks = list(range(0, n, every))
    text = [words.token(token_labels[i], muted=i in muted_tokens, limit=12) for i in ticks]
    names = [f"{i} {words.plain(t)}" for i, t in enumerate(shown)]
    future = frame["key"] > frame["query"]
    causal = not bool((frame.loc[future, "value"].abs() > 1e-9).any())
    blocks = dict(iter(frame.groupby("head", sort=False)))
    shade = theme.colours([str(k) for k in dict.fromkeys(heads["klass"])])
    for i, row in enumerate(heads.to_dict("records")):
        r, c = i // columns + 1, i % columns + 1
        block = blocks[row["head"]]
        z = np.full((n, n), np.nan)
        z[block["query"].to_numpy(), block["key"].to_numpy()] = block["value"].to_numpy(dtype=float)
        if causal:
            z[np.triu_indices(n, 1)] = np.nan
        head = words.plain(row["head"])
        fig.add_trace(
            go.Heatmap(
                z=z,
                x=names,
                y=names,
                coloraxis="coloraxis",
                hoverongaps=False,
                hovertemplate=_literal(head) + "<br>from %{y}<br>to %{x}<br><b>%{z:.3f}</b><extra></extra>",
            ),
            row=r,
            col=c,
        )
        last = i + columns >= len(heads)
        fig.update_xaxes(tickvals=ticks, ticktext=text, tickangle=-90, showticklabels=last, row=r, col=c)
        fig.update_yaxes(tickvals=ticks, ticktext=text, showticklabels=c == 1, row=r, col=c)
        if last:
            fig.update_xaxes(title_text="key token", title_standoff=6, row=r, col=c)
        if c == 1:
            fig.update_yaxes(title_text="query token", title_standoff=4, row=r, col=c)
        number = f"{row['score']:.2f}".replace("0.", ".", 1) if pd.notna(row["score"]) else "–"
        klass = str(row["klass"])
        fig.add_annotation(
            text=f'<span style="color:{shade[klass]}">■</span> <b>{head}</b> {words.plain(klass)} {number}',
            xref=f"x{i + 1 if i else ''} domain",
            yref=f"y{i + 1 if i else ''} domain",
            x=0,
            y=1,
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"size": 11.5},
        )
    size = min(11.0, max(8.5, side / n * 0.95))
    fig.update_xaxes(
        showgrid=False,
        type="category",
        tickfont={"size": size},
        title_font={"size": 11},
        ticklen=2,
        range=[-0.5, n - 0.5],
    )
    fig.update_yaxes(
        showgrid=False,
        type="category",
        tickfont={"size": size},
        title_font={"size": 11},
        ticklen=2,
        range=[n - 0.5, -0.5],
    )
    bar = {
        "orientation": "h",
        "thickness": 9,
        "outlinewidth": 0,
        "lenmode": "pixels",
        "len": 200,
        "tickfont": {"size": 10.5},
        "tickvals": [0, 0.5, 1],
        "x": 1,
        "xanchor": "right",
        "xpad": 0,
        "xref": "paper",
        "y": 1 + 30 / tall,
        "yanchor": "bottom",
        "ypad": 0,
    }
    # Not the bar's own title: above a horizontal bar plotly makes the figure's title step aside.
    fig.add_annotation(
        text="attention (probability)",
        xref="paper",
        x=1,
        xanchor="right",
        xshift=-216,
        yref="paper",
        y=1,
        yanchor="bottom",
        yshift=38,
        showarrow=False,
        font={"size": 12},
    )
    fig.update_layout(
        coloraxis={"colorscale": theme.scale("sequential"), "cmin": 0, "cmax": 1, "colorbar": bar},
        meta={"scale": "sequential"},
    )
    return canvas.finish(
        fig,
        title=title,
        caption=caption,
        plot_height=tall,
        bottom=margin,
        left=margin,
        right=_RIGHT,
        panel_titles=True,
        width=width,
        above=34,
    )


def _literal(text: str) -> str:
    """Text inside a hover template, where `%{` would open a placeholder."""
    return text.replace("%", "&#37;")
