"""How values show themselves in a notebook: small tables of escaped text, and figures that need no network.

1. Whatever has something to tell has `_repr_html_`: a heading, a few facts, a short table. It holds no script.
2. What has a picture has `_repr_mimebundle_` besides: plotly's own bundle, which JupyterLab, Notebook and VS Code draw,
   with the same figure as HTML for pages that are made from a notebook.
3. The certificate and the model's name stand under the picture itself, so that they stay with a copy of it.

Text of prompts, tokens, models and files reaches the page through `html.escape`, or as JSON inside plotly's own script,
which writes `<` and `>` as escapes. Nothing here runs a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final, final

from circuits.draw import theme, words

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROWS: Final = 12
"""Rows of a table that are shown; `to_frame()` has all."""
COLUMNS: Final = 12
_LONGEST: Final = 400
"""Characters of one cell."""
_SMALL: Final = "font-size:90%;opacity:.75"
_LEFT: Final = "text-align:left;vertical-align:top"
_LINE: Final = 15
"""Pixels of a line under a figure."""
_SENT: Final[set[str]] = set()
"""Scripts that a figure of this session has brought: a page needs plotly.js once, and it is large."""


def card(title: str, *parts: str) -> str:
    """A heading (escaped here) over parts that are HTML already."""
    return f"<div><div><b>{_safe(title)}</b></div>{''.join(parts)}</div>"


def lines(*texts: str) -> str:
    """Small print, one line each; empty ones are left out."""
    return "".join(f'<div style="{_SMALL}">{_safe(text)}</div>' for text in texts if text)


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values, one row each."""
    return _table(f'<tr><th style="{_LEFT}">{_safe(name)}</th>{_cell(value)}</tr>' for name, value in rows)


def rows(names: Sequence[str], table: Iterable[Sequence[object]], *, total: int) -> str:
    """The first rows of a table of `total` rows; the rest are counted."""
    head = "".join(f'<th style="{_LEFT}">{_safe(name)}</th>' for name in names)
    shown = [f"<tr>{''.join(_cell(value) for value in row)}</tr>" for _, row in zip(range(ROWS), table, strict=False)]
    more = f'<tr><td colspan="{len(names)}" style="{_LEFT}">… {total - ROWS} more</td></tr>' if total > ROWS else ""
    return _table([f"<tr>{head}</tr>", *shown, more])


def frame(table: pd.DataFrame) -> str:
    """The first rows and columns of a frame; one row alone as names and values."""
    if len(table) == 1:
        return facts((str(name), value) for name, value in table.iloc[0].items())
    some = table.iloc[:ROWS, :COLUMNS]
    left = [str(column) for column in table.columns[COLUMNS:]]
    note = lines(f"and the columns {', '.join(left)}") if left else ""
    names = [str(column) for column in some.columns]
    return rows(names, some.itertuples(index=False, name=None), total=len(table)) + note


def noted(figure: go.Figure, note: str) -> go.Figure:
    """The figure with one more line under its caption, and the height that takes; the plot itself stays as large."""
    if not note:
        return figure
    layout: Any = figure.layout
    inner = layout.width or 980
    text = words.wrapped(note, int((inner - 20) / 6.1))
    captions = [a for a in layout.annotations if a.name == "caption"]
    added = _LINE * (text.count("<br>") + 1)
    old = float(layout.height or 450)
    bottom = float(layout.margin.b if layout.margin.b is not None else 80)
    if captions:
        captions[0].text = f"{captions[0].text}<br>{text}"
    else:
        figure.add_annotation(
            name="caption", text=text, font={"size": 11, "color": theme.GREY}, showarrow=False, align="left",
            xref="paper", x=0, xanchor="left", yref="paper", y=0, yanchor="top", yshift=4 - bottom,
        )  # fmt: skip
        added += 8
    legend = layout.legend
    if legend.yref == "container" and legend.y is not None:
        legend.y = 1 - (1 - legend.y) * old / (old + added)
    return figure.update_layout(height=old + added, margin_b=bottom + added)


def bundle(figure: go.Figure, html: Callable[[], str], text: str) -> dict[str, Any]:
    """What a notebook is told of something with a picture: MIME type -> content.

    plotly's own bundle, as its `renderers.default` asks for it. Where that is its JSON alone, which pages made from a
    notebook cannot draw, the figure is added as HTML; where it draws nothing here, the card `html`. `text` is for a terminal.
    """
    made: dict[str, Any] = dict(figure._repr_mimebundle_())  # pyright: ignore[reportPrivateUsage]  IPython's protocol
    if set(made) == {"application/vnd.plotly.v1+json"}:
        made["text/html"] = _drawn(figure)
    elif not made:
        made["text/html"] = html()
    return made | {"text/plain": text}


@final
@dataclass(frozen=True, eq=False)
class Picture:
    """A figure for the last line of a cell, shown as results show theirs: `Picture(circle.refusal_figure())`.

    plotly shows a figure of its own accord, too, but a page made from the notebook lacks it then.
    """

    figure: go.Figure
    note: str = ""
    """One line under its caption, such as a certificate."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        del include, exclude
        noted_here = noted(type(self.figure)(self.figure), self.note)
        heading = str(noted_here.layout.title.text or "a figure")  # pyright: ignore[reportAttributeAccessIssue]
        return bundle(noted_here, lambda: card(heading, lines(self.note)), heading)


def _drawn(figure: go.Figure) -> str:
    """The figure as HTML; the first of a session brings plotly.js, which those after it use."""
    from plotly.io import to_html

    first = not _SENT
    _SENT.add("plotly.js")
    return to_html(
        figure, full_html=False, include_mathjax=False, include_plotlyjs=first, default_width="100%", validate=False
    )


def _table(body: Iterable[str]) -> str:
    return f"<table><tbody>{''.join(body)}</tbody></table>"


def _cell(value: object) -> str:
    return f'<td style="{_LEFT}">{_safe(_text(value))}</td>'


def _safe(text: str) -> str:
    """Text that is nothing but text: no markup, and no mark that turns the text beside it round."""
    return escape("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−") if math.isfinite(value) else "–"
    said = str(value)
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
