"""Frames become the graph that they say, in one order, or an error that names the row."""

from __future__ import annotations

import math

import networkx as nx
import pandas as pd
import pytest

from circuits.errors import CircuitError
from circuits.graph.component import component_graph


def nodes():
    return pd.DataFrame(
        {
            "id": ["metric", "L9.MLP", "L10.H0", "L8.H7", "L8.ATTN", "embed", "L9.H6"],
            "klass": [None, None, "other", "direct", None, None, "diagonal"],
            "noising": [math.nan, 0.12, 0.0, 0.41, 0.3, math.nan, -0.2],
            "survives": [False, True, False, True, True, False, True],
            "rank": [0, 3, 9, 1, 2, 0, 4],
        }
    )


def edges():
    return pd.DataFrame(
        {
            "source": ["L9.MLP", "embed", "L8.H7"],
            "target": ["metric", "L8.H7", "L9.MLP"],
            "kind": ["writes", "feeds", "feeds"],
            "effect": [0.5, 0.25, 0.125],
            "low": [0.4, math.nan, 0.1],
        }
    )


def test_nodes_stand_in_the_order_in_which_the_model_computes():
    graph = component_graph(nodes(), edges())
    assert list(graph) == ["embed", "L8.ATTN", "L8.H7", "L9.H6", "L9.MLP", "L10.H0", "metric"]
    assert list(graph.edges) == [("embed", "L8.H7"), ("L8.H7", "L9.MLP"), ("L9.MLP", "metric")]
    assert nx.is_directed_acyclic_graph(graph)


def test_the_order_of_rows_does_not_matter():
    forward = component_graph(nodes(), edges())
    backward = component_graph(nodes()[::-1], edges()[::-1])
    assert list(forward.nodes(data=True)) == list(backward.nodes(data=True))
    assert list(forward.edges(data=True)) == list(backward.edges(data=True))


def test_an_id_says_kind_layer_head_and_position():
    graph = component_graph(pd.DataFrame({"id": ["L8.H7@last", "L9.MLP", "L3.resid_pre@subject", "embed"]}))
    assert graph.nodes["L8.H7@last"] == {"kind": "head", "layer": 8, "head": 7, "position": "last"}
    assert graph.nodes["L9.MLP"] == {"kind": "mlp", "layer": 9}
    assert graph.nodes["L3.resid_pre@subject"] == {"kind": "residual", "layer": 3, "position": "subject"}
    assert graph.nodes["embed"] == {"kind": "embed"}


def test_attributes_are_plain_and_unknown_ones_left_out():
    graph = component_graph(nodes(), edges())
    head = graph.nodes["L8.H7"]
    assert head == {
        "kind": "head", "layer": 8, "head": 7, "klass": "direct",
        "noising": 0.41, "survives": True, "rank": 1,
    }  # fmt: skip
    assert [type(head[name]) for name in ("layer", "noising", "survives", "rank")] == [int, float, bool, int]
    assert graph.nodes["metric"] == {"kind": "metric", "survives": False, "rank": 0}
    assert graph.edges["embed", "L8.H7"] == {"kind": "feeds", "effect": 0.25}


def test_columns_with_gaps_are_still_whole_numbers():
    frame = pd.DataFrame(
        {"id": ["sae-12", "metric"], "kind": ["feature", "metric"], "layer": [9.0, math.nan]}
    )
    layer = component_graph(frame).nodes["sae-12"]["layer"]
    assert layer == 9
    assert isinstance(layer, int)


def test_a_feature_reads_its_block_and_feeds_the_next():
    frame = pd.DataFrame(
        {"id": ["f", "L9.MLP", "L10.H0"], "kind": ["feature", "mlp", "head"], "layer": [9, 9, 10]}
    )
    table = pd.DataFrame({"source": ["L9.MLP", "f"], "target": ["f", "L10.H0"], "kind": ["writes", "feeds"]})
    assert list(component_graph(frame, table).edges) == [("L9.MLP", "f"), ("f", "L10.H0")]


def test_the_graph_says_where_its_numbers_come_from():
    graph = component_graph(nodes(), None, {"model": "refusal-gemma (not Gemma)", "pairs": 46, "metric": ""})
    assert graph.graph == {"model": "refusal-gemma (not Gemma)", "pairs": 46}
    assert not graph.edges


def test_an_empty_table_is_an_empty_graph():
    assert len(component_graph(pd.DataFrame({"id": []}), edges()[:0])) == 0


def test_the_frames_given_are_left_as_they_were():
    mine, theirs = nodes(), edges()
    component_graph(mine, theirs)
    pd.testing.assert_frame_equal(mine, nodes())
    pd.testing.assert_frame_equal(theirs, edges())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["L8.H7"]}, "no column 'id'"),
        ({"id": [""]}, "row 0 has the id ''"),
        ({"id": ["metric", 7]}, "row 1 has the id 7"),
        ({"id": ["L8.H7", "L8.H7"]}, "repeated nodes: L8.H7"),
        ({"id": ["L8.H7"], "layer": [9]}, "its layer is 9, but its id says 8"),
        ({"id": ["L8.H7"], "kind": ["mlp"]}, "its kind is 'mlp', but its id says 'head'"),
        ({"id": ["L8.resid_post"]}, "kind None is none of embed"),
        ({"id": ["nose"], "kind": ["organ"]}, "kind 'organ' is none of embed"),
        ({"id": ["f"], "kind": ["feature"]}, "a feature needs its column `layer`"),
        ({"id": ["f"], "kind": ["feature"], "layer": [8.5]}, "a feature needs its column `layer`"),
        ({"id": ["L8.H7"], "tokens": [["a", "b"]]}, "node L8.H7: 'tokens' is a list"),
        ({"id": ["L8.H7"], "noising": [math.inf]}, "node L8.H7: 'noising' is infinite"),
    ],
)
def test_a_wrong_node_is_named(columns, message):
    with pytest.raises(CircuitError, match=message):
        component_graph(pd.DataFrame(columns))


@pytest.mark.parametrize(
    ("source", "target", "kind", "message"),
    [
        ("L9.MLP", "L8.H7", "feeds", "L9.MLP → L8.H7 runs backwards"),
        ("L8.H7", "L8.ATTN", "feeds", "within one step"),
        ("L8.H7", "L8.H7", "feeds", "within one step"),
        ("metric", "L9.MLP", "feeds", "runs backwards"),
        ("L8.H7", "L11.H0", "feeds", "its target is not among the 7 nodes"),
        ("L1.MLP", "metric", "writes", "its source is not among"),
        ("L8.H7", "L9.MLP", "likes", "kind 'likes' is none of writes, feeds"),
    ],
)
def test_a_wrong_edge_is_named(source, target, kind, message):
    with pytest.raises(CircuitError, match=message):
        component_graph(nodes(), pd.DataFrame({"source": [source], "target": [target], "kind": [kind]}))


def test_a_repeated_edge_is_named():
    twice = pd.concat([edges(), edges()[:1]])
    with pytest.raises(CircuitError, match="L9.MLP → metric is repeated"):
        component_graph(nodes(), twice)
