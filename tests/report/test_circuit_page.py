"""The circuit's page without a browser: what it embeds is the graph, and nothing in a graph can become markup."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise, product
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from circuit_graphs import MODEL, curve_of, random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.draw import theme
from circuits.errors import CircuitError, OutputError
from circuits.graph import component_graph
from circuits.graph.names import KINDS
from circuits.report.circuit import circuit_page, write_page
from circuits.report.circuit.contents import read
from circuits.report.circuit.curve import points
from circuits.report.circuit.layout import place
from circuits.report.circuit.levels import OPENS, STOPS, levels, opening

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


def small(effects: list[float | None], **columns: list) -> nx.MultiDiGraph:
    """Heads of one layer, each with an edge into the metric."""
    ids = [f"L0.H{i}" for i in range(len(effects))]
    edges = pd.DataFrame({"source": ids, "target": "metric", "kind": "writes", "effect": effects} | columns)
    return component_graph(pd.DataFrame({"id": [*ids, "metric"]}), edges, {"model": MODEL})


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
    assert embedded(component_graph(nodes))["size"] == "effect"
    assert embedded(component_graph(nodes), size="direct")["size"] == "direct"
    assert embedded(component_graph(nodes.drop(columns=["effect", "low", "high", "p", "n"])))["size"] == "noise"


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


def test_a_page_keeps_the_largest_edges_and_counts_the_others():
    graph = random_graph(400, 5600)
    data = embedded(graph, curve=curve_of(graph))
    sizes = sorted((abs(effect) for *_, effect in graph.edges(data="effect")), reverse=True)
    assert [abs(edge["effect"]) for edge in data["edges"]] == sizes[:5000]
    assert (data["total"], data["leftOut"]) == (5600, 600)
    assert data["levels"][-1] == {"threshold": sizes[4999], "edges": 5000}
    assert (data["curve"][-1]["edges"], data["beyond"]) == (5000, 1)


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
    script = files("circuits.report").joinpath("circuit/script/drawing.js").read_text(encoding="utf-8")
    shapes = script.split("const SHAPES = {")[1].split("}")[0]
    named = [pair.split(":")[0].strip() for pair in shapes.split(",") if ":" in pair]
    assert sorted(named) == sorted(KINDS)
