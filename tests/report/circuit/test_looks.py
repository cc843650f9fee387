"""How the page looks: legible names, both schemes, the window, rings and widths; and what can be taken along as a file."""

from __future__ import annotations

import json
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from circuit_browser import busiest, downloaded, edges_of
from circuit_graphs import MODEL, curve_of, random_graph
from selenium.webdriver.common.keys import Keys

from circuits.graph import load_graph
from circuits.report.circuit.contents import read

LABELS = """
    return circuit.cy.nodes().map((n) => {
      const b = n.boundingBox({ includeNodes: false, includeEdges: false, includeLabels: true, includeOverlays: false });
      return [circuit.data.nodes[n.data("i")].id, b.x1, b.x2, b.y1, b.y2];
    });"""


@pytest.mark.parametrize(("positions", "seed"), [(False, 0), (True, 0), (False, 1), (True, 1)])
def test_forty_labels_do_not_overlap_and_are_large_enough(page, positions, seed):
    graph = random_graph(40, 120, positions=positions, seed=seed)
    page.open(graph)
    spare = 4  # on each side of a label: its outline, and what the library adds to every box
    for (a, ax1, ax2, ay1, ay2), (b, bx1, bx2, by1, by2) in combinations(page.js(LABELS), 2):
        across, down = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
        assert across <= 2 * spare or down <= 2 * spare, (a, b, across, down)
    assert page.js("return circuit.data.font * circuit.cy.zoom()") > 9


@pytest.mark.parametrize("width", [1200, 800])
def test_it_fits_the_window(page, graph, width):
    page.open(graph, width=width, curve=curve_of(graph))
    assert page.js("return document.documentElement.scrollWidth <= window.innerWidth")
    box = page.js("return circuit.cy.nodes().renderedBoundingBox()")
    stage = page.js(
        "const { width, height } = document.getElementById('stage').getBoundingClientRect(); return [width, height]"
    )
    assert 0 <= box["x1"] < box["x2"] <= stage[0]
    assert 0 <= box["y1"] < box["y2"] <= stage[1]
    beside = page.js("return document.getElementById('panel').getBoundingClientRect().x > 400")
    assert beside == (width == 1200)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_readers_scheme_and_the_button(page, graph, scheme):
    page.open(graph, scheme=scheme)
    signs = page.js("return circuit.data.signs")

    def shown() -> tuple[bool, str]:
        paper, line = page.js("""
            const rgb = (text) => text.match(/\\d+/g).slice(0, 3).map(Number);
            const positive = circuit.cy.edges().filter((e) => circuit.data.edges[e.data("i")].effect > 0)[0];
            return [rgb(getComputedStyle(document.body).backgroundColor), rgb(positive.style("line-color"))];""")
        return sum(paper) < 300, "#{:02X}{:02X}{:02X}".format(*line)

    other = {"light": "dark", "dark": "light"}[scheme]
    assert shown() == (scheme == "dark", signs[scheme]["positive"])
    assert page.at("scheme").text == other
    page.at("scheme").click()
    assert shown() == (other == "dark", signs[other]["positive"])
    page.at("scheme").click()
    assert shown() == (scheme == "dark", signs[scheme]["positive"])


def test_the_page_follows_when_the_reader_changes_the_scheme(page, graph):
    page.open(graph)
    page.emulate("dark")
    page.wait("return document.documentElement.dataset.scheme === 'dark'")
    page.emulate("light")
    page.wait("return document.documentElement.dataset.scheme === 'light'")


def test_paper_is_light(page, graph):
    page.open(graph, scheme="dark")
    page.js("window.dispatchEvent(new Event('beforeprint'))")
    assert page.js("return document.documentElement.dataset.scheme") == "light"
    page.js("window.dispatchEvent(new Event('afterprint'))")
    assert page.js("return document.documentElement.dataset.scheme") == "dark"


NODES = """
    return circuit.cy.nodes().map((n) => ({
      id: circuit.data.nodes[n.data("i")].id, border: parseFloat(n.style("border-width")), wide: n.width(),
    }));"""
EDGES = """
    return circuit.cy.edges().map((e) => ({
      i: e.data("i"), strength: Number(e.style("line-opacity")), wide: parseFloat(e.style("width")),
    }));"""


def test_rings_and_strength_say_what_is_sure_and_size_how_large_it_is(page, graph):
    page.open(graph)
    nodes = page.js(NODES)
    assert {node["id"] for node in nodes if node["border"] > 2} == {
        name for name, p in graph.nodes(data="noise_p") if p is not None and p <= 0.05
    }
    effects = dict(graph.nodes(data="noise"))
    measured = [(abs(effects[node["id"]]), node["wide"]) for node in nodes if effects[node["id"]] is not None]
    assert [wide for _, wide in sorted(measured)] == sorted(wide for _, wide in measured)
    edges = sorted(page.js(EDGES), key=lambda edge: edge["i"])
    known = read(graph).edges
    assert [edge["strength"] < 0.5 for edge in edges] == [not edge.sure for edge in known]
    assert [edge["wide"] for edge in edges] == sorted((edge["wide"] for edge in edges), reverse=True)
    assert edges[0]["wide"] > 5 * edges[-1]["wide"]


def test_what_is_seen_can_be_taken_along(page, graph):
    page.open(graph)
    again = load_graph(downloaded(page, "circuit.json", "json"))
    assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
    assert {e: again.edges[e] for e in again.edges(keys=True)} == {e: graph.edges[e] for e in graph.edges(keys=True)}
    assert again.graph == graph.graph
    page.press(Keys.HOME, *[Keys.ARROW_RIGHT] * 30, into=page.at("amount"))
    root = ET.fromstring(downloaded(page, "circuit.svg", "svg").read_text(encoding="utf-8"))  # noqa: S314  our own file
    paths = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("fill") == "none"]
    assert len(paths) == len(page.drawn()) == 31
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(MODEL in (text or "") for text in words)  # a picture says by itself whose numbers it shows
    assert any("31 edges of 120" in (text or "") for text in words)
    png = downloaded(page, "circuit.png", "png").read_bytes()
    wide, tall = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert (wide, tall) == (2 * int(float(root.get("width"))), 2 * int(float(root.get("height"))))


def test_a_part_of_the_graph_is_taken_along_as_that_part(page, graph):
    page.open(graph)
    name = busiest(graph)
    page.point(*page.spot(name), click=True)
    page.wait("return circuit.view.isolated !== null")
    found = json.loads(downloaded(page, "circuit.json", "json").read_text(encoding="utf-8"))
    around = {edge for edge in edges_of(graph) if name in edge[:2]}
    assert {(e["source"], e["target"], e["key"]) for e in found["edges"]} == around
    assert {node["id"] for node in found["nodes"]} == {end for edge in around for end in edge[:2]}
