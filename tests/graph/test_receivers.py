"""An edge ends in what reads it: q, k and v in a head, shared keys and values in each head of their group."""

from __future__ import annotations

import pandas as pd
import pytest

from circuits.errors import CircuitError
from circuits.graph.component import component_graph

GROUPED = {"n_layers": 4, "n_heads": 8, "n_kv_heads": 2}
IDS = [
    "embed",
    "L1.H0",
    "L1.MLP",
    *(f"L2.H{head}" for head in range(8)),
    "L2.H1@last",
    "L2.MLP",
    "L3.resid_post",
    "metric",
]


def build(rows, attributes=GROUPED):
    frame = pd.DataFrame(rows, columns=["source", "target", "kind", "effect", *["kv_head"][: len(rows[0]) - 4]])
    return component_graph(pd.DataFrame({"id": IDS}), frame, attributes)


def test_a_receiver_may_be_named_by_the_site_that_was_edited():
    graph = build([("L1.H0", "L2.q[5]", "q", 0.25), ("L1.MLP", "L2.q[1]@last", None, 0.5)])
    assert graph.edges["L1.H0", "L2.H5", "q"] == {"kind": "q", "effect": 0.25}
    assert graph.edges["L1.MLP", "L2.H1@last", "q"]["effect"] == 0.5


@pytest.mark.parametrize("kind", ["k", "v"])
def test_an_edge_into_a_shared_head_reaches_each_query_head_of_its_group(kind):
    """Eight query heads, two key–value heads: heads 0 to 3 read the first, 4 to 7 the second."""
    graph = build([("L1.H0", f"L2.{kind}[0]", kind, 0.5), ("L1.H0", f"L2.{kind}[1]", kind, -0.25)])
    effects = {target: values for _, target, values in graph.edges(data=True)}
    assert effects == {
        f"L2.H{head}": {"kind": kind, "effect": 0.5 if head < 4 else -0.25, "kv_head": head // 4} for head in range(8)
    }
    once = {(s, v["kind"], graph.nodes[t]["layer"], v["kv_head"]): v["effect"] for s, t, v in graph.edges(data=True)}
    assert sum(once.values()) == 0.25  # each measurement once, though eight edges carry the two


def test_a_shared_head_at_a_position_reaches_the_heads_of_that_position():
    graph = build([("L1.H0", "L2.k[0]@last", "k", 0.5)])
    assert [target for _, target in graph.edges()] == ["L2.H1@last"]


def test_only_heads_that_are_nodes_are_reached():
    frame = pd.DataFrame({"source": ["embed"], "target": ["L1.k[0]"], "kind": ["k"]})
    graph = component_graph(pd.DataFrame({"id": IDS}), frame, GROUPED)
    assert list(graph.edges) == [("embed", "L1.H0", "k")]


def test_without_groups_each_head_has_its_own_keys():
    graph = build([("L1.H0", "L2.k[3]", "k", 0.5)], {"n_heads": 8, "n_kv_heads": 8})
    assert list(graph.edges) == [("L1.H0", "L2.H3", "k")]


def test_edges_measured_with_attention_ungrouped_differ_within_a_group():
    graph = build([("L1.H0", "L2.H0", "k", 0.5), ("L1.H0", "L2.H1", "k", 0.25)])
    assert [values["effect"] for *_, values in graph.edges(data=True)] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("rows", "attributes", "message"),
    [
        ([("L1.H0", "L2.MLP", "q", 1)], GROUPED, "kind 'q' runs into a head, but L2.MLP is a mlp"),
        ([("L1.H0", "L2.H0", "mlp", 1)], GROUPED, "kind 'mlp' runs into a mlp, but L2.H0 is a head"),
        ([("L1.H0", "L2.MLP", "final", 1)], GROUPED, "kind 'final' runs into a metric or residual"),
        ([("L1.H0", "L3.resid_post", "final", 1)], {"n_layers": 5}, "is not the final residual stream"),
        ([("L1.H0", "L2.q[5]", "k", 1)], GROUPED, "its kind is 'k', but its target says 'q'"),
        ([("L1.H0", "L2.q[9]", "q", 1)], {}, "its target is not among"),
        ([("L1.H0", "L2.k[0]", "k", 1)], {"n_heads": 8}, "give the graph its attributes n_heads and n_kv_heads"),
        ([("L1.H0", "L2.k[0]", "k", 1)], {"n_heads": 8, "n_kv_heads": 3}, "n_heads 8 is no multiple of n_kv_heads 3"),
        ([("L1.H0", "L2.k[2]", "k", 1)], GROUPED, "none of its query heads L2.H8…H11 is a node"),
        ([("L1.H0", "L2.H0", "k", 1, 1)], GROUPED, r"head 0 reads key–value head 0 \(groups of 4\), but kv_head is 1"),
        ([("L1.H0", "L2.H0", "q", 1, 0)], GROUPED, "kv_head stands on an edge of kind 'q'"),
        ([("L1.H0", "L2.H0", "k", 1, -1)], GROUPED, "kv_head is -1; it counts"),
        (
            [("L1.H0", "L2.H0", "k", 0.5, 0), ("L1.H0", "L2.H1", "k", 0.25, 0)], GROUPED,
            "L1.H0 → L2.H0 and edge L1.H0 → L2.H1 share key–value head 0",
        ),
    ],
)  # fmt: skip
def test_a_receiver_that_is_none_is_named(rows, attributes, message):
    with pytest.raises(CircuitError, match=message):
        build(rows, attributes)


def test_the_final_stream_is_the_last_of_the_model_where_its_depth_is_known():
    assert build([("L1.H0", "L3.resid_post", "final", 1)]).number_of_edges() == 1


def test_where_attention_and_mlp_run_in_parallel_neither_reads_the_other():
    rows = [("L2.H0", "L2.MLP", "mlp", 1.0)]
    assert build(rows).number_of_edges() == 1
    assert build([("L1.H0", "L2.MLP", "mlp", 1.0)], {"parallel_attn_mlp": True}).number_of_edges() == 1
    with pytest.raises(CircuitError, match="L2.H0 → L2.MLP: attention and MLP of one block run in parallel here"):
        build(rows, {"parallel_attn_mlp": True})
