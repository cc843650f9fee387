"""A graph comes back from every format as it went; what a format would change is refused before anything is written."""

from __future__ import annotations

import enum
import math
import os

import networkx as nx
import pandas as pd
import pytest
from graph.samples import TWO_WAY, assert_same, built, graphs, plain, sample
from hypothesis import HealthCheck, given, settings

from circuits.errors import CircuitError, OutputError
from circuits.graph import component_graph, export, load_graph
from circuits.graph.formats import FORMS, parse_graph

ALL = [*TWO_WAY, "eap", "neuronpedia"]
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def round_trip(graph, name):
    return parse_graph(FORMS[name].write(graph, "circuit"), FORMS[name])


@pytest.mark.parametrize("name", ALL)
def test_what_is_written_is_read_back(tmp_path, name):
    path = export(plain(), tmp_path / "deep" / f"circuit{FORMS[name].suffix}")
    assert path == tmp_path / "deep" / f"circuit{FORMS[name].suffix}"
    assert_same(plain(), load_graph(path))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", [*TWO_WAY, "neuronpedia"])
def test_positions_features_and_odd_texts_are_read_back(name):
    assert_same(sample(), round_trip(sample(), name))


@pytest.mark.parametrize("name", TWO_WAY)
@quick
@given(parts=graphs())
def test_any_graph_is_read_back_to_the_last_bit(name, parts):
    graph = built(parts)
    assert_same(graph, round_trip(graph, name))


@pytest.mark.parametrize("name", ALL)
@quick
@given(parts=graphs(everywhere=True))
def test_any_graph_of_heads_and_mlps_is_read_back_from_every_format(name, parts):
    graph = built(parts)
    assert_same(graph, round_trip(graph, name))


@quick
@given(parts=graphs())
def test_any_graph_with_a_model_is_read_back_from_neuronpedias_format(parts):
    graph = built(parts)
    assert_same(graph, round_trip(graph, "neuronpedia"))


@pytest.mark.parametrize("name", ALL)
def test_writing_what_was_read_gives_the_same_bytes(tmp_path, name):
    first = export(plain(), tmp_path / f"a{FORMS[name].suffix}").read_bytes()
    (tmp_path / "b").mkdir()
    again = export(load_graph(tmp_path / f"a{FORMS[name].suffix}"), tmp_path / "b" / f"a{FORMS[name].suffix}")
    assert again.read_bytes() == first


@pytest.mark.parametrize("name", TWO_WAY)
def test_an_empty_graph_survives(name):
    assert_same(nx.MultiDiGraph(), round_trip(nx.MultiDiGraph(), name))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("c.GraphML", "graphml"), ("c.gexf", "gexf"), ("c.cyjs", "cytoscape"), ("c.json", "node-link"),
        ("c.eap.json", "eap"), ("c.x.neuronpedia.json", "neuronpedia"),
    ],
)  # fmt: skip
def test_the_suffix_names_the_format(tmp_path, path, name):
    written = export(plain(), tmp_path / path).read_text(encoding="utf-8")
    assert written == FORMS[name].write(plain(), path.removesuffix(".json"))


@pytest.mark.parametrize("name", ALL)
def test_the_format_may_be_named_instead(tmp_path, name):
    path = export(plain(), tmp_path / "circuit.txt", form=name)
    assert_same(plain(), load_graph(path, form=name))


@pytest.mark.parametrize("name", ["circuit.xml", "circuit", "circuit.json.gz", ".json"])
def test_an_unknown_suffix_names_the_known_ones(tmp_path, name):
    for act in (lambda: export(sample(), tmp_path / name), lambda: load_graph(tmp_path / name)):
        with pytest.raises(CircuitError, match=r"known: \.graphml, \.gexf, \.cyjs, \.dot, \.eap\.json, "):
            act()
    with pytest.raises(CircuitError, match="no graph format is called 'csv'; known: graphml, gexf"):
        export(sample(), tmp_path / name, form="csv")
    assert not list(tmp_path.iterdir())


def test_a_graph_of_ones_own_is_written_by_the_same_rules(tmp_path):
    mine = nx.DiGraph(model="toy")
    mine.add_node("L8.H7", noising=0.5)
    mine.add_edge("L8.H7", "metric", kind="final", effect=1)
    read = load_graph(export(mine, tmp_path / "g.graphml"))
    assert read.nodes["L8.H7"] == {"kind": "head", "layer": 8, "head": 7, "noising": 0.5}
    assert list(read.edges) == [("L8.H7", "metric", "final")]
    assert mine.nodes["metric"] == {}
    many = nx.MultiDiGraph(mine)
    many.add_edge("L8.H7", "metric", key="writes", effect=2)
    assert load_graph(export(many, tmp_path / "g.json")).edges["L8.H7", "metric", "writes"]["effect"] == 2
    many.add_edge("L8.H7", "metric", key="feeds", kind="writes")
    with pytest.raises(CircuitError, match="L8.H7 → metric: its key is 'feeds', its kind 'writes'"):
        export(many, tmp_path / "g.json")
    with pytest.raises(CircuitError, match="no directions"):
        export(nx.Graph(), tmp_path / "g.json")


class Role(enum.StrEnum):
    DIRECT = "direct"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "value",
    [None, [1], (1, 2), {"a": 1}, b"x", math.nan, math.inf, "", "a\rb", "\x00", "\ud800", 2**53 + 1, Role.DIRECT, 1j],
)
def test_a_value_that_would_not_survive_is_named_with_its_owner(tmp_path, name, value):
    path = tmp_path / f"g{FORMS[name].suffix}"
    path.write_text("as it was")
    graph = plain()
    graph.nodes["L1.MLP"]["odd"] = value
    with pytest.raises(CircuitError, match="node L1.MLP.*'odd'"):
        export(graph, path)
    graph = plain()
    graph.edges["L1.MLP", "metric", "final"]["odd"] = value
    with pytest.raises(CircuitError, match="edge L1.MLP → metric.*'odd'"):
        export(graph, path)
    graph = plain()
    graph.graph["odd"] = value
    with pytest.raises(CircuitError, match="graph.*'odd'"):
        export(graph, path)
    assert path.read_text() == "as it was"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


RESERVED = [
    ("cytoscape", "node", "id"), ("cytoscape", "node", "name"), ("cytoscape", "node", "value"),
    ("cytoscape", "node", "parent"), ("cytoscape", "edge", "source"), ("cytoscape", "edge", "id"),
    ("node-link", "node", "id"), ("node-link", "edge", "key"), ("gexf", "edge", "networkx_key"), ("gexf", "edge", "id"),
    ("eap", "edge", "target"), ("neuronpedia", "node", "id"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "owner", "attribute"), RESERVED)
def test_a_name_that_a_format_uses_is_refused_there_only(tmp_path, name, owner, attribute):
    graph = plain()
    values = graph.nodes["L1.MLP"] if owner == "node" else graph.edges["L1.MLP", "metric", "final"]
    values[attribute] = "x"
    with pytest.raises(OutputError, match=f"attribute '{attribute}' has a name that {name} uses for itself; rename it"):
        export(graph, tmp_path / f"g{FORMS[name].suffix}")
    assert_same(graph, load_graph(export(graph, tmp_path / "g.graphml")))


@pytest.mark.parametrize("name", [7, None, "", " "])
def test_an_attribute_without_a_name_is_refused(tmp_path, name):
    graph = plain()
    graph.nodes["L1.MLP"][name] = "x"
    with pytest.raises(CircuitError, match="node L1.MLP: the attribute name .* is not one"):
        export(graph, tmp_path / "g.json")


@pytest.mark.parametrize("node", [7, ("L8", 7), "", "\t", "a\x00", 1.5, None])
def test_a_node_without_a_name_is_refused(tmp_path, node):
    graph = nx.MultiDiGraph()
    graph.add_nodes_from([(node, {"kind": "metric"})]) if node is not None else graph.add_nodes_from([frozenset()])
    with pytest.raises(CircuitError, match="ids are strings|files cannot hold"):
        export(graph, tmp_path / "g.graphml")


@pytest.mark.parametrize("owner", ["node", "attribute"])
def test_a_wrong_type_is_refused_when_the_graph_was_changed(tmp_path, owner):
    graph = plain()
    if owner == "node":
        graph.nodes["L0.H1"]["layer"] = 0.0
    else:
        graph.edges["L1.MLP", "metric", "final"]["effect"] = "0.3"
    with pytest.raises(CircuitError, match="node L0.H1: .*layer|effect is '0.3'; it must be float or int"):
        export(graph, tmp_path / "g.json")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    for place in (tmp_path / "file" / "g.json", tmp_path / "folder.json", tmp_path / f"{'x' * 300}.json"):
        with pytest.raises(OutputError, match="choose another place"):
            export(sample(), place)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.json"]


def test_what_stood_there_stays_whole_when_writing_fails(tmp_path, monkeypatch):
    path = export(plain(), tmp_path / "g.json")
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        export(sample(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["g.json"]


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    export(plain(), tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert_same(plain(), load_graph(tmp_path / "real.json"))


@pytest.mark.parametrize("name", [*TWO_WAY, "neuronpedia"])
def test_a_graph_of_another_model_is_refused(tmp_path, name):
    path = export(sample(), tmp_path / f"g{FORMS[name].suffix}")
    assert load_graph(path, model_hash="9f2c").graph["model_hash"] == "9f2c"
    with pytest.raises(CircuitError, match=r"another model: refusal-gemma \(not Gemma\) \(hash 9f2c\), not .* 1234"):
        load_graph(path, model_hash="1234")
    silent = export(component_graph(pd.DataFrame({"id": ["metric"]})), tmp_path / "silent.json")
    with pytest.raises(CircuitError, match="its title is not said"):
        load_graph(silent, model_hash="1234")
