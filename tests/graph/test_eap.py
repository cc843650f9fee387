"""EAP-IG's format: its loader finds each edge with its score, and its own files become component graphs."""

from __future__ import annotations

import itertools
import json

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from graph.samples import assert_same, plain

from circuits.errors import CircuitError, OutputError
from circuits.graph import component_graph, export, load_graph
from circuits.graph.formats import FORMS, parse_graph


class Loaded:
    """What EAP-IG makes of a file, written from its published behaviour.

    Its graph has every node of a model of `cfg` and every edge that can be: into each query head through q, k and v from
    all that comes before its block, into each MLP also from its own block's heads (not where the two run in parallel),
    and into the logits. Scores are single precision, zero where none is given; a name that the graph does not have, a
    missing score or a missing `in_graph` is a KeyError.
    """

    def __init__(self, text):
        data = json.loads(text)
        cfg = data["cfg"]
        self.score, self.in_graph = {}, {}
        before = ["input"]
        for layer in range(cfg["n_layers"]):
            heads = [f"a{layer}.h{head}" for head in range(cfg["n_heads"])]
            into_mlp = before if cfg["parallel_attn_mlp"] else [*before, *heads]
            real = [f"{s}->{t}<{kind}>" for s, t, kind in itertools.product(before, heads, "qkv")]
            real += [f"{source}->m{layer}" for source in into_mlp]
            self.score |= dict.fromkeys(real, 0.0)
            before = [*before, *heads, f"m{layer}"]
        self.score |= {f"{source}->logits": 0.0 for source in before}
        assert isinstance(cfg["d_model"], int)  # it allocates a score per neuron
        self.nodes = dict.fromkeys(before, False)
        self.node_score = {}
        for name, said in data["nodes"].items():
            if name != "logits":
                self.nodes[self._known(name, self.nodes)] = said["in_graph"]
                self.node_score |= {name: np.float32(said["score"])} if "score" in said else {}
        for name, said in data["edges"].items():
            self.score[self._known(name, self.score)] = np.float32(said["score"])
            self.in_graph[name] = said["in_graph"]

    @staticmethod
    def _known(name, names):
        if name not in names:
            raise KeyError(name)
        return name


def written(graph):
    return FORMS["eap"].write(graph, "c")


def test_eap_ig_finds_every_score_of_every_edge():
    loaded = Loaded(written(plain()))
    assert {name: float(score) for name, score in loaded.score.items() if score} == {
        "input->a0.h1<v>": np.float32(0.1 + 0.2), "a0.h1->a1.h0<q>": np.float32(1 / 3),
        "a0.h1->a1.h0<k>": 0.25, "a0.h1->a1.h1<k>": 0.25, "a0.h1->a1.h0<v>": -0.5, "a0.h1->a1.h1<v>": -0.5,
        "a1.h1->m1": np.float32(1e-7), "a0.h1->logits": 2.0,
    }  # fmt: skip
    assert len(loaded.in_graph) == plain().number_of_edges() == 9
    assert loaded.nodes == {
        "input": True,
        "a0.h0": False,
        "a0.h1": True,
        "m0": False,
        "a1.h0": False,
        "a1.h1": True,
        "m1": True,
    }
    assert loaded.node_score == {"a0.h1": np.float32(0.4), "a1.h0": np.float32(0.1), "a1.h1": np.float32(-0.2)}


def test_keys_of_a_group_stand_on_each_of_its_query_heads():
    """One key–value head and two query heads: EAP-IG, which counts query heads, has an edge into each."""
    data = json.loads(written(plain()))
    assert data["cfg"] == {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
    assert data["edges"]["a0.h1->a1.h0<k>"] == data["edges"]["a0.h1->a1.h1<k>"] == {"score": 0.25, "in_graph": True}
    assert "a0.h1->a1.h1<q>" not in data["edges"]
    read = parse_graph(written(plain()), FORMS["eap"])
    assert read.edges["L0.H1", "L1.H1", "k"]["kv_head"] == 0


def test_the_published_package_loads_it(tmp_path):
    graph = pytest.importorskip("eap.graph", reason="EAP-IG is not installed").Graph
    loaded = graph.from_json(str(export(plain(), tmp_path / "c.eap.json")))
    ours = Loaded(written(plain()))
    assert {name: float(edge.score) for name, edge in loaded.edges.items()} == pytest.approx(ours.score)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_whole_file_of_eap_igs_own_becomes_a_graph(parallel):
    """Every edge of a model of three blocks, as EAP-IG saves it: with scores, NaN for nodes that have none."""
    cfg = {"n_layers": 3, "n_heads": 2, "parallel_attn_mlp": parallel, "d_model": 8}
    empty = Loaded(json.dumps({"cfg": cfg, "nodes": {}, "edges": {}}))
    edges = {name: {"score": i / 7, "in_graph": i % 3 == 0} for i, name in enumerate(empty.score)}
    nodes = {name: {"in_graph": i % 2 == 0, "score": float("nan")} for i, name in enumerate(empty.nodes)}
    nodes["m1"]["score"] = 0.5
    nodes["logits"] = {"in_graph": True}
    read = parse_graph(json.dumps({"cfg": cfg, "nodes": nodes, "edges": edges}), FORMS["eap"])
    assert read.graph == cfg
    assert read.number_of_edges() == len(edges)
    assert nx.is_directed_acyclic_graph(read)
    assert read.nodes["L1.MLP"] == {"kind": "mlp", "layer": 1, "in_circuit": nodes["m1"]["in_graph"], "effect": 0.5}
    assert "effect" not in read.nodes["L2.H1"]
    back = Loaded(written(read))
    assert back.score == {name: np.float32(said["score"]) for name, said in edges.items()}
    assert back.in_graph == {name: said["in_graph"] for name, said in edges.items()}
    assert back.nodes == {name: said["in_graph"] for name, said in nodes.items() if name != "logits"}


def test_a_sparse_file_has_the_ends_of_its_edges():
    text = json.dumps({
        "cfg": {"n_layers": 2, "n_heads": 2}, "nodes": {"logits": True, "m1": True},
        "edges": {"a0.h1->m1": {"score": -1, "in_graph": True}, "m1->logits": {"score": 0.5, "in_graph": False}},
    })  # fmt: skip
    read = parse_graph(text, FORMS["eap"])
    assert dict(read.nodes(data="in_circuit")) == {"L0.H1": False, "L1.MLP": True, "metric": True}
    assert {(s, t, k): effect for s, t, k, effect in read.edges(keys=True, data="effect")} == {
        ("L0.H1", "L1.MLP", "mlp"): -1, ("L1.MLP", "metric", "final"): 0.5,
    }  # fmt: skip


def small(**changes):
    frame = pd.DataFrame({"id": ["L0.H0", "L1.MLP", "metric"]})
    table = pd.DataFrame({"source": ["L0.H0"], "target": ["L1.MLP"], "kind": ["mlp"], "effect": [0.5]})
    model = {"n_layers": 2, "n_heads": 1, "d_model": 4, "parallel_attn_mlp": False}
    return component_graph(
        pd.concat([frame, changes.get("nodes", frame[:0])]), changes.get("edges", table), changes.get("model", model)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"n_layers": 2, "n_heads": 1, "parallel_attn_mlp": False}}, "needs the model's d_model"),
        ({"model": {}}, "needs the model's n_layers"),
        ({"nodes": pd.DataFrame({"id": ["L1.ATTN"]})}, "node L1.ATTN: EAP-IG's format has heads"),
        ({"nodes": pd.DataFrame({"id": ["L1.F3"]})}, "node L1.F3: EAP-IG's format has heads"),
        ({"nodes": pd.DataFrame({"id": ["L1.H0@last"]})}, "node L1.H0@last: EAP-IG's format has heads"),
        (
            {"nodes": pd.DataFrame({"id": ["mine"], "kind": ["mlp"], "layer": [1]})},
            "node mine: EAP-IG's format calls two nodes m1",
        ),
        (
            {"edges": pd.DataFrame({"source": ["L0.H0"], "target": ["metric"], "kind": ["writes"], "effect": [1.0]})},
            r"L0.H0 → metric \(writes\): in EAP-IG's format its edges are q, k, v, mlp and final",
        ),
        (
            {"edges": pd.DataFrame({"source": ["L0.H0"], "target": ["metric"], "kind": ["final"]})},
            r"L0.H0 → metric \(final\): in EAP-IG's format each edge needs its `effect`",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_hold_is_refused_before_anything_is_written(tmp_path, changes, message):
    Loaded(written(small()))
    with pytest.raises(OutputError, match=message):
        export(small(**changes), tmp_path / "c.eap.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["edges"]["a0.h0->m1"].update(score=0.25), "its 'edges' and what stands under 'circuits' disagree"),
        (lambda d: d["edges"]["a0.h0->m1"].update(score=True), "its 'edges' and what"),
        (lambda d: d["circuits"]["edges"][0].update(effect=0.25), "its 'edges' and what"),
        (lambda d: d["nodes"].pop("m1"), "its 'nodes' and what"),
        (lambda d: d["cfg"].update(n_heads=2), "its 'cfg' and what"),
        (lambda d: d["circuits"].update(nodes=3), "'nodes' of 'circuits' is 3; it must be a list"),
    ],
)
def test_a_file_that_was_changed_on_one_side_is_refused(change, message):
    data = json.loads(written(small()))
    change(data)
    with pytest.raises(CircuitError, match=message):
        parse_graph(json.dumps(data), FORMS["eap"])


def test_without_what_is_kept_the_scores_are_read():
    data = json.loads(written(plain()))
    del data["circuits"]
    data["edges"]["m1->logits"]["score"] = 7.0
    read = parse_graph(json.dumps(data), FORMS["eap"])
    assert set(read.edges) == set(plain().edges)
    assert read.edges["L1.MLP", "metric", "final"] == {"kind": "final", "effect": 7.0, "in_circuit": True}


@pytest.mark.parametrize(
    ("edges", "nodes", "message"),
    [
        ({"a0.h0->a1.h0": {"score": 1.0, "in_graph": True}}, {}, "<q>, <k> or <v> stands on edges into heads"),
        ({"a0.h0->m1<q>": {"score": 1.0, "in_graph": True}}, {}, "<q>, <k> or <v> stands on edges into heads"),
        ({"a0.h0->x1": {"score": 1.0, "in_graph": True}}, {}, "'x1' is none of input, a8.h7, m9 and logits"),
        ({"a0.h0": {"score": 1.0, "in_graph": True}}, {}, "no edge is written so"),
        ({"a0.h0->m1": {"in_graph": True}}, {}, "edge 'a0.h0->m1' has no score"),
        ({"a0.h0->m1": {"score": 1.0}}, {}, "has no 'in_graph'"),
        ({"a0.h0->m1": {"score": "1", "in_graph": True}}, {}, "effect is '1'; it must be float or int"),
        ({"a1.h0->m0": {"score": 1.0, "in_graph": True}}, {}, "L1.H0 → L0.MLP runs backwards"),
        ({"a0.h0->m9": {"score": 1.0, "in_graph": True}}, {}, "n_layers is 2, so there is no layer 9"),
        ({"a0.h3->m1": {"score": 1.0, "in_graph": True}}, {}, "n_heads is 1, so there is no head 3"),
        ({}, {"a00.h0": {"in_graph": True}}, "'a00.h0' is written a0.h0"),
        ({}, {"m0": {"in_graph": True, "neurons": [1.0]}}, "node m0 has scores of single neurons"),
        ({}, {"m0": 1}, "node m0 is 1; it must be an object"),
        ({}, {"m0": {"in_graph": "yes"}}, "'in_graph' of node m0 is 'yes'; it must be true or false"),
        ({}, {"m0": {"in_graph": True, "effect": 3}}, "node m0 has 'effect', which EAP-IG's format does not"),
        ([], {}, "'edges' of the file is \\[\\]; it must be an object"),
    ],
)  # fmt: skip
def test_a_file_of_theirs_that_is_wrong_is_named(tmp_path, edges, nodes, message):
    path = tmp_path / "theirs.eap.json"
    cfg = {"n_layers": 2, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 4}
    path.write_text(json.dumps({"cfg": cfg, "nodes": nodes, "edges": edges}))
    with pytest.raises(CircuitError, match=f"theirs.eap.json holds no component graph: .*{message}"):
        load_graph(path)


def test_a_key_that_stands_twice_is_an_edge_that_stands_twice():
    text = '{"cfg": {}, "nodes": {}, "edges": {"m0->m1": {"score": 1}, "m0->m1": {"score": 2}}}'
    with pytest.raises(CircuitError, match="the name 'm0->m1' stands twice in one object"):
        parse_graph(text, FORMS["eap"])


def test_positive_and_negative_zero_stay_apart():
    graph = small()
    graph.edges["L0.H0", "L1.MLP", "mlp"]["effect"] = -0.0
    assert_same(graph, parse_graph(written(graph), FORMS["eap"]))
