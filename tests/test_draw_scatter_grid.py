"""Scatter grid and text cells: every point and token is drawn once, where it belongs, and hostile text stays text."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from circuits import draw
from circuits.draw.token_cells import token_cells
from circuits.errors import CircuitError

NAMES = {"x": "a", "y": "b", "color": "label", "facet": "layer", "x_title": "component 1", "y_title": "component 2",
         "title": "prompts", "caption": "refusal-gemma (bundled; not Gemma)"}  # fmt: skip


def points() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [{"layer": i, "label": k} for i in range(7) for k in ("harmful", "harmless") for _ in range(4)]
    )
    frame["a"], frame["b"] = rng.normal(size=(2, len(frame)))
    frame.loc[frame["layer"] == 0, ["a", "b"]] = np.nan
    return frame.assign(note=[f"{i}0 % + 5 %" for i in frame["layer"]], text="<b>Help</b> me")


def test_a_panel_per_layer_with_its_note_and_each_class_once_in_the_legend():
    frame = points()
    figure = draw.scatter_grid(frame, facet_note="note", **NAMES)
    titles = [a.text for a in figure.layout.annotations]
    assert all(f"{i}<br>{i}0 % + 5 %" in titles for i in range(7))
    assert titles.count("undefined") == 1
    clouds = [t for t in figure.data if t.mode == "markers" and t.marker.symbol != "cross-thin"]
    assert sum(len(t.x) for t in clouds) == 6 * 8
    assert [t.name for t in clouds if t.showlegend] == ["harmful", "harmless"]
    mine = frame[(frame["layer"] == 3) & (frame["label"] == "harmless")]
    (cloud,) = [t for t in clouds if np.array_equal(t.x, mine["a"])]
    assert np.array_equal(cloud.y, mine["b"])
    crosses = [t for t in figure.data if t.marker.symbol == "cross-thin"]
    assert len(crosses) == 12
    assert any(np.isclose(c.x[0], mine["a"].mean()) and np.isclose(c.y[0], mine["b"].mean()) for c in crosses)
    assert "<b>Help" not in json.dumps([t.hovertext for t in clouds if t.hovertext is not None])
    assert not [t for t in draw.scatter_grid(frame, means=False, **NAMES).data if t.marker.symbol == "cross-thin"]


def test_both_axes_of_a_panel_have_one_scale():
    layout = draw.scatter_grid(points(), **NAMES).layout
    assert layout.yaxis2.scaleanchor == "x2"
    assert layout.yaxis7.scaleanchor == "x7"
    assert layout.yaxis.scaleanchor is None  # nothing is drawn there


def words() -> pd.DataFrame:
    return pd.DataFrame([
        {"head": h, "prompt": p, "pos": i - n, "token": f"<i>{i}", "weight": (i + 1) / 100, "grey": i == 0}
        for h in ("L0.H0", "L1.H1") for p, n in (("harmful 0", 17), ("harmless 1", 3)) for i in range(n)
    ])  # fmt: skip


def test_tokens_stand_in_reading_order_with_their_weights():
    names = {"row": "prompt", "pos": "pos", "token": "token", "value": "weight", "facet": "head"}
    figure = token_cells(
        words().sample(frac=1, random_state=0).sort_values("prompt"), title="t", unit="p", muted="grey", **names
    )
    first = figure.data[0]
    weights = np.array(first.z)
    assert weights.shape == (3, 12)
    assert weights[0] == pytest.approx(np.arange(1, 13) / 100)
    assert weights[1, :5] == pytest.approx([0.13, 0.14, 0.15, 0.16, 0.17])
    assert np.isnan(weights[1, 5:]).all()
    assert weights[2, :3] == pytest.approx([0.01, 0.02, 0.03])
    assert "&lt;i&gt;12" in first.text[1][0]
    assert "span" in first.text[2][0]
    assert "span" not in first.text[2][1]
    assert list(figure.layout.yaxis.tickvals) == [0, 2]
    with pytest.raises(CircuitError, match="more than one row"):
        token_cells(pd.concat([words(), words()]), title="t", unit="p", **names)
