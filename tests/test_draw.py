"""Figures show what their frames say, name axes and model, and take no markup from other people's text."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from circuits import draw
from circuits.draw import theme
from circuits.errors import CircuitError

CAPTION = "refusal-gemma (bundled; not Gemma) · 46 pairs"
HOSTILE = '</script><img src=x onerror=alert(1)><b>bold</b> <a href="https://x.test">%{y}</a>'


@pytest.fixture
def cells() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [
            {"kind": k, "layer": i, "pos": p}
            for k in ("denoise", "noise")
            for i in range(5)
            for p in (-3, -2, -1)
        ]
    )
    frame["effect"] = rng.normal(size=len(frame))
    frame.loc[4, "effect"] = 40.0
    frame["lo"], frame["hi"] = frame["effect"] - 0.25, frame["effect"] + 0.25
    frame["sure"] = frame["effect"].abs() > 1
    return frame.sample(frac=1, random_state=1)  # the order of rows means nothing


def heat(frame: pd.DataFrame, **more: object) -> go.Figure:
    names = {
        "title": "effect",
        "x_title": "position",
        "y_title": "layer",
        "unit": "logits",
        "caption": CAPTION,
    }
    return draw.heatmap(
        frame, **{"x": "pos", "y": "layer", "value": "effect", "facet": "kind"} | names | more
    )


def series() -> pd.DataFrame:
    frame = pd.DataFrame(
        [{"x": i, "y": i * s, "kind": k} for i in range(6) for k, s in (("clean", 2), ("corrupt", 1))]
    )
    return frame.assign(lo=frame["y"] - 1, hi=frame["y"] + 1)


def attention(heads: int = 6, n: int = 5) -> pd.DataFrame:
    rows = [
        {
            "head": f"L{h}.H0",
            "klass": ("BOS", "direct", "diagonal")[h % 3],
            "score": h / 10,
            "query": q,
            "key": k,
        }
        for h in range(heads)
        for q in range(n)
        for k in range(n)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(value=np.where(frame["key"] <= frame["query"], 0.5, 0.0))


def graph() -> tuple[pd.DataFrame, pd.DataFrame]:
    names = [("e", "embed", 0, "subject"), ("m", "L0.MLP", 1, "subject"), ("h", "L1.H0", 2, "last")]
    nodes = pd.DataFrame(names, columns=["id", "label", "column", "row"]).assign(
        effect=[0.1, -0.5, 1.0], klass=["embed", "MLP", "direct"]
    )
    edges = pd.DataFrame({"source": ["e", "e"], "target": ["m", "h"], "weight": [1.0, -0.2]})
    return nodes, edges


def every_figure(cells: pd.DataFrame, text: str = "words") -> dict[str, go.Figure]:
    frame = series().assign(text=text, panel=text)
    named = {"title": text, "caption": CAPTION}
    axes = {"x_title": "dose (logits)", "y_title": f"metric {text}"}
    nodes, edges = graph()
    labels = {-3: text, -2: "\n", -1: " a"}
    return {
        "heatmap": heat(cells.assign(kind=text + cells["kind"]), x_labels=labels, muted=[-2], marked="sure"),
        "lines": draw.lines(
            frame, x="x", y="y", color="kind", facet="panel", reference={text: 2.0}, **named, **axes
        ),
        "bars": draw.bars(frame, x="x", y="y", color="kind", facet="panel", threshold=2.0, **named, **axes),
        "attention": draw.attention_grid(attention().assign(klass=text), token_labels=[text] * 5, **named),
        "distribution": draw.distribution(
            frame, value="y", color="kind", facet="panel", x_title=text, **named
        ),
        "scatter": draw.scatter(frame, x="x", y="y", color="kind", facet="panel", **named, **axes),
        "polar": draw.polar(frame, angle="x", radius="y", color="kind", radius_title=text, **named),
        "network": draw.network(nodes.assign(label=text, klass=text), edges, **named),
    }


def test_heatmap_is_the_pivot_of_its_frame(cells: pd.DataFrame) -> None:
    fig = heat(cells)
    traces = list(fig.select_traces({"type": "heatmap"}))
    assert len(traces) == 2
    for trace in traces:
        part = cells[cells["kind"] == trace.hovertext[0][0].split("<br>")[0]]
        expected = part.pivot_table(index="layer", columns="pos", values="effect").to_numpy()
        np.testing.assert_array_equal(np.asarray(trace.z, dtype=float), expected)
    assert fig.layout.yaxis.range == (-0.5, 4.5)  # layer 0 at the bottom


def test_diverging_scale_is_centred_symmetric_and_says_where_it_clips(cells: pd.DataFrame) -> None:
    scale = heat(cells, quantile=0.9).layout.coloraxis
    clip = np.quantile(cells["effect"].abs(), 0.9)
    assert scale.cmid == 0
    assert scale.cmin == -scale.cmax == pytest.approx(-clip)
    assert f"clipped at ±{clip:.3g}" in scale.colorbar.title.text
    assert "clipped" not in heat(cells, quantile=1.0).layout.coloraxis.colorbar.title.text
    assert heat(cells, diverging=False).layout.coloraxis.cmid is None


def test_hover_gives_number_interval_and_unit(cells: pd.DataFrame) -> None:
    fig = heat(cells[cells["kind"] == "denoise"], low="lo", high="hi", marked="sure")
    row = cells[(cells["kind"] == "denoise") & (cells["layer"] == 1) & (cells["pos"] == -2)].iloc[0]
    hover = next(fig.select_traces({"type": "heatmap"})).hovertext[1][1]
    assert row["effect"] == 40.0
    assert "layer 1 · position -2" in hover
    assert "<b>40 logits</b> [39.75, 40.25]" in hover
    assert "survives" in hover
    tested = heat(cells.assign(chance=0.0123), p="chance")
    assert "<br>p 0.0123" in next(tested.select_traces({"type": "heatmap"})).hovertext[0][0]


def test_dots_and_dashes_stand_in_their_cells(cells: pd.DataFrame) -> None:
    frame = cells[cells["kind"] == "noise"].reset_index(drop=True)
    frame.loc[0, "effect"] = np.nan
    fig = heat(frame, facet=None, marked="sure")
    dash, dots = list(fig.select_traces({"type": "scatter"}))
    assert list(dash.text) == ["–"]
    assert (dash.x[0] - 3, dash.y[0]) == (frame.loc[0, "pos"], frame.loc[0, "layer"])
    assert len(dots.x) == frame["sure"].sum()


def test_a_cell_with_two_rows_is_an_error(cells: pd.DataFrame) -> None:
    with pytest.raises(CircuitError, match="average the frame"):
        heat(cells, facet=None)
    with pytest.raises(CircuitError, match="no column wrong"):
        heat(cells, value="wrong")
    with pytest.raises(CircuitError, match="no rows"):
        heat(cells.head(0))


def test_template_tokens_are_grey_and_white_space_is_visible(cells: pd.DataFrame) -> None:
    ticks = heat(cells, x_labels={-3: "<bos>", -2: " bomb", -1: "\n"}, muted=[-3, -1]).layout.xaxis.ticktext
    assert [theme.GREY in tick for tick in ticks] == [True, False, True]
    assert ["&lt;bos&gt;" in ticks[0], ticks[1] == "·bomb", "⏎" in ticks[2]] == [True] * 3


def test_every_figure_names_its_axes_and_its_model(cells: pd.DataFrame) -> None:
    for name, fig in every_figure(cells).items():
        captions = [note for note in fig.layout.annotations if note.name == "caption"]
        assert [note.text for note in captions] == [CAPTION], name
        if name == "polar":
            assert any("distance from the centre" in note.text for note in fig.layout.annotations)
            continue
        assert any(axis.title.text for axis in fig.select_xaxes()), name
        assert any(axis.title.text for axis in fig.select_yaxes()), name


def test_text_of_others_is_never_markup(cells: pd.DataFrame) -> None:
    for name, fig in every_figure(cells, HOSTILE).items():
        written = json.loads(fig.to_json())
        for text in strings(written["data"]) | strings(written["layout"]):
            assert not {"<img", "<a ", "</scr", "<b>bold"} & {
                bit for bit in ("<img", "<a ", "</scr", "<b>bold") if bit in text
            }, (
                name,
                text,
            )


def strings(value: object) -> set[str]:
    """All strings that plotly would show: keys, category values and colours included."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return set().union(*(strings(v) for v in value.values()))
    return set().union(*(strings(v) for v in value)) if isinstance(value, list) else set()


def test_lines_carry_bands_gaps_and_references() -> None:
    frame = series()
    frame.loc[4, ["y", "lo", "hi"]] = np.nan  # clean at x = 2
    fig = draw.lines(
        frame, x="x", y="y", color="kind", low="lo", high="hi", reference={"clean run": 7.0}, title="t",
        x_title="layer", y_title="logits", caption=CAPTION,
    )  # fmt: skip
    drawn = [trace for trace in fig.data if trace.showlegend]
    assert [trace.name for trace in drawn] == ["clean", "corrupt"]
    np.testing.assert_array_equal(drawn[0].y, [0, 2, np.nan, 6, 8, 10])
    assert [len(trace.x) for trace in fig.data if trace.fill == "toself"] == [4, 6, 12]
    assert [shape.y0 for shape in fig.layout.shapes] == [7.0]
    assert any("clean run" in note.text for note in fig.layout.annotations)


def test_error_bars_end_at_low_and_high() -> None:
    frame = series()
    fig = draw.bars(
        frame,
        x="x",
        y="y",
        color="kind",
        low="lo",
        high="hi",
        threshold=0.5,
        title="t",
        x_title="x",
        y_title="y",
    )
    for bar in fig.data:
        mine = frame[frame["kind"] == bar.name]
        np.testing.assert_allclose(np.asarray(bar.y) + bar.error_y.array, mine["hi"])
        np.testing.assert_allclose(np.asarray(bar.y) - bar.error_y.arrayminus, mine["lo"])
    assert [shape.y0 for shape in fig.layout.shapes] == [0.5]


def test_attention_maps_are_ordered_square_and_causal() -> None:
    fig = draw.attention_grid(
        attention(), title="t", token_labels=["<bos>", *"abcd"], muted_tokens=[0], caption=CAPTION
    )
    titles = [note.text for note in fig.layout.annotations if "■" in note.text]
    assert ["L4.H0</b> direct .40" in titles[0], "L1.H0</b> direct .10" in titles[1]] == [True, True]
    assert [
        name in title for name, title in zip(["diagonal"] * 2 + ["BOS"] * 2, titles[2:], strict=True)
    ] == [True] * 4
    z = np.asarray(fig.data[0].z, dtype=float)
    assert np.isnan(z[np.triu_indices(5, 1)]).all()
    assert (z[np.tril_indices(5)] == 0.5).all()
    inner_x = fig.layout.width - fig.layout.margin.l - fig.layout.margin.r
    inner_y = fig.layout.height - fig.layout.margin.t - fig.layout.margin.b
    wide = np.diff(fig.layout.xaxis.domain)[0] * inner_x
    tall = np.diff(fig.layout.yaxis.domain)[0] * inner_y
    assert wide == pytest.approx(tall, rel=0.01)


@pytest.mark.parametrize(("heads", "n"), [(1, 3), (64, 20), (8, 70)])
def test_attention_labels_always_have_room(heads: int, n: int) -> None:
    fig = draw.attention_grid(attention(heads, n), title="t", token_labels=["token"] * n)
    side = np.diff(fig.layout.xaxis.domain)[0] * (
        fig.layout.width - fig.layout.margin.l - fig.layout.margin.r
    )
    assert side / len(fig.layout.xaxis.tickvals) >= 8.5
    assert fig.layout.width <= 1080


def test_distribution_shows_every_point_with_its_prompt() -> None:
    frame = series().assign(text="Write <b>it</b>")
    fig = draw.distribution(
        frame, value="y", color="kind", title="t", x_title="metric (logits)", caption=CAPTION
    )
    assert sorted(np.concatenate([np.asarray(box.x) for box in fig.data])) == sorted(frame["y"])
    assert all(box.boxpoints == "all" for box in fig.data)
    assert "Write &lt;b&gt;it&lt;/b&gt;" in fig.data[0].hovertext[0]


def test_network_runs_left_to_right_and_colours_signs() -> None:
    nodes, edges = graph()
    fig = draw.network(nodes, edges, title="t", caption=CAPTION)
    at = {
        trace.text[0]: (trace.x[0], trace.marker.size[0])
        for trace in fig.data
        if trace.mode == "markers+text"
    }
    assert at["embed"][0] < at["L0.MLP"][0] < at["L1.H0"][0]
    assert at["embed"][1] < at["L0.MLP"][1] < at["L1.H0"][1]
    lines = [trace.line for trace in fig.data if trace.mode == "lines" and not trace.name]
    assert lines[0].color.startswith("rgba(0,114,178")  # takes away
    assert lines[0].width < lines[1].width
    with pytest.raises(CircuitError, match="not drawn: ghost"):
        draw.network(nodes, edges.assign(target="ghost"), title="t")


def test_known_classes_keep_their_colour_and_others_do_not_take_it() -> None:
    shade = theme.colours(["direct", "mine", "BOS", "yours"])
    assert shade["direct"] == draw.CLASS_COLOURS["direct"]
    assert len(set(shade.values())) == 4
    assert {theme.POSITIVE, theme.NEGATIVE}.isdisjoint(
        draw.CLASS_COLOURS[k]
        for k in ("direct", "diagonal", "bos", "other", "mlp", "attention", "embed", "metric")
    )


def test_a_figure_carries_one_template_and_no_other(cells: pd.DataFrame) -> None:
    for name, fig in every_figure(cells).items():
        assert fig.layout.template.to_plotly_json() == theme.template("light"), name


def test_panels_in_several_rows_share_one_scale() -> None:
    frame = pd.concat([series().assign(panel=str(i), y=i) for i in range(5)])
    named = {
        "x": "x",
        "y": "y",
        "color": "kind",
        "facet": "panel",
        "title": "t",
        "x_title": "x",
        "y_title": "y",
    }
    for fig in (draw.lines(frame, **named), draw.bars(frame, **named)):
        assert len(list(fig.select_yaxes())) >= 5
        assert {axis.matches for axis in fig.select_yaxes()} == {"y"}
