"""What the page is made from: which numbers belong together, how sure they are, the stops, the places, the curve."""

from __future__ import annotations

from itertools import pairwise, product

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from circuit_graphs import MODEL, curve_of, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.graph import component_graph
from circuits.report.circuit.contents import read
from circuits.report.circuit.curve import points
from circuits.report.circuit.layout import place
from circuits.report.circuit.levels import OPENS, STOPS, levels, opening
from circuits.report.circuit.page import _data


def small(effects: list[float | None], **columns: list) -> nx.MultiDiGraph:
    """Heads of one layer, each with an edge into the metric."""
    ids = [f"L0.H{i}" for i in range(len(effects))]
    edges = pd.DataFrame({"source": ids, "target": "metric", "kind": "writes", "effect": effects} | columns)
    return component_graph(pd.DataFrame({"id": [*ids, "metric"]}), edges, {"model": MODEL})


@pytest.mark.parametrize(
    ("columns", "sure"),
    [
        ({}, None),
        ({"low": [0.1], "high": [0.3]}, True),
        ({"low": [-0.1], "high": [0.3]}, False),
        ({"low": [-0.3], "high": [-0.1]}, True),
        ({"low": [0.0], "high": [0.3]}, False),
        ({"low": [0.1], "high": [0.3], "p": [0.2]}, False),  # p knows of the other cells, the interval does not
        ({"low": [-0.1], "high": [0.3], "p": [0.05]}, True),
        ({"p": [0.051]}, False),
    ],
)
def test_how_sure_a_number_is(columns, sure):
    (edge,) = read(small([0.2], **columns)).edges
    assert edge.sure is sure


def test_numbers_belong_together_by_their_names():
    nodes = pd.DataFrame([
        {"id": "L0.H1", "noise": 0.5, "noise_low": 0.4, "noise_high": 0.6, "noise_p": 0.2, "noise_n": 9, "direct": 0.1,
         "effect": 1.0, "low": 0.5, "high": 1.5, "p": 0.001, "n": 7, "low_rank": 3.0, "deep": True, "note": "text"},
        {"id": "metric"},
    ])  # fmt: skip
    contents = read(component_graph(nodes))
    found = {m.name: (m.low, m.high, m.p, m.n) for m in contents.measures}
    assert found == {
        "noise": ("noise_low", "noise_high", "noise_p", "noise_n"),
        "direct": (None, None, None, None),
        "effect": ("low", "high", "p", "n"),
        "low_rank": (None, None, None, None),
    }
    assert contents.nodes[0].sure == {"noise": False, "effect": True}
    assert _data(read(component_graph(nodes)), None, None)["size"] == "effect"
    assert _data(read(component_graph(nodes)), None, "direct")["size"] == "direct"
    assert (
        _data(read(component_graph(nodes.drop(columns=["effect", "low", "high", "p", "n"]))), None, None)["size"]
        == "noise"
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.none() | st.sampled_from([0.5, -0.5, 0.25, 0.0]) | st.floats(-2, 2), min_size=1, max_size=40))
def test_every_stop_shows_the_edges_above_its_threshold(effects):
    stops = levels(read(small(effects)))
    sizes = [abs(effect) for effect in effects if effect is not None]
    for stop in stops[:-1]:
        assert stop.threshold is not None
    for stop in stops:
        if stop.threshold is None:
            assert (stop.edges, len(sizes) < len(effects)) == (len(effects), True)
        else:
            assert stop.edges == sum(size >= stop.threshold for size in sizes)
    assert stops[-1].edges == len(effects)
    assert all(a.edges < b.edges for a, b in pairwise(stops))
    assert {stop.threshold for stop in stops} >= set(sizes)  # with so few, every size is a stop


def test_many_sizes_give_few_stops_from_one_edge_to_all():
    graph = random_graph(200, 3000)
    stops = levels(read(graph))
    sizes = np.array([abs(effect) for *_, effect in graph.edges(data="effect")])
    assert len(stops) <= STOPS
    assert (stops[0].edges, stops[-1].edges) == (1, 3000)
    assert all(stop.edges == (sizes >= stop.threshold).sum() for stop in stops)
    steps = [b.edges / a.edges for a, b in pairwise(stops) if a.edges > 100]
    assert max(steps) < 1.06  # even in the logarithm
    at = opening(stops)
    assert stops[at].edges <= OPENS < stops[at + 1].edges


@pytest.mark.parametrize(("components", "positions"), [(3, False), (12, True), (40, False), (40, True), (400, False)])
def test_every_component_has_a_place_of_its_own_and_edges_run_right(components, positions):
    graph = random_graph(components, min(300, 3 * components) if components > 3 else 2, positions=positions, seed=3)
    contents = read(graph)
    layout = place(contents.nodes)
    spots = list(zip(layout.x, layout.y, strict=True))
    for (i, a), (j, b) in product(enumerate(spots), repeat=2):
        if i < j:
            far = max(
                abs(a[0] - b[0]) / layout.style.largest, abs(a[1] - b[1]) / (layout.style.largest + layout.style.font)
            )
            assert far >= 1, (contents.nodes[i].id, contents.nodes[j].id)
    for edge in contents.edges:
        assert layout.x[edge.source] < layout.x[edge.target]
    for node, (x, _) in zip(contents.nodes, spots, strict=True):
        title = node.id if node.id in {"embed", "metric"} else f"L{graph.nodes[node.id]['layer']}"
        (strip,) = [strip for strip in layout.columns if strip.title == title]
        assert strip.start < x < strip.end
    assert all(a.end <= b.start for a, b in pairwise(layout.columns))
    assert all(a.end <= b.start for a, b in pairwise(layout.lanes))


def test_a_layer_of_many_heads_still_feeds_its_mlp_to_the_right():
    heads = [f"L0.H{head}" for head in range(90)]
    edges = pd.DataFrame({"source": heads, "target": "L0.MLP", "kind": "mlp", "effect": 0.1})
    contents = read(component_graph(pd.DataFrame({"id": [*heads, "L0.MLP"]}), edges))
    layout = place(contents.nodes)
    assert len({round(x) for x in layout.x}) > 2  # so the stack did go on beside itself
    assert all(layout.x[edge.source] < layout.x[edge.target] for edge in contents.edges)


def test_positions_stand_in_the_order_of_a_prompt():
    roles = ("last", "subject", "verb", "post_subject")
    ids = [f"L{layer}.{part}@{role}" for role in roles for layer in (0, 1) for part in ("MLP", "H1")]
    nodes = read(component_graph(pd.DataFrame({"id": [*ids, "embed", "metric"]}))).nodes
    layout = place(nodes)
    height = {node.id: y for node, y in zip(nodes, layout.y, strict=True)}
    ordered = ("subject", "post_subject", "verb", "last")
    lanes = [height[f"L1.{part}@{role}"] for role in ordered for part in ("H1", "MLP")]
    assert lanes == sorted(lanes)
    assert height["L0.H1@last"] == height["L1.H1@last"]
    assert height["embed"] == height["metric"] == pytest.approx((layout.lanes[0].start + layout.lanes[-1].end) / 2)
    assert [strip.title for strip in layout.lanes][:2] == ["subject · heads", "subject · MLPs"]


def test_heads_stand_in_their_order_and_features_by_number():
    ids = [f"L3.H{head}" for head in (10, 2, 7)] + ["L3.F20", "L3.F3"]
    nodes = read(component_graph(pd.DataFrame({"id": ids}))).nodes
    layout = place(nodes)
    down = sorted(zip(layout.y, (node.id for node in nodes), strict=True))
    assert [name for _, name in down] == ["L3.H2", "L3.H7", "L3.H10", "L3.F3", "L3.F20"]


def test_the_curve_is_placed_by_threshold_by_edges_and_by_share_alike(graph):
    frame = curve_of(graph)
    contents = read(graph)
    by_threshold = points(frame, contents)
    assert [point.edges for point in by_threshold] == frame["edges"].tolist()
    assert points(frame.drop(columns="threshold").sample(frac=1, random_state=0), contents) == by_threshold
    shares = frame.drop(columns=["threshold", "edges"]).assign(share=frame["edges"] / len(contents.edges))
    assert points(shares.rename(columns={"null": "baseline"}), contents) == by_threshold
    bare = points(frame[["edges", "faithfulness"]], contents)
    assert {(point.low, point.high, point.null) for point in bare} == {(None, None, None)}


def shared() -> nx.MultiDiGraph:
    """Keys and values that three query heads share, one of them at another position, and edges of their own."""
    nodes = pd.DataFrame({"id": ["embed", "L0.H0", "L0.H1", "L0.H1@last", "L0.H2", "metric"]})
    edges = pd.DataFrame({
        "source": ["embed", "embed", "embed", "embed", "L0.H0", "L0.H1", "L0.H2"],
        "target": ["L0.k[0]", "L0.v[0]", "L0.v[0]@last", "L0.q[1]", "metric", "metric", "metric"],
        "kind": ["k", "v", "v", "q", "final", "final", "final"], "effect": [0.3, 0.5, 0.4, -0.2, 0.3, 0.1, None],
    })  # fmt: skip
    return component_graph(nodes, edges, {"model": MODEL, "n_heads": 4, "n_kv_heads": 1})


def test_edges_into_shared_keys_are_one_measurement():
    contents = read(shared())
    assert (len(contents.edges), contents.measured, contents.total) == (11, 7, 7)
    groups: dict[int, list[tuple[str, str, str | None]]] = {}
    for edge in contents.edges:
        ends = (contents.nodes[edge.source].id, contents.nodes[edge.target].id, edge.shared)
        groups.setdefault(edge.measurement, []).append(ends)
    assert list(groups) == list(range(7))  # in the order of the edges
    assert groups[0] == [("embed", f"L0.H{head}", "L0.v[0]") for head in range(3)]
    assert groups[1] == [("embed", "L0.H1@last", "L0.v[0]@last")]
    assert {len(ends) for number, ends in groups.items() if ends[0][2] is None} == {1}
    assert contents.sizes == [0.5, 0.4, 0.3, 0.3, 0.2, 0.1]


def test_stops_and_curves_count_a_measurement_once():
    contents = read(shared())
    stops = levels(contents)
    assert [(stop.threshold, stop.edges, stop.drawn) for stop in stops] == [
        (0.5, 1, 3), (0.4, 2, 4), (0.3, 4, 8), (0.2, 5, 9), (0.1, 6, 10), (None, 7, 11),
    ]  # fmt: skip
    curve = pd.DataFrame({"threshold": [0.5, 0.3, 0.1], "faithfulness": [0.2, 0.5, 0.9]})
    assert [point.edges for point in points(curve, contents)] == [1, 4, 6]
    by_share = pd.DataFrame({"share": [1 / 7, 1.0], "faithfulness": [0.2, 1.0]})
    assert [point.edges for point in points(by_share, contents)] == [1, 7]
