"""Features and their error as nodes: what patching measured is what every format gives back, or refuses by name."""

from __future__ import annotations

import pandas as pd
import pytest
import small_models
import small_saes
from graph.samples import assert_same

from circuits.errors import CircuitError, OutputError
from circuits.graph import component_graph, export, load_graph
from circuits.graph.formats import FORMS
from circuits.measure.features import patch_features
from circuits.metrics import LogitDifference
from circuits.sae import load_sae


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    model, tokens = small_models.model("llama"), small_models.uneven()
    folder = small_saes.write(tmp_path_factory.mktemp("saes") / "random")
    return patch_features(model, tokens, LogitDifference(model), load_sae(str(folder), model=model))


@pytest.fixture(scope="module")
def graph(patched):
    nodes, edges = patched.graph_rows(n=5)
    own = pd.DataFrame({"id": ["L1.H2@last", "L2.MLP@last", "metric"]})
    more = pd.DataFrame({
        "source": ["L1.H2@last", nodes["id"].iloc[0]], "target": [nodes["id"].iloc[0], "L2.MLP@last"], "kind": ["feeds", "mlp"],
        "effect": [0.25, 0.5],
    })  # fmt: skip
    model = {
        "model": patched.provenance.model,
        "n_layers": 4,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_model": 32,
        "parallel_attn_mlp": False,
    }
    return component_graph(pd.concat([own, nodes]), pd.concat([edges, more]), model)


def test_features_stand_with_what_was_measured(patched, graph):
    table = patched.to_summary().set_index("feature")
    kept = table["mean"].abs().sort_values(ascending=False).index[:5]
    found = {v["feature"]: v for _, v in graph.nodes(data=True) if v["kind"] == "feature"}
    assert set(found) == set(kept)
    for feature, values in found.items():
        row = table.loc[feature]
        assert (values["effect"], values["low"], values["high"]) == (row["mean"], row["low"], row["high"])
        assert (values["layer"], values["site"], values["position"]) == (1, "resid_post", "last")
        edge = graph.edges[f"L1.F{feature}@last", "metric", "writes"]
        assert edge["effect"] == row["mean"]
    error = graph.nodes["L1.resid_post error@last"]
    assert (error["kind"], error["site"], error["layer"]) == ("error", "resid_post", 1)
    parts = patched.parts_summary().set_index("part")
    assert error["effect"] == parts.loc["error", "mean"]


def test_features_come_after_their_site_and_before_the_next_block(graph):
    order = list(graph)
    first = next(i for i, name in enumerate(order) if ".F" in name)
    assert order.index("L1.H2@last") < first < order.index("L2.MLP@last") < order.index("metric")
    assert order.index("L1.resid_post error@last") < order.index("L2.MLP@last")


@pytest.mark.parametrize("name", sorted(set(FORMS) - {"eap"}))
def test_every_format_holds_them(graph, tmp_path, name):
    path = export(graph, tmp_path / f"circuit{FORMS[name].suffix}")
    if name == "dot":
        pytest.importorskip("pydot", reason="DOT is read through pydot")
    assert_same(graph, load_graph(path))


def test_a_format_of_heads_and_mlps_refuses_them_by_name(patched, tmp_path):
    nodes, _ = patched.graph_rows(n=1)
    model = {"model": "toy", "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "d_model": 32, "parallel_attn_mlp": False}
    graph = component_graph(nodes, None, model)
    with pytest.raises(OutputError, match=r"node L1\.resid_post error@last: EAP-IG's format has heads, MLPs"):
        export(graph, tmp_path / "circuit.eap.json")
    graph.remove_node("L1.resid_post error@last")
    with pytest.raises(OutputError, match=nodes["id"].iloc[0]):
        export(graph, tmp_path / "circuit.eap.json")
    assert not (tmp_path / "circuit.eap.json").exists()


def test_neuronpedia_is_given_features_and_errors_as_such(graph, tmp_path):
    import json

    path = export(graph, tmp_path / "circuit.neuronpedia.json")
    found = {node["node_id"]: node for node in json.loads(path.read_text())["nodes"]}
    for name, values in graph.nodes(data=True):
        if values["kind"] == "feature":
            assert found[name]["feature_type"] == "sae feature"
            layer, feature = 1, values["feature"]
            assert found[name]["feature"] == (layer + feature) * (layer + feature + 1) // 2 + feature


@pytest.mark.parametrize(
    ("site", "before", "after"),
    [("resid_pre", "L0.MLP", "L1.H0"), ("attn_out", "L1.H0", "L1.MLP"), ("mlp_out", "L1.MLP", "L2.H0")],
)
def test_an_error_stands_where_its_features_do(site, before, after):
    nodes = pd.DataFrame({
        "id": [after, "rest", "L1.F3", before], "kind": [None, "error", None, None], "layer": [None, 1, None, None],
        "site": [None, site, site, None],
    })  # fmt: skip
    graph = component_graph(nodes)
    order = list(graph)
    assert order.index(before) < min(order.index("rest"), order.index("L1.F3"))
    assert max(order.index("rest"), order.index("L1.F3")) < order.index(after)


def test_a_site_that_a_graph_has_no_place_for_is_refused_by_name():
    frame = pd.DataFrame({"id": ["L1.F3"], "site": ["post"]})
    with pytest.raises(
        CircuitError, match=r"node 'L1\.F3': site 'post' is none that a feature has|L1.F3.*'post' is none"
    ):
        component_graph(frame)


def test_an_error_without_a_site_is_that_of_an_mlp():
    frame = pd.DataFrame({"id": ["rest", "L1.MLP"], "kind": ["error", "mlp"], "layer": [1, 1]})
    assert list(component_graph(frame)) == ["L1.MLP", "rest"]
    with pytest.raises(CircuitError, match="site 'q' is none that a error has"):
        component_graph(frame.assign(site=["q", None]))
