"""The circuit's page without a browser: what it embeds is the graph, and nothing in a graph can become markup."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import networkx as nx
import pandas as pd
import pytest
from circuit_graphs import MODEL, curve_of, random_graph

from circuits.draw import theme
from circuits.errors import CircuitError, OutputError
from circuits.graph import component_graph
from circuits.graph.names import KINDS
from circuits.report.circuit import circuit_page, write_page

HOSTILE = '</script><script>alert(1)</script><!--<img src=x onerror=alert(1)> & "quoted" {{ 7*7 }} \u2028'


class Reader(HTMLParser):
    """What a browser would see: tags with their attributes, the text of each script and style, and other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.append((tag, found))
        if tag in {"script", "style"}:
            self._open.append(tag)
            self.scripts.append(({"tag": tag} | found, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"}:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        else:
            self.text += data

    @property
    def data(self) -> dict:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "data"))


def embedded(graph, **options) -> dict:
    return Reader(circuit_page(graph, **options)).data


@pytest.fixture(scope="module")
def graph():
    return random_graph(40, 120)


def test_what_is_embedded_is_the_graph(graph):
    data = embedded(graph, curve=curve_of(graph))
    assert {node["id"]: node["has"] for node in data["nodes"]} == dict(graph.nodes(data=True))
    name = [node["id"] for node in data["nodes"]]
    found = {(name[e["source"]], name[e["target"]], e["kind"]): e["has"] for e in data["edges"]}
    assert found == {(s, t, k): values for s, t, k, values in graph.edges(keys=True, data=True)}
    assert len(found) == len(data["edges"]) == data["total"] == graph.number_of_edges()
    assert dict(data["facts"]) == graph.graph
    assert [point["faithfulness"] for point in data["curve"]] == curve_of(graph)["faithfulness"].tolist()
    sizes = [abs(edge["effect"]) for edge in data["edges"]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_graph_with_single_edges_gives_the_same_page(graph):
    plain, many = nx.DiGraph(), nx.MultiDiGraph()
    plain.graph.update(graph.graph)
    many.graph.update(graph.graph)
    plain.add_nodes_from(graph.nodes(data=True))
    seen = set()
    for source, target, key in list(graph.edges(keys=True)):
        if (source, target) not in seen:
            plain.add_edge(source, target, **graph.edges[source, target, key])
        seen.add((source, target))
    many.add_nodes_from(graph.nodes(data=True))
    for source, target, values in plain.edges(data=True):
        many.add_edge(source, target, key=values["kind"], **{k: v for k, v in values.items() if k != "kind"})
    assert circuit_page(plain) == circuit_page(many)
    assert len(seen) < graph.number_of_edges()  # so parallel edges were there to be lost


def test_hostile_text_is_data_and_never_markup(tmp_path):
    name = f"L1 {HOSTILE}"
    nodes = pd.DataFrame([
        {"id": name, "kind": "feature", "layer": 1, "klass": HOSTILE, "tokens": HOSTILE, "position": HOSTILE, HOSTILE: HOSTILE},
        {"id": "metric", "label": HOSTILE},
    ])  # fmt: skip
    edges = pd.DataFrame([{"source": name, "target": "metric", "kind": "feeds", "effect": 0.1, "note": HOSTILE}])
    graph = component_graph(nodes, edges, {"model": HOSTILE, "pairs": HOSTILE, HOSTILE: HOSTILE})
    page = Reader(write_page(graph, tmp_path / "c.html", title=HOSTILE).read_text(encoding="utf-8"))
    assert not any(attributes.keys() & {"onerror", "src", "onload"} for _, attributes in page.tags)
    assert "img" not in {tag for tag, _ in page.tags}
    assert [tag for tag, _ in page.tags].count("script") == 3  # the data, the library, the page's own
    assert page.data["title"] == HOSTILE
    assert page.data["nodes"][0]["has"] == dict(graph.nodes[name])
    assert page.data["edges"][0]["has"]["note"] == HOSTILE
    assert page.text.count(HOSTILE) >= 4  # title, heading, model, pairs
    assert "{{ 7*7 }}" in HOSTILE  # so a template inside text stayed text


def test_the_policy_lets_nothing_but_this_page_run(graph):
    page = Reader(circuit_page(graph))
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("img-src") == "data:"
    digest = {
        tag: [
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for attributes, text in page.scripts
            if attributes["tag"] == tag and "type" not in attributes
        ]
        for tag in ("script", "style")
    }
    assert rules.pop("script-src").split() == digest["script"]
    assert rules.pop("style-src").split() == digest["style"]
    assert set(rules.values()) == {"'none'"}
    assert not any({"src", "href", "srcset", "action", "style"} & attributes.keys() for _, attributes in page.tags)
    style = next(text for attributes, text in page.scripts if attributes["tag"] == "style")
    assert "url(" not in style
    assert "@import" not in style


def test_the_model_stands_on_the_page_and_without_scripts_the_edges_do(graph):
    page = Reader(circuit_page(graph, title="Who writes the refusal?"))
    assert MODEL in page.text
    assert page.text.count("Who writes the refusal?") == 2  # title and heading
    strongest = page.data["edges"][0]
    assert page.text.index(page.data["nodes"][strongest["source"]]["id"]) > page.text.index(
        "strongest 100 of 120 edges"
    )
    nameless = Reader(circuit_page(component_graph(pd.DataFrame({"id": ["metric"]}))))
    assert "not named by this graph" in nameless.text


def test_a_page_keeps_the_largest_edges_and_counts_the_others():
    graph = random_graph(400, 5600)
    data = embedded(graph, curve=curve_of(graph))
    sizes = sorted((abs(effect) for *_, effect in graph.edges(data="effect")), reverse=True)
    assert [abs(edge["effect"]) for edge in data["edges"]] == sizes[:5000]
    assert (data["total"], data["leftOut"]) == (5600, 600)
    assert data["levels"][-1] == {"threshold": sizes[4999], "edges": 5000, "drawn": 5000}
    assert (data["curve"][-1]["edges"], data["beyond"]) == (5000, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(columns="faithfulness"), "faithfulness, and one of threshold, edges and share"),
        (lambda f: f.drop(columns=["edges", "threshold"]), "faithfulness, and one of threshold, edges and share"),
        (lambda f: f.head(0), "no rows"),
        (lambda f: f.drop(columns="low"), "one end of an interval"),
        (lambda f: f.assign(faithfulness=math.nan), "row 0: faithfulness is nan"),
        (lambda f: f.assign(null="some"), "null is 'some'"),
        (lambda f: f.drop(columns="threshold").assign(edges=f["edges"] + 1), "121 edges, and the graph has 120"),
        (lambda f: f.assign(threshold=f["threshold"] * 1e6), "thresholds of its edges"),
    ],
)
def test_a_curve_that_does_not_fit_is_refused(graph, change, said):
    with pytest.raises(CircuitError) as error:
        circuit_page(graph, curve=change(curve_of(graph)))
    assert said in str(error.value)


def test_graphs_of_other_shapes_are_refused(graph):
    with pytest.raises(CircuitError, match="undirected"):
        circuit_page(nx.Graph([("a", "b")]))
    with pytest.raises(CircuitError, match="no nodes"):
        circuit_page(nx.MultiDiGraph())
    with pytest.raises(CircuitError, match="node a: kind None is none of"):
        circuit_page(nx.DiGraph([("a", "b")]))
    backwards = graph.copy()
    backwards.add_edge("metric", "embed", key="feeds", kind="feeds", effect=1.0)
    with pytest.raises(CircuitError, match="metric → embed runs backwards"):
        circuit_page(backwards)
    listed = graph.copy()
    listed.nodes["embed"]["tokens"] = ["a", "b"]
    with pytest.raises(CircuitError, match="node embed: 'tokens' is a list"):
        circuit_page(listed)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"noise": 0.1, "noise_low": 0.0}, "noise has one end of an interval"),
        ({"noise": 0.1, "noise_low": 0.2, "noise_high": 0.0}, "the interval of noise runs from 0.2 down to 0.0"),
        ({"noise": 0.1, "noise_p": 1.5}, "the p-value of noise is 1.5"),
    ],
)
def test_an_interval_or_p_value_that_cannot_be_is_refused(values, said):
    nodes = pd.DataFrame([{"id": "L0.H1"} | values, {"id": "L1.H1", "noise": 0.1, "noise_low": 0.0, "noise_high": 0.2}])
    with pytest.raises(CircuitError, match=f"node L0.H1: {said}"):
        circuit_page(component_graph(nodes))


def test_a_size_that_no_component_has_is_refused(graph):
    with pytest.raises(CircuitError, match="no node has the number 'klass'; there are noise"):
        circuit_page(graph, size="klass")


def test_the_page_is_written_whole_or_not_at_all(graph, tmp_path, monkeypatch):
    path = write_page(graph, tmp_path / "new" / "circuit.html")
    assert path.read_text(encoding="utf-8") == circuit_page(graph)
    path.write_text("an earlier page", encoding="utf-8")

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_page(graph, path)
    assert path.read_text(encoding="utf-8") == "an earlier page"
    assert [file.name for file in path.parent.iterdir()] == ["circuit.html"]


def test_a_place_that_cannot_be_written_is_an_output_error(graph, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot write"):
        write_page(graph, tmp_path / "file" / "circuit.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_page(graph, tmp_path / "folder.html")
    with pytest.raises(OutputError, match="ends in .html"):
        write_page(graph, tmp_path / "circuit.graphml")


def test_the_library_is_the_published_file_with_its_licence():
    vendor = files("circuits.report").joinpath("circuit/vendor")
    notice = vendor.joinpath("NOTICE").read_text(encoding="utf-8")
    library = gzip.decompress(vendor.joinpath("cytoscape.min.js.gz").read_bytes())
    assert hashlib.sha256(library).hexdigest() in notice
    version = notice.split()[1].rstrip(",")
    assert f'"{version}"'.encode() in library
    licence = vendor.joinpath("cytoscape.LICENSE").read_text(encoding="utf-8")
    assert "Permission is hereby granted, free of charge" in licence
    assert b"Permission is hereby granted, free of charge" in library  # so every page carries it too


def test_signs_and_classes_have_different_colours(graph):
    data = embedded(graph)
    assert set(data["colours"]) == {node["group"] for node in data["nodes"]}
    assert not {theme.POSITIVE, theme.NEGATIVE} & set(data["colours"].values())
    assert data["colours"]["direct"] == theme.CLASS_COLOURS["direct"]
    assert data["signs"]["light"] == {"positive": theme.POSITIVE, "negative": theme.NEGATIVE}
    assert len({colour for scheme in data["signs"].values() for colour in scheme.values()}) == 4


def test_every_kind_of_component_has_a_shape():
    script = files("circuits.report").joinpath("circuit/script/looks.js").read_text(encoding="utf-8")
    shapes = script.split("const SHAPES = {")[1].split("}")[0]
    named = [pair.split(":")[0].strip() for pair in shapes.split(",") if ":" in pair]
    assert sorted(named) == sorted(KINDS)
