"""networkx reads what we write with its own readers: the same nodes, edges, kinds, numbers, attributes."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree as ET

import networkx as nx
import pytest
from graph.samples import assert_same, built, graphs, plain, sample, typed
from hypothesis import HealthCheck, given, settings

from circuits.errors import CircuitError
from circuits.graph import export, load_graph
from circuits.graph.formats import FORMS, parse_graph

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def by_kind(theirs, *, without_node=(), without_edge=()):
    """A graph that networkx read, with kinds for keys and without the names that its reader adds."""
    graph = nx.MultiDiGraph()
    graph.graph.update(theirs.graph)
    for name, values in theirs.nodes(data=True):
        graph.add_node(name, **{key: value for key, value in values.items() if key not in without_node})
    for source, target, values in theirs.edges(data=True):
        kept = {key: value for key, value in values.items() if key not in without_edge}
        graph.add_edges_from([(source, target, kept["kind"], kept)])
    return graph


def graphml(text):
    theirs = nx.parse_graphml(text, force_multigraph=True)
    for default in ("node_default", "edge_default"):  # of the format, added by their reader
        theirs.graph.pop(default)
    return by_kind(theirs)


def node_link(text):
    return nx.node_link_graph(json.loads(text), edges="edges")


def cytoscape(text):
    data = json.loads(text)
    return by_kind(
        nx.cytoscape_graph(data), without_node=("id", "name", "value"), without_edge=("source", "target", "key")
    )


def gexf(text, labels):
    theirs = nx.read_gexf(io.BytesIO(text.encode()))
    ids = [values.pop("id") for *_, values in theirs.edges(data=True)]
    assert len(set(ids)) == len(ids)
    for name, values in theirs.nodes(data=True):
        shown = values.pop("label")  # their reader puts what is shown over an attribute of that name
        assert shown == labels.get(name, name)
        if name in labels:
            values["label"] = shown
    description = ET.fromstring(text).findtext("{*}meta/{*}description")  # noqa: S314  our own text
    theirs.graph = json.loads(description)
    return by_kind(theirs)


def read(name, graph):
    text = FORMS[name].write(graph, "c")
    if name == "gexf":
        return gexf(text, {n: v["label"] for n, v in graph.nodes(data=True) if "label" in v})
    return {"graphml": graphml, "node-link": node_link, "cytoscape": cytoscape}[name](text)


def same(a, b):
    """As `assert_same`, whatever the order of nodes, edges and attributes."""
    assert typed(a.graph) == typed(b.graph)
    assert {n: typed(v) for n, v in a.nodes(data=True)} == {n: typed(v) for n, v in b.nodes(data=True)}
    mine, theirs = ({(s, t, k): typed(v) for s, t, k, v in g.edges(keys=True, data=True)} for g in (a, b))
    assert mine == theirs


@pytest.mark.parametrize("name", ["graphml", "gexf", "cytoscape", "node-link"])
@pytest.mark.parametrize("make", [sample, plain])
def test_networkx_reads_it(name, make):
    same(make(), read(name, make()))


@pytest.mark.parametrize("name", ["graphml", "gexf", "cytoscape", "node-link"])
@quick
@given(parts=graphs())
def test_networkx_reads_any_graph(name, parts):
    graph = built(parts)
    same(graph, read(name, graph))


def test_networkx_restores_the_keys_that_gexf_does_not_have(tmp_path):
    theirs = nx.read_gexf(export(plain(), tmp_path / "c.gexf"))
    assert set(theirs.edges) == set(plain().edges)


@pytest.mark.parametrize("name", ["graphml", "gexf"])
def test_every_edge_has_an_id_of_its_own(name):
    """Gephi drops an edge whose id another one has, which ids made of kinds would do."""
    root = ET.fromstring(FORMS[name].write(sample(), "c"))  # noqa: S314  our own text
    ids = [edge.get("id") for edge in root.iter() if edge.tag.endswith("}edge")]
    assert len(ids) == sample().number_of_edges() == len(set(ids))
    assert None not in ids


def test_gephi_tells_parallel_edges_apart_by_their_kind():
    root = ET.fromstring(FORMS["gexf"].write(plain(), "c"))  # noqa: S314  our own text
    found = {(e.get("source"), e.get("target"), e.get("kind")) for e in root.iter("{http://gexf.net/1.3}edge")}
    assert found == set(plain().edges)


def test_gephi_lite_finds_the_columns_by_their_titles():
    """It takes the id of a column for its title, unless the id is a number; ids stand once over both classes."""
    root = ET.fromstring(FORMS["gexf"].write(plain(), "c"))  # noqa: S314  our own text
    ids = [column.get("id") for column in root.iter("{http://gexf.net/1.3}attribute")]
    assert ids == [str(number) for number in range(len(ids))]


def test_graphml_of_networkx_is_read(tmp_path):
    graph = plain()
    nx.write_graphml_xml(graph, tmp_path / "nx.graphml")
    assert_same(plain(), load_graph(tmp_path / "nx.graphml"))


def test_node_link_data_of_networkx_is_read():
    text = json.dumps(nx.node_link_data(sample(), edges="edges"))
    assert_same(sample(), parse_graph(text, FORMS["node-link"]))
    single = nx.DiGraph()
    single.add_edge("L0.H1", "metric", kind="final", effect=0.5)
    read = parse_graph(json.dumps(nx.node_link_data(single, edges="edges")), FORMS["node-link"])
    assert list(read.edges) == [("L0.H1", "metric", "final")]


def test_cytoscape_json_of_networkx_is_read():
    assert_same(plain(), parse_graph(json.dumps(nx.cytoscape_data(plain())), FORMS["cytoscape"]))


def test_gexf_of_gephi_with_its_drawing_is_refused_by_name():
    text = FORMS["gexf"].write(plain(), "c").replace("<attvalues>", '<size value="3.0" /><attvalues>', 1)
    with pytest.raises(CircuitError, match=r"node 'embed' holds <\{http://gexf.net/1.3\}size>"):
        parse_graph(text, FORMS["gexf"])


def test_two_types_under_one_name_are_two_columns():
    graph = sample()
    graph.nodes["embed"]["mixed"], graph.nodes["metric"]["mixed"] = 1, 1.0
    graph.nodes["L9.MLP"]["mixed"], graph.nodes["L8.ATTN"]["mixed"] = True, "1"
    for name in ("graphml", "gexf"):
        assert_same(graph, parse_graph(FORMS[name].write(graph, "c"), FORMS[name]))
        same(graph, read(name, graph))
