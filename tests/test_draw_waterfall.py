"""A waterfall's bars begin where the sum so far ends, and a total that is none is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from circuits import draw
from circuits.draw import theme
from circuits.errors import CircuitError

HOSTILE = "<img src=x onerror=alert(1)>"


def terms() -> pd.DataFrame:
    frame = pd.DataFrame({
        "term": ["direct", "final norm", "L2.MLP", "sum so far", "L3.H1", "total"],
        "mean": [-2.0, 0.5, 1.0, -0.5, 0.25, -0.25], "sums": [False, False, False, True, False, True],
    })  # fmt: skip
    return frame.assign(low=frame["mean"] - 0.1, high=frame["mean"] + 0.2)


def waterfall(frame: pd.DataFrame, **more: str) -> go.Figure:
    named = {"title": "t", "x_title": "term", "y_title": "change (logits)", "caption": "a model; not Gemma"}
    return draw.waterfall(frame, x="term", y="mean", total="sums", **named | more)


def test_each_bar_starts_where_the_last_one_ended() -> None:
    fig = waterfall(terms())
    bars = {name: (tuple(t.x), tuple(t.base), tuple(t.y)) for t in fig.data if (name := t.name)}
    assert bars["lowers"] == ((0,), (0.0,), (-2.0,))
    assert bars["raises"] == ((1, 2, 4), (-2.0, -1.5, -0.5), (0.5, 1.0, 0.25))
    assert bars["total"] == ((3, 5), (0.0, 0.0), (-0.5, -0.25))
    assert [shape.y0 for shape in fig.layout.shapes] == [-2.0, -1.5, -0.5, -0.5, -0.25]
    assert {t.marker.color for t in fig.data} == {theme.POSITIVE, theme.NEGATIVE, theme.GREY}
    assert len({t.width for t in fig.data}) == 1
    assert list(fig.layout.xaxis.ticktext) == list(terms()["term"])


def test_intervals_stand_at_the_ends_of_bars() -> None:
    fig = waterfall(terms(), low="low", high="high")
    marks = next(fig.select_traces({"type": "scatter"}))
    np.testing.assert_allclose(marks.y, [-2.0, -1.5, -0.5, -0.5, -0.25, -0.25])
    np.testing.assert_allclose(marks.error_y.array, 0.2)
    np.testing.assert_allclose(marks.error_y.arrayminus, 0.1)
    hover = next(t for t in fig.data if t.name == "raises").hovertext
    assert "<b>1</b> [0.9, 1.2]" in hover[1]
    assert "sum so far −0.5" in hover[1]


def test_names_axes_caption_and_no_markup_of_others() -> None:
    frame = terms().assign(term=[HOSTILE, *terms()["term"][1:]])
    fig = waterfall(frame, title=HOSTILE, y_title=HOSTILE)
    assert "<img" not in fig.to_json().replace("\\u003c", "<")
    assert [note.text for note in fig.layout.annotations if note.name == "caption"] == ["a model; not Gemma"]
    assert fig.layout.template.to_plotly_json() == theme.template("light")
    assert fig.layout.xaxis.title.text == "term"


def test_sums_that_are_none_are_refused() -> None:
    wrong = terms()
    wrong.loc[5, "mean"] = -0.3
    with pytest.raises(CircuitError, match="total is -0.3, but the terms before it add up to -0.25"):
        waterfall(wrong)
    undefined = terms()
    undefined.loc[2, "mean"] = np.nan
    with pytest.raises(CircuitError, match="L2.MLP: an undefined term"):
        waterfall(undefined)
    with pytest.raises(CircuitError, match="no column wrong"):
        waterfall(terms(), low="wrong", high="high")
