"""Frames become the graph that they say, in one order, or an error that names the row."""

from __future__ import annotations

import math
from fractions import Fraction

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from circuits.errors import CircuitError
from circuits.graph.component import component_graph


def nodes():
    return pd.DataFrame({
        "id": ["metric", "L9.MLP", "L10.H0", "L8.H7", "L8.ATTN", "embed", "L9.H6"],
        "klass": [None, None, "other", "direct", None, None, "diagonal"],
        "noising": [math.nan, 0.12, 0.0, 0.41, 0.3, math.nan, -0.2],
        "survives": [False, True, False, True, True, False, True],
        "rank": [0, 3, 9, 1, 2, 0, 4],
    })  # fmt: skip


def edges():
    return pd.DataFrame({
        "source": ["L9.MLP", "embed", "L8.H7"],
        "target": ["metric", "L8.H7", "L9.MLP"],
        "kind": ["writes", "feeds", "feeds"],
        "effect": [0.5, 0.25, 0.125],
        "low": [0.4, math.nan, 0.1],
    })  # fmt: skip


def test_nodes_stand_in_the_order_in_which_the_model_computes():
    graph = component_graph(nodes(), edges())
    assert list(graph) == ["embed", "L8.ATTN", "L8.H7", "L9.H6", "L9.MLP", "L10.H0", "metric"]
    assert list(graph.edges) == [
        ("embed", "L8.H7", "feeds"), ("L8.H7", "L9.MLP", "feeds"), ("L9.MLP", "metric", "writes"),
    ]  # fmt: skip
    assert nx.is_directed_acyclic_graph(graph)


def test_a_block_computes_stream_heads_middle_mlp_features_and_end():
    ids = ["L2.resid_pre", "L2.H0", "attention feature", "L2.resid_mid", "L2.MLP", "rest", "L2.resid_post", "L2.F5"]
    frame = pd.DataFrame({"id": ids[::-1]})
    frame["kind"] = frame["id"].map({"attention feature": "feature", "rest": "error"})
    frame["layer"] = frame["kind"].map({"feature": 2, "error": 2})
    frame["site"] = frame["kind"].map({"feature": "attn_out"})
    graph = component_graph(frame, pd.DataFrame({"source": ids[:-1], "target": ids[1:], "kind": ["feeds"] * 7}))
    assert list(graph) == ids
    assert list(nx.topological_sort(graph)) == ids


def test_parallel_edges_of_several_kinds_join_two_heads():
    table = pd.DataFrame({
        "source": ["L8.H7"] * 4, "target": ["L9.H6"] * 4, "kind": ["v", "feeds", "k", "q"],
        "effect": [0.1, 0.7, 0.2, 0.3],
    })  # fmt: skip
    graph = component_graph(nodes(), table)
    assert list(graph.edges) == [("L8.H7", "L9.H6", kind) for kind in ("q", "k", "v", "feeds")]
    assert graph.edges["L8.H7", "L9.H6", "k"] == {"kind": "k", "effect": 0.2}
    assert graph.number_of_edges("L8.H7", "L9.H6") == 4


def test_a_graph_without_parallel_edges_has_the_same_type():
    graph = component_graph(nodes(), edges())
    assert type(graph) is nx.MultiDiGraph
    assert isinstance(graph, nx.DiGraph)
    assert graph.edges["L9.MLP", "metric", "writes"]["effect"] == 0.5


def test_the_order_of_rows_does_not_matter():
    forward = component_graph(nodes(), edges())
    backward = component_graph(nodes()[::-1], edges()[::-1])
    assert list(forward.nodes(data=True)) == list(backward.nodes(data=True))
    assert list(forward.edges(data=True)) == list(backward.edges(data=True))


def test_an_id_says_kind_layer_head_feature_and_position():
    ids = ["L8.H7@last", "L9.MLP", "L3.resid_pre@subject", "L3.resid_post", "L9.F123", "L4.ATTN", "embed", "metric"]
    graph = component_graph(pd.DataFrame({"id": ids}))
    assert dict(graph.nodes(data=True)) == {
        "L8.H7@last": {"kind": "head", "layer": 8, "head": 7, "position": "last"},
        "L9.MLP": {"kind": "mlp", "layer": 9},
        "L3.resid_pre@subject": {"kind": "residual", "layer": 3, "position": "subject"},
        "L3.resid_post": {"kind": "residual", "layer": 3, "site": "resid_post"},
        "L9.F123": {"kind": "feature", "layer": 9, "feature": 123},
        "L4.ATTN": {"kind": "attn", "layer": 4},
        "embed": {"kind": "embed"},
        "metric": {"kind": "metric"},
    }  # fmt: skip


def test_attributes_are_plain_and_unknown_ones_left_out():
    graph = component_graph(nodes(), edges())
    head = graph.nodes["L8.H7"]
    assert head == {
        "kind": "head", "layer": 8, "head": 7, "klass": "direct",
        "noising": 0.41, "survives": True, "rank": 1,
    }  # fmt: skip
    assert [type(head[name]) for name in ("layer", "noising", "survives", "rank")] == [int, float, bool, int]
    assert graph.nodes["metric"] == {"kind": "metric", "survives": False, "rank": 0}
    assert graph.edges["embed", "L8.H7", "feeds"] == {"kind": "feeds", "effect": 0.25}


def test_numpy_scalars_become_python_ones():
    values = {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(1), "d": np.str_("x")}
    graph = component_graph(pd.DataFrame({"id": ["metric"]}), None, values)
    assert [(value, type(value)) for value in graph.graph.values()] == [
        (0.5, float),
        (3, int),
        (True, bool),
        ("x", str),
    ]


def test_columns_with_gaps_are_still_whole_numbers():
    frame = pd.DataFrame({"id": ["sae-12", "metric"], "kind": ["feature", "metric"], "layer": [9.0, math.nan]})
    layer = component_graph(frame).nodes["sae-12"]["layer"]
    assert layer == 9
    assert isinstance(layer, int)


def test_a_feature_reads_its_block_and_feeds_the_next():
    frame = pd.DataFrame({"id": ["f", "L9.MLP", "L10.H0"], "kind": ["feature", "mlp", "head"], "layer": [9, 9, 10]})
    table = pd.DataFrame({"source": ["L9.MLP", "f"], "target": ["f", "L10.H0"], "kind": ["writes", "feeds"]})
    assert [edge[:2] for edge in component_graph(frame, table).edges] == [("L9.MLP", "f"), ("f", "L10.H0")]


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
        ({"id": ["L8.H7", "L8.H7"]}, "repeated nodes: 'L8.H7'"),
        ({"id": ["L8.H7"], "layer": [9]}, "its layer is 9, but its id says 8"),
        ({"id": ["L8.H7"], "kind": ["mlp"]}, "its kind is 'mlp', but its id says 'head'"),
        ({"id": ["L9.F12"], "feature": [13]}, "its feature is 13, but its id says 12"),
        ({"id": ["L8.pattern[3]"]}, "kind None is none of embed"),
        ({"id": ["L08.H7"]}, "node L08.H7: kind None is none of embed"),
        ({"id": ["L٣.H7"]}, "kind None is none of embed"),
        ({"id": ["L8.H7\n"]}, "kind None is none of embed"),
        ({"id": ["L" + "9" * 5000 + ".H0"]}, "kind None is none of embed"),
        ({"id": ["nose"], "kind": ["organ"]}, "kind 'organ' is none of embed"),
        ({"id": ["f"], "kind": ["feature"]}, "a feature needs its column `layer`"),
        ({"id": ["f"], "kind": ["feature"], "layer": [8.5]}, "layer is 8.5; it must be int"),
        ({"id": ["f"], "kind": ["feature"], "layer": [-1]}, "layer is -1; it counts"),
        ({"id": ["f"], "kind": ["feature"], "layer": [3], "site": ["q"]}, "site 'q' is none that a feature has"),
        ({"id": ["L3.MLP"], "site": ["resid_pre"]}, "site 'resid_pre' is none that a mlp has"),
        ({"id": ["h"], "kind": ["head"], "layer": [3]}, "a head needs its column `head`"),
        ({"id": ["L8.H7"], "klass": [3]}, "node L8.H7: klass is 3; it must be str"),
        ({"id": ["L8.H7"], "effect": ["big"]}, "node L8.H7: effect is 'big'; it must be float or int"),
        ({"id": ["L8.H7"], "effect": [True]}, "effect is True; it must be float or int"),
        ({"id": ["L8.H7"], "p": [1.5]}, "p is 1.5; a p-value lies between 0 and 1"),
        ({"id": ["L8.H7"], "low": [0.2], "high": [0.1]}, "low 0.2 lies above high 0.1"),
        ({"id": ["L8.H7"], "tokens": [["a", "b"]]}, "node L8.H7: 'tokens' is a list"),
        ({"id": ["L8.H7"], "z": [np.zeros(3)]}, "node L8.H7: 'z' is a ndarray"),
        ({"id": ["L8.H7"], "half": [Fraction(1, 2)]}, "node L8.H7: 'half' is a Fraction"),
        ({"id": ["L8.H7"], "when": [pd.Timestamp("2020-01-01")]}, "'when' is a Timestamp"),
        ({"id": ["L8.H7"], "noising": [math.inf]}, "node L8.H7: 'noising' is infinite"),
        ({"id": ["L8.H7"], "hash": [2**53 + 1]}, "'hash' is 9007199254740993, beyond 2\\^53, where readers round"),
        ({"id": ["L8.H7"], "token": ["a\x00b"]}, "'token' has the character U\\+0000, which files cannot hold"),
        ({"id": ["L8.H7\x1b"]}, "the character U\\+001B"),
        ({"id": ["L8.H7"], " ": [1]}, "the attribute name ' ' is not one"),
    ],
)  # fmt: skip
def test_a_wrong_node_is_named(columns, message):
    with pytest.raises(CircuitError, match=message):
        component_graph(pd.DataFrame(columns))


def test_a_column_that_stands_twice_is_named():
    frame = pd.DataFrame([["L8.H7", 1, 2]], columns=["id", "effect", "effect"])
    with pytest.raises(CircuitError, match="the column 'effect' stands twice"):
        component_graph(frame)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"n_layers": "9"}, "graph: n_layers is '9'; it must be int"),
        ({"n_layers": 8}, "node L8.H7: the graph's n_layers is 8, so there is no layer 8"),
        ({"n_heads": 7}, "node L8.H7: the graph's n_heads is 7, so there is no head 7"),
        ({"n_kv_heads": 0}, "n_kv_heads is 0; it counts"),
        ({"parallel_attn_mlp": 1}, "parallel_attn_mlp is 1; it must be bool"),
        ({"model": ["a"]}, "graph: 'model' is a list"),
    ],
)
def test_a_wrong_attribute_of_the_graph_is_named(attributes, message):
    with pytest.raises(CircuitError, match=message):
        component_graph(nodes()[3:5], None, attributes)


@pytest.mark.parametrize(
    ("source", "target", "kind", "message"),
    [
        ("L9.MLP", "L8.H7", "feeds", "L9.MLP → L8.H7 runs backwards"),
        ("L8.H7", "L8.ATTN", "feeds", "within one step"),
        ("L8.H7", "L8.H7", "feeds", "within one step"),
        ("metric", "L9.MLP", "feeds", "runs backwards"),
        ("L8.H7", "L11.H0", "feeds", "its target is not among the 7 nodes"),
        ("L1.MLP", "metric", "writes", "its source is not among"),
        ("L8.H7", "L9.MLP", "likes", "kind 'likes' is none of q, k, v, mlp, final, writes, feeds"),
        ("L8.H7", "L9.MLP", None, "kind None is none of q"),
    ],
)
def test_a_wrong_edge_is_named(source, target, kind, message):
    with pytest.raises(CircuitError, match=message):
        component_graph(nodes(), pd.DataFrame({"source": [source], "target": [target], "kind": [kind]}))


def test_a_cycle_is_refused_at_the_edge_that_closes_it():
    ring = pd.DataFrame({
        "source": ["L8.H7", "L9.MLP", "L10.H0"], "target": ["L9.MLP", "L10.H0", "L8.H7"],
        "kind": ["mlp", "q", "k"],
    })  # fmt: skip
    with pytest.raises(CircuitError, match="edge L10.H0 → L8.H7 runs backwards .* without cycles"):
        component_graph(nodes(), ring)


def test_a_repeated_edge_is_named_with_its_kind():
    twice = pd.concat([edges(), edges()[:1]])
    with pytest.raises(CircuitError, match="L9.MLP → metric is repeated with kind 'writes'"):
        component_graph(nodes(), twice)
