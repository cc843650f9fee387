"""Neuronpedia's format: the schema and the traps of its viewers, and graphs of circuit-tracer's own."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from graph.samples import assert_same, built, graphs, plain, sample
from hypothesis import HealthCheck, given, settings

from circuits.errors import CircuitError, OutputError
from circuits.graph import component_graph, export, load_graph
from circuits.graph.formats import FORMS, parse_graph

FORM = FORMS["neuronpedia"]
NODE = {
    "node_id": str,
    "feature": int,
    "layer": str,
    "ctx_idx": int,
    "feature_type": str,
    "jsNodeId": str,
    "clerp": str,
}


def written(graph, stem="circuit.neuronpedia"):
    return json.loads(FORM.write(graph, stem))


def check(data):
    """The published schema, and what the viewers need beyond it, of the objects that a file holds."""
    assert {"metadata", "qParams", "nodes", "links"} <= data.keys()
    meta = data["metadata"]
    assert all(type(meta[name]) is str for name in ("slug", "scan", "prompt"))
    assert all(type(meta[name]) is list for name in ("prompt_tokens", "transcoder_list"))
    assert all(type(token) is str for token in meta["prompt_tokens"])
    assert {name: type(value) for name, value in data["qParams"].items()} == {
        "pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str,
    }  # fmt: skip
    spots = []
    for node in data["nodes"]:
        assert {name: type(node[name]) for name in NODE} == NODE
        assert 0 <= node["ctx_idx"] < len(meta["prompt_tokens"])
        assert node["layer"] == "E" or node["layer"].isdecimal()
        if node["feature_type"] == "logit" and node["clerp"]:  # they read its probability
            float(node["clerp"].split("(p=")[1].split(")")[0])
        spots.append((node["layer"], node["feature"], node["ctx_idx"]))
    # of nodes that share a spot, the viewers drop all, once they are more than two thirds of the tokens
    assert len(set(spots)) == len(spots)
    assert len(meta["prompt_tokens"]) * 2 / 3 > 1
    ids = [node["node_id"] for node in data["nodes"]]
    assert len(set(ids)) == len(ids)
    for link in data["links"]:
        assert link["source"] in ids
        assert link["target"] in ids
        assert type(link["weight"]) in {int, float}


@pytest.mark.parametrize("make", [sample, plain])
def test_it_obeys_the_schema(make):
    check(written(make()))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts=graphs())
def test_any_graph_obeys_the_schema(parts):
    check(written(built(parts)))


def test_circuit_tracers_own_models_accept_it(tmp_path):
    models = pytest.importorskip("circuit_tracer.frontend.graph_models", reason="circuit-tracer is not installed")
    path = export(sample(), tmp_path / "c.neuronpedia.json")
    found = models.Model.model_validate_json(path.read_text(encoding="utf-8"))
    assert [node.node_id for node in found.nodes] == list(sample())


def test_the_slug_is_the_name_under_which_the_viewer_asks_for_the_file(tmp_path):
    path = export(plain(), tmp_path / "ioi.neuronpedia.json")
    slug = json.loads(path.read_text(encoding="utf-8"))["metadata"]["slug"]
    assert path.name == f"{slug}.json"
    assert_same(plain(), load_graph(path.rename(tmp_path / "moved.neuronpedia.json")))


def test_columns_are_the_positions_and_links_carry_the_effects():
    data = written(sample())
    assert data["metadata"]["prompt_tokens"] == ["(embedding)", "last", "(all positions)"]
    assert data["metadata"]["scan"] == "refusal-gemma (not Gemma)"
    nodes = {node["node_id"]: node for node in data["nodes"]}
    assert {name: node["ctx_idx"] for name, node in nodes.items() if node["ctx_idx"] < 2} == {
        "embed": 0,
        "L8.H7@last": 1,
    }
    assert nodes["L8.H7@last"]["feature_type"] == "attention head"
    assert nodes["L8.H7@last"]["clerp"] == "L8.H7@last direct"
    assert nodes["metric"]["layer"] == "12"
    assert nodes["metric"]["clerp"] == ""
    assert nodes["L9.F123"]["feature"] == (9 + 123) * (9 + 123 + 1) // 2 + 123
    assert {(a["source"], a["target"], a["kind"]): a["weight"] for a in data["links"]} == {
        (s, t, k): effect for s, t, k, effect in sample().edges(keys=True, data="effect")
    }


def test_only_a_feature_has_a_features_number():
    """A head with a feature's number would be shown with that feature's dashboard."""
    numbers = {node["feature_type"]: node["feature"] >= 0 for node in written(sample())["nodes"]}
    assert numbers.pop("sae feature")
    assert not any(numbers.values())


def test_two_features_of_one_number_stay_two_nodes():
    frame = pd.DataFrame({
        "id": ["L1.F5", "other", "metric"], "kind": ["feature", "feature", "metric"], "layer": [1, 1, None],
        "feature": [5, 5, None], "site": [None, "mlp_out", None],
    })  # fmt: skip
    graph = component_graph(frame, None, {"model": "toy"})
    check(written(graph))
    assert_same(graph, parse_graph(FORM.write(graph, "c"), FORM))


def test_a_metric_with_a_probability_keeps_its_name():
    graph = plain()
    graph.nodes["metric"]["label"] = 'Output "sorry" (p=0.250)'
    assert written(graph)["nodes"][-1]["clerp"] == 'Output "sorry" (p=0.250)'
    graph.nodes["metric"]["label"] = "logit (p=0.250"
    assert written(graph)["nodes"][-1]["clerp"] == ""


@pytest.mark.parametrize("text", ["[NaN]", "[1e999]", "[" * 9, "{", "[" + "9" * 5000 + "]", '{"a": NaN}'])
def test_metadata_that_is_no_json_stays_text(text):
    graph = plain()
    graph.graph["info"] = text
    assert written(graph)["metadata"]["info"] == text
    assert_same(graph, parse_graph(FORM.write(graph, "c"), FORM))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "needs the model's title"),
        ({"model": "toy", "prompt_tokens": "[1]"}, "prompt_tokens is '\\[1\\]'; it must be a JSON list of strings"),
        ({"model": "toy", "prompt_tokens": "a b"}, "prompt_tokens is 'a b'"),
        ({"model": "toy", "prompt_tokens": "[]"}, "is no column of 0 prompt_tokens"),
        ({"model": "toy", "prompt_tokens": '["a"]', "ctx": 1}, "node metric: ctx_idx 3 is no column of 1"),
    ],
)
def test_what_it_cannot_hold_is_refused(tmp_path, attributes, message):
    frame = pd.DataFrame({"id": ["metric"], "ctx_idx": [3 if attributes.pop("ctx", 0) else None]})
    with pytest.raises(OutputError, match=message):
        export(component_graph(frame, None, attributes), tmp_path / "c.neuronpedia.json")
    assert not list(tmp_path.iterdir())


def test_an_edge_without_effect_is_refused():
    graph = plain()
    del graph.edges["L1.MLP", "metric", "final"]["effect"]
    with pytest.raises(OutputError, match="L1.MLP → metric: Neuronpedia's format needs each edge's `effect`"):
        written(graph)


def theirs():
    """A graph as circuit-tracer writes one: an embedding, two features, an error, two logits."""

    def node(identity, feature, layer, column, kind, **more):
        found = {
            "node_id": identity, "feature": feature, "layer": layer, "ctx_idx": column, "feature_type": kind,
            "token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "jsNodeId": f"{identity}-0",
            "clerp": "", "influence": 0.5, "activation": None,
        }  # fmt: skip
        return found | more

    transcoder = "cross layer transcoder"
    return {
        "metadata": {
            "slug": "small", "scan": "some-model", "transcoder_list": [], "prompt_tokens": ["<bos>", "1", "2"],
            "prompt": "<bos>12", "node_threshold": 0.8, "schema_version": 1, "info": {"generator": {"name": "theirs"}},
        },
        "qParams": {"pinnedIds": ["0_391_1"], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [
            node("E_235_1", 1, "E", 1, "embedding"),
            node("0_391_1", 77027, "0", 1, transcoder, activation=81.5),
            node("2_14_2", 150, "2", 2, transcoder, clerp="a “label”", influence=None),
            node("0_2_2", -1, "2", 2, "mlp reconstruction error"),
            node("4_7_2", 7, "4", 2, "logit", token_prob=0.75, is_target_logit=True, clerp='Output "3" (p=0.750)'),
            node("4_9_2", 9, "4", 2, "logit", token_prob=0.1, clerp='Output "4" (p=0.100)'),
        ],
        "links": [
            {"source": "E_235_1", "target": "0_391_1", "weight": 12.5},
            {"source": "0_391_1", "target": "2_14_2", "weight": -3},
            {"source": "2_14_2", "target": "4_7_2", "weight": 0.1},
            {"source": "0_2_2", "target": "4_9_2", "weight": -0.0},
        ],
    }  # fmt: skip


def test_a_graph_of_circuit_tracer_has_names_a_person_can_say():
    read = parse_graph(json.dumps(theirs()), FORM)
    assert list(read.edges) == [
        ("embed@1", "L0.F391@1", "feeds"), ("L0.F391@1", "L2.F14@2", "feeds"),
        ("L2.ERR@2", "logit9@2", "final"), ("L2.F14@2", "logit7@2", "final"),
    ]  # fmt: skip
    feature = read.nodes["L2.F14@2"]
    assert {name: feature[name] for name in ("kind", "layer", "feature", "position", "label", "node_id")} == {
        "kind": "feature", "layer": 2, "feature": 14, "position": "2", "label": "a “label”", "node_id": "2_14_2",
    }  # fmt: skip
    assert "influence" not in feature
    assert read.nodes["L0.F391@1"]["activation"] == 81.5
    assert read.edges["L0.F391@1", "L2.F14@2", "feeds"]["effect"] == -3
    assert read.graph["scan"] == "some-model"
    assert json.loads(read.graph["prompt_tokens"]) == ["<bos>", "1", "2"]


def test_a_graph_of_circuit_tracer_is_written_as_it_was():
    read = parse_graph(json.dumps(theirs()), FORM)
    text = FORM.write(read, "small")
    again, given_ = json.loads(text), theirs()
    assert again["metadata"] == given_["metadata"]
    assert again["qParams"] == given_["qParams"]
    nodes = {node["node_id"]: node for node in again["nodes"]}
    for node in given_["nodes"]:
        assert nodes[node["node_id"]] == {name: value for name, value in node.items() if value is not None}
    links = {(link["source"], link["target"]): link["weight"] for link in again["links"]}
    assert links == {(link["source"], link["target"]): link["weight"] for link in given_["links"]}
    assert_same(read, parse_graph(text, FORM))


@pytest.mark.parametrize("name", ["graphml", "gexf", "cytoscape", "node-link"])
def test_a_graph_of_circuit_tracer_goes_through_the_other_formats(name):
    read = parse_graph(json.dumps(theirs()), FORM)
    assert_same(read, parse_graph(FORMS[name].write(read, "c"), FORMS[name]))


def test_without_what_is_kept_a_file_of_ours_is_read_as_the_viewers_do():
    data = written(plain())
    del data["circuits"]
    read = parse_graph(json.dumps(data), FORM)
    assert set(read) == set(plain())
    assert list(read.edges(keys=True, data="effect")) == list(plain().edges(keys=True, data="effect"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["nodes"][1].update(feature_type="lorsa"), "node '0_391_1': feature_type 'lorsa' is none of"),
        (lambda d: d["nodes"][1].pop("ctx_idx"), "node '0_391_1' has no 'ctx_idx'"),
        (lambda d: d["nodes"][1].update(layer="x"), "its layer is 'x', not a number"),
        (lambda d: d["nodes"][1].update(top_logit_effects=["a"]), "'top_logit_effects' is a list"),
        (lambda d: d["nodes"].append(d["nodes"][0]), "repeated nodes: 'E_235_1'"),
        (lambda d: d["nodes"].append(3), "node 6 is 3; it must be an object"),
        (lambda d: d["links"].append({"source": "nobody", "target": "4_7_2", "weight": 1}), "link 4: 'nobody' is none"),
        (lambda d: d["links"][0].pop("weight"), "link 0: its weight is None, not a number"),
        (lambda d: d["links"][0].update(weight=float("nan")), "'effect' is nan"),
        (lambda d: d["links"].append(d["links"][0]), "embed@1 → L0.F391@1 is repeated"),
        (lambda d: d["links"][0].update(source="4_7_2"), "logit7@2 → L0.F391@1 runs backwards"),
        (lambda d: d.pop("metadata"), "has no 'metadata'"),
        (lambda d: d.update(more=1), "it has 'more', which Neuronpedia's format does not"),
    ],
)
def test_a_file_of_theirs_that_is_wrong_is_named(change, message):
    data = theirs()
    change(data)
    with pytest.raises(CircuitError, match=message):
        parse_graph(json.dumps(data), FORM)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["links"][0].update(weight=9),
        lambda d: d["nodes"][0].update(clerp="x"),
        lambda d: d["circuits"]["graph"].update(model="another"),
        lambda d: d["metadata"].update(prompt_tokens=["a"]),
    ],
)
def test_a_file_of_ours_that_was_changed_on_one_side_is_refused(change):
    data = written(plain())
    change(data)
    with pytest.raises(CircuitError, match="and what stands under 'circuits' disagree"):
        parse_graph(json.dumps(data), FORM)
