"""A post-norm's own change: a node that its id says, beside its block's heads; held by every format, or refused by name."""

from __future__ import annotations

import json

import networkx as nx
import pandas as pd
import pytest
from graph.samples import TWO_WAY, assert_same

from circuits.engine.edges import names as edges_names
from circuits.errors import CircuitError, OutputError
from circuits.graph import component_graph, export, load_graph
from circuits.graph.formats import FORMS, parse_graph

MODEL = {"model": "toy", "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_model": 8, "parallel_attn_mlp": False}


def normed():
    nodes = pd.DataFrame({
        "id": ["metric", "L1.H0", "L0.MLP", "L0.post-norm", "L0.H1", "embed"],
        "effect": [None, 0.1, 0.2, -0.25, 0.3, None],
    })  # fmt: skip
    edges = pd.DataFrame({
        "source": ["embed", "L0.H1", "L0.post-norm", "L0.post-norm", "L0.post-norm", "L0.MLP", "L1.H0"],
        "target": ["L0.H1", "L0.MLP", "L0.MLP", "metric", "L1.H0", "metric", "metric"],
        "kind": ["v", "mlp", "mlp", "final", "q", "final", "final"],
        "effect": [0.5, 0.4, -0.1, 1 / 3, 0.05, 0.2, 0.1],
    })  # fmt: skip
    return component_graph(nodes, edges, MODEL)


def test_its_id_says_what_it_is_and_where_it_stands():
    graph = normed()
    assert graph.nodes["L0.post-norm"] == {"kind": "norm", "layer": 0, "effect": -0.25}
    assert list(graph) == ["embed", "L0.post-norm", "L0.H1", "L0.MLP", "L1.H0", "metric"]
    assert nx.is_directed_acyclic_graph(graph)
    at = component_graph(pd.DataFrame({"id": ["L3.post-norm@last"]})).nodes["L3.post-norm@last"]
    assert at == {"kind": "norm", "layer": 3, "position": "last"}
    named = component_graph(pd.DataFrame({"id": ["after attention"], "kind": ["norm"], "layer": [1]}))
    assert named.nodes["after attention"] == {"kind": "norm", "layer": 1}


def test_it_is_the_sender_of_that_name():
    """It reads as what the edges of a model call it, and writes where their sender writes."""
    assert edges_names.written_at("L7.post-norm") == (7, 0)
    graph = component_graph(pd.DataFrame({"id": ["L7.post-norm", "L7.MLP", "L7.H0", "L6.MLP"]}))
    order = sorted(graph, key=edges_names.written_at)
    assert [name for name in graph if name != "L7.H0"] == [name for name in order if name != "L7.H0"]


@pytest.mark.parametrize("name", ["L03.post-norm", "L3.post-norm\n", "L٣.post-norm", "L3.Post-norm", "L3.post_norm"])
def test_another_spelling_is_a_name_of_its_own(name):
    with pytest.raises(CircuitError, match="kind None is none of embed"):
        component_graph(pd.DataFrame({"id": [name]}))


@pytest.mark.parametrize(
    ("source", "target"), [("L0.H1", "L0.post-norm"), ("L0.post-norm", "L0.H1"), ("L0.MLP", "L0.post-norm")]
)
def test_it_stands_beside_the_heads_of_its_block(source, target):
    table = pd.DataFrame({"source": [source], "target": [target], "kind": ["feeds"]})
    with pytest.raises(CircuitError, match="runs backwards or within one step"):
        component_graph(pd.DataFrame({"id": ["L0.H1", "L0.post-norm", "L0.MLP"]}), table)


def test_what_it_cannot_be_is_named():
    with pytest.raises(CircuitError, match="its kind is 'mlp', but its id says 'norm'"):
        component_graph(pd.DataFrame({"id": ["L0.post-norm"], "kind": ["mlp"]}))
    with pytest.raises(CircuitError, match="site 'mlp_out' is none that a norm has"):
        component_graph(pd.DataFrame({"id": ["L0.post-norm"], "site": ["mlp_out"]}))
    with pytest.raises(CircuitError, match="n_layers is 2, so there is no layer 2"):
        component_graph(pd.DataFrame({"id": ["L2.post-norm"]}), None, MODEL)
    table = pd.DataFrame({"source": ["L0.post-norm"], "target": ["L0.MLP"], "kind": ["mlp"]})
    with pytest.raises(CircuitError, match="run in parallel here"):
        component_graph(pd.DataFrame({"id": ["L0.post-norm", "L0.MLP"]}), table, MODEL | {"parallel_attn_mlp": True})


@pytest.mark.parametrize("name", [*TWO_WAY, "neuronpedia"])
def test_it_comes_back_from_every_format_that_holds_it(name):
    assert_same(normed(), parse_graph(FORMS[name].write(normed(), "c"), FORMS[name]))


def test_dot_holds_it():
    assert '"L0.post-norm" [label="L0.post-norm", shape=trapezium, "_kind"="norm"' in FORMS["dot"].write(normed(), "c")
    pytest.importorskip("pydot", reason="pydot is not installed")
    assert_same(normed(), parse_graph(FORMS["dot"].write(normed(), "c"), FORMS["dot"]))


def test_neuronpedia_shows_it_by_a_type_of_its_own():
    data = json.loads(FORMS["neuronpedia"].write(normed(), "c"))
    (node,) = [node for node in data["nodes"] if node["node_id"] == "L0.post-norm"]
    assert (node["feature_type"], node["layer"], node["clerp"]) == ("post-norm", "0", "L0.post-norm")
    del data["circuits"]
    read = parse_graph(json.dumps(data), FORMS["neuronpedia"])
    assert read.nodes["L0.post-norm"]["kind"] == "norm"
    assert list(read.edges(data="effect")) == list(normed().edges(data="effect"))


def test_eap_igs_format_refuses_it_and_takes_the_rest(tmp_path):
    graph = normed()
    with pytest.raises(
        OutputError, match=r"node L0.post-norm: .* leave it and its edges out .* or choose another format"
    ):
        export(graph, tmp_path / "c.eap.json")
    assert not list(tmp_path.iterdir())
    graph.remove_nodes_from([name for name, kind in graph.nodes(data="kind") if kind == "norm"])
    assert_same(graph, load_graph(export(graph, tmp_path / "c.eap.json")))
