"""What is wrong with a file is named; no file, however damaged, ends in anything but a graph or a CircuitError."""

from __future__ import annotations

import json
import re

import networkx as nx
import pytest
from graph.damage import attempts
from graph.samples import TWO_WAY, assert_same, plain, sample
from graph.test_neuronpedia import theirs
from graph.test_norm import normed

from circuits.errors import CircuitError
from circuits.graph import export, load_graph
from circuits.graph.formats import FORMS, parse_graph

NAMES = [*TWO_WAY, "eap", "neuronpedia"]


def corpus(name):
    """Files of a format to damage: ours, and another tool's without what we keep beside it."""
    texts = [FORMS[name].write(plain(), "c")]
    texts += [] if name == "eap" else [FORMS[name].write(graph, "c") for graph in (sample(), normed())]
    if name in {"eap", "neuronpedia"}:
        bare = json.loads(texts[0])
        del bare["circuits"]
        texts.append(json.dumps(bare))
    return [*texts, json.dumps(theirs())] if name == "neuronpedia" else texts


def tried(text, name):
    """The graph, which then obeys the rules and survives its own format; or the message of what is wrong."""
    form = FORMS[name]
    try:
        graph = parse_graph(text, form)
    except CircuitError as error:
        return str(error)
    assert nx.is_directed_acyclic_graph(graph)
    try:
        again = form.write(graph, "c")
    except CircuitError:
        return graph  # EAP-IG's and Neuronpedia's formats need more to be written than to be read
    assert_same(graph, parse_graph(again, form))
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_no_damage_ends_in_anything_but_a_graph_or_an_error_of_ours(name):
    found = [tried(text, name) for text in attempts(corpus(name), seed=0, count=500)]
    errors = [message for message in found if isinstance(message, str)]
    assert len(errors) > 250  # the damage bites
    assert len(errors) < 500  # and is not always fatal
    assert all(message.startswith("the text holds no component graph: ") and len(message) < 600 for message in errors)
    assert len({re.sub(r"[^a-z ]", "", message)[:90] for message in errors}) > 20  # different things are named


def test_damaged_dot_ends_in_a_graph_or_an_error_of_ours():
    pytest.importorskip("pydot", reason="pydot is not installed")
    found = [tried(text, "dot") for text in attempts(corpus("dot"), seed=0, count=100)]
    assert {type(outcome) for outcome in found} >= {str}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_was_cut_off_is_refused_wherever_it_was_cut(tmp_path, name):
    path = export(plain(), tmp_path / f"whole{FORMS[name].suffix}")
    whole = path.read_text(encoding="utf-8").rstrip()
    for length in {*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}:
        path.write_text(whole[:length], encoding="utf-8")
        with pytest.raises(CircuitError, match=f"{re.escape(path.name)} holds no component graph.*complete"):
            load_graph(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_missing_a_folder_or_no_text_is_named(tmp_path, name):
    path = tmp_path / f"g{FORMS[name].suffix}"
    with pytest.raises(CircuitError, match=r"cannot read .*: No such file"):
        load_graph(path)
    path.mkdir()
    with pytest.raises(CircuitError, match="cannot read"):
        load_graph(path)
    path.rmdir()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CircuitError, match="it is no UTF-8 text"):
        load_graph(path)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = export(plain(), tmp_path / "g.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert_same(plain(), load_graph(path))


def changed(name, change):
    """The file of `plain` after `change` of its text, or of its node-link or Cytoscape data."""
    text = FORMS[name].write(plain(), "c")
    if isinstance(change, tuple):
        assert change[0] in text
        return text.replace(*change, 1)
    data = json.loads(text)
    change(data)
    return json.dumps(data)


LINK = {"source": "L0.H1", "target": "metric", "kind": "final"}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        # an edge to nowhere
        ("node-link", lambda d: d["edges"][0].update(target="L7.H7"), "embed → L7.H7: its target is not among the 6"),
        ("cytoscape", lambda d: d["elements"]["edges"][0]["data"].update(source="who"), "its source is not among the 6"),
        ("graphml", ('target="L0.H1"', 'target="L7.H7"'), "embed → L7.H7: its target is not among the 6 nodes"),
        ("gexf", ('source="embed"', 'source="who"'), "who → L0.H1: its source is not among the 6 nodes"),
        # a cycle
        ("node-link", lambda d: d["edges"].append({"source": "L1.MLP", "target": "L0.H1", "kind": "q"}), "without cycles"),
        ("graphml", ('source="L1.MLP" target="metric"', 'source="metric" target="L1.MLP"'), "without cycles"),
        ("gexf", ('source="L1.MLP" target="metric"', 'source="metric" target="L1.MLP"'), "without cycles"),
        # an edge or a node that stands twice
        ("node-link", lambda d: d["edges"].append(LINK), "L0.H1 → metric is repeated with kind 'final'"),
        ("node-link", lambda d: d["nodes"].append({"id": "L0.H1"}), "repeated nodes: 'L0.H1'"),
        ("cytoscape", lambda d: d["elements"]["edges"].append({"data": LINK}), "L0.H1 → metric is repeated"),
        ("cytoscape", lambda d: d["elements"]["nodes"].append({"data": {"id": "L0.H1"}}), "repeated nodes: 'L0.H1'"),
        ("graphml", ('<node id="L1.H0">', '<node id="L1.H1">'), "its head is 0, but its id says 1"),
        ("gexf", ('id="L1.H0"', 'id="L1.H1"'), "its head is 0, but its id says 1"),
        # attributes of the wrong type, or none
        ("node-link", lambda d: d["nodes"][1].update(layer="0"), "its layer is '0', but its id says 0"),
        ("node-link", lambda d: d["edges"][0].update(effect="1"), "effect is '1'; it must be float or int"),
        ("node-link", lambda d: d["nodes"][1].update(tokens=["a"]), "node L0.H1: 'tokens' is a list"),
        ("node-link", lambda d: d["nodes"][1].update(more={}), "node L0.H1: 'more' is a dict"),
        ("node-link", lambda d: d["nodes"][1].update(more=None), "node L0.H1: attribute 'more' is None"),
        ("node-link", lambda d: d["nodes"][1].update(more=float("nan")), "node L0.H1: attribute 'more' is nan"),
        ("node-link", lambda d: d["nodes"][1].update(more=float("inf")), "'more' is infinite"),
        ("node-link", lambda d: d["nodes"][1].update(more=2**63), "'more' is 9223372036854775808, beyond 2\\^53"),
        ("node-link", lambda d: d["nodes"][1].update(more="\x07"), "'more' has the character U\\+0007"),
        ("node-link", lambda d: d["nodes"][1].update(more="\ud800"), "'more' has the character U\\+D800"),
        ("graphml", ('<data key="n2">0<', '<data key="n2">zero<'), "attribute 'layer' is 'zero', which is no long"),
        ("graphml", ('<data key="n2">0<', '<data key="n2">1_0<'), "attribute 'layer' is '1_0', which is no long"),
        ("graphml", ('<data key="n5">0.4<', '<data key="n5">nan<'), "attribute 'effect' is 'nan', which is no double"),
        ("graphml", ('<data key="n5">0.4<', '<data key="n5">1e999<'), "'effect' is infinite"),
        ("gexf", ('value="0.4"', 'value="much"'), "attribute 'effect' is 'much', which is no double"),
        ("gexf", ('value="true"', 'value="yes"'), "attribute 'in_circuit' is 'yes', which is no boolean"),
        ("graphml", ('attr.type="double"', 'attr.type="decimal"'), "has the type 'decimal'"),
        # another structure
        ("graphml", ('edgedefault="directed"', 'edgedefault="undirected"'), "they must be directed"),
        ("graphml", ('<node id="embed">', '<node id="embed"><port name="x" />'), "port>, which a component graph does not"),
        ("graphml", ('<data key="n0">', '<data key="n99">'), "the key 'n99' is not declared"),
        ("graphml", ('<data key="n4">', '<data key="n0">'), "attribute 'kind' stands twice"),
        ("graphml", (' id="embed"', ""), "node 0 has no id"),
        ("graphml", ("<graphml", "<!DOCTYPE x [<!ENTITY a 'b'>]><graphml"), "declares a document type"),
        ("gexf", ('defaultedgetype="directed"', 'defaultedgetype="undirected"'), "directed and static"),
        ("gexf", ('for="0"', 'for="99"'), "attribute '99' is not declared"),
        ("gexf", ('kind="q"', 'kind="k"'), "its kind is 'q' and 'k'"),
        ("node-link", lambda d: d.update(directed=False), "a graph without directions"),
        ("node-link", lambda d: d.pop("directed"), "has no 'directed'"),
        ("node-link", lambda d: d["edges"][1].update(key="k"), "its key is 'k', its kind 'q'"),
        ("node-link", lambda d: d.update(hyperedges=[]), "has 'hyperedges', which node-link data does not"),
        ("cytoscape", lambda d: d["elements"]["nodes"][0].update(position={"x": 1}), "node 0 has 'position' beside"),
        ("cytoscape", lambda d: d["elements"]["nodes"][0]["data"].update(name="x"), "its name is another"),
        ("cytoscape", lambda d: d.update(data=[["a"]]), "'data' holds \\['a'\\]"),
        # another tool's file
        ("node-link", lambda d: [d.pop("edges"), d.update(cfg={})], "looks like EAP-IG's: load it with form='eap'"),
        ("node-link", lambda d: [d.pop("edges"), d.update(links=[])], "load it with form='neuronpedia'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, name, change, message):
    path = tmp_path / f"g{FORMS[name].suffix}"
    path.write_bytes(changed(name, change).encode("utf-8", "surrogatepass"))
    with pytest.raises(CircuitError, match=f"holds no component graph: .*{message}"):
        load_graph(path)


@pytest.mark.parametrize("name", ["graphml", "gexf"])
def test_a_document_that_would_grow_without_end_is_refused(name):
    bomb = "<!DOCTYPE a [" + "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 30)) + "]><a>&e29;</a>"
    with pytest.raises(CircuitError, match="grows without end"):
        parse_graph(bomb, FORMS[name])


@pytest.mark.parametrize("name", ["node-link", "cytoscape", "eap", "neuronpedia"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[]", "3", "null", "", '"x"', "{}", '{"nodes": 1' + "0" * 5000 + "}"]
)
def test_json_that_is_no_graph_is_refused(name, text):
    with pytest.raises(CircuitError, match="the text holds no component graph"):
        parse_graph(text, FORMS[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_a_file_of_another_format_is_refused(name, other):
    if name != other:
        with pytest.raises(CircuitError, match="the text holds no component graph"):
            parse_graph(FORMS[other].write(plain(), "c"), FORMS[name])
