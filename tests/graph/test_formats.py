"""A graph comes back from every format as it went, by our reader and by networkx's own."""

from __future__ import annotations

import json
import math

import networkx as nx
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import CircuitError, OutputError
from circuits.graph.component import component_graph
from circuits.graph.formats import export, load_graph

SUFFIXES = [".graphml", ".json"]


def sample():
    nodes = pd.DataFrame(
        {
            "id": ["embed", "L8.H7@last", "L9.MLP", "metric"],
            "klass": [None, "direct", None, None],
            "noising": [math.nan, 0.1 + 0.2, -1e-300, 2.0],
            "rank": [0, 1, -(2**40), 2],
            "survives": [False, True, True, False],
            "token": [" ‹bomb›\n", '<&>"', "true", "3"],
        }
    )
    edges = pd.DataFrame(
        {
            "source": ["embed", "L8.H7@last", "L9.MLP"],
            "target": ["L8.H7@last", "L9.MLP", "metric"],
            "kind": ["feeds", "feeds", "writes"],
            "effect": [0.5, 1 / 3, 1.0],
        }
    )
    return component_graph(nodes, edges, {"model": "refusal-gemma (not Gemma)", "pairs": 46, "level": 0.95})


def assert_same(a, b):
    def typed(values):
        return {name: (type(value), value) for name, value in values.items()}

    assert type(b) is nx.DiGraph
    assert typed(a.graph) == typed(b.graph)
    assert [(n, typed(v)) for n, v in a.nodes(data=True)] == [(n, typed(v)) for n, v in b.nodes(data=True)]
    assert [(s, t, typed(v)) for s, t, v in a.edges(data=True)] == [
        (s, t, typed(v)) for s, t, v in b.edges(data=True)
    ]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".JSON"])
def test_what_is_written_is_read_back(tmp_path, suffix):
    path = export(sample(), tmp_path / "deep" / f"circuit{suffix}")
    assert path == tmp_path / "deep" / f"circuit{suffix}"
    assert_same(sample(), load_graph(path))


def test_networkx_reads_the_graphml(tmp_path):
    theirs = nx.read_graphml(export(sample(), tmp_path / "c.graphml"))
    for default in ("node_default", "edge_default"):  # of the format, added by their reader
        theirs.graph.pop(default, None)
    assert_same(sample(), theirs)


def test_networkx_reads_the_json(tmp_path):
    text = export(sample(), tmp_path / "c.json").read_text(encoding="utf-8")
    assert_same(sample(), nx.node_link_graph(json.loads(text), edges="edges"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_twice_gives_the_same_bytes(tmp_path, suffix):
    first, second = export(sample(), tmp_path / f"a{suffix}"), export(sample(), tmp_path / f"b{suffix}")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_graph_survives(tmp_path, suffix):
    assert_same(nx.DiGraph(), load_graph(export(nx.DiGraph(), tmp_path / f"e{suffix}")))


text = st.text(st.characters(codec="utf-8", exclude_characters="￾￿"), min_size=1, max_size=8)
values = st.one_of(text, st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))


@given(values, st.sampled_from(SUFFIXES))
def test_a_value_survives_exactly_or_is_refused(tmp_path_factory, value, suffix):
    graph = nx.DiGraph(note=value)
    graph.add_node("L8.H7", note=value)
    graph.add_node("metric", other=value)
    graph.add_edge("L8.H7", "metric", note=value)
    path = tmp_path_factory.mktemp("any") / f"g{suffix}"
    odd = isinstance(value, str) and any(ord(c) < 32 and c not in "\t\n" for c in value)
    if odd:
        with pytest.raises(OutputError, match="note"):
            export(graph, path)
    else:
        assert_same(graph, load_graph(export(graph, path)))


@pytest.mark.parametrize("name", ["circuit.gexf", "circuit", "circuit.json.gz"])
def test_an_unknown_suffix_names_the_known_ones(tmp_path, name):
    with pytest.raises(OutputError, match=r"known: \.graphml, \.json"):
        export(sample(), tmp_path / name)
    with pytest.raises(OutputError, match=r"known: \.graphml, \.json"):
        load_graph(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [None, [1], (1, 2), math.nan, math.inf, "", "a\rb", "\x00"])
def test_a_value_that_would_not_survive_is_named_with_its_owner(tmp_path, suffix, value):
    graph = sample()
    graph.nodes["L9.MLP"]["odd"] = value
    with pytest.raises(OutputError, match="node L9.MLP: attribute 'odd'"):
        export(graph, tmp_path / f"g{suffix}")
    graph = sample()
    graph.edges["L9.MLP", "metric"]["odd"] = value
    with pytest.raises(OutputError, match="edge L9.MLP → metric: attribute 'odd'"):
        export(graph, tmp_path / f"g{suffix}")
    with pytest.raises(OutputError, match="graph: attribute 'odd'"):
        export(nx.DiGraph(odd=value), tmp_path / f"g{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("owner", "name"), [("node", "id"), ("edge", "source"), ("edge", "id"), ("node", 7)])
def test_a_name_that_a_format_uses_is_refused(tmp_path, owner, name):
    graph = sample()
    where = graph.nodes["L9.MLP"] if owner == "node" else graph.edges["L9.MLP", "metric"]
    where[name] = "x"
    with pytest.raises(OutputError, match="rename it"):
        export(graph, tmp_path / "g.json")


@pytest.mark.parametrize("node", [7, ("L8", 7), "", "a\x00"])
def test_a_node_without_a_name_is_refused(tmp_path, node):
    graph = nx.DiGraph()
    graph.add_node(node)
    with pytest.raises(OutputError, match="ids are strings"):
        export(graph, tmp_path / "g.graphml")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another place"):
        export(sample(), tmp_path / "file" / "g.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", None, "cannot read"),
        ("b.json", "{", "holds no graph"),
        ("c.json", "[]", "holds no graph"),
        ("d.json", '{"directed": false, "multigraph": false, "nodes": [], "edges": []}', "no directed graph"),
        ("e.graphml", "<graphml", "holds no graph"),
        ("f.graphml", "<graphml/>", "holds no graph"),
        ("g.json", b"\xff", "holds no graph"),
    ],
)
def test_a_file_without_a_graph_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CircuitError, match=message):
        load_graph(tmp_path / name)
