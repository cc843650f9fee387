"""What the page shows: the edges above the threshold, a search, a component with what it talks to, a part of the graph."""

from __future__ import annotations

import networkx as nx
import pandas as pd
import pytest
from circuit_browser import above, busiest, edges_of
from circuit_graphs import MODEL, curve_of
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from circuits.graph import component_graph
from circuits.report.circuit.contents import read
from circuits.report.circuit.levels import levels, opening


def test_it_opens_with_all_of_a_small_graph(page, graph):
    page.open(graph, curve=curve_of(graph))
    page.shows(edges_of(graph))
    assert page.bright() == set(graph)
    assert MODEL in page.driver.find_element(By.TAG_NAME, "header").text
    assert "120 edges of 120" in page.at("kept").text
    assert page.js("return document.getElementById('stage').dataset.edges") == "120"
    assert page.js("return performance.getEntriesByType('resource').length") == 0


def test_the_slider_shows_the_edges_above_its_threshold(page, graph):
    page.open(graph, curve=curve_of(graph))
    stops = levels(read(graph))
    slider = page.at("amount")
    page.press(Keys.HOME, into=slider)
    page.shows(above(graph, stops[0].threshold))
    for _ in range(6):
        page.press(Keys.ARROW_RIGHT, into=slider)
    page.shows(above(graph, stops[6].threshold))
    assert len(page.drawn()) == stops[6].edges
    said = f"{stops[6].edges} edges of 120: |effect| ≥ {stops[6].threshold:.4g}"
    assert said in page.at("kept").text
    assert slider.get_attribute("aria-valuetext").startswith(said)
    connected = {end for source, target, _ in above(graph, stops[6].threshold) for end in (source, target)}
    assert page.bright() == connected
    page.press(Keys.END, into=slider)
    page.shows(edges_of(graph))


def test_the_curve_stands_where_the_slider_stands_and_says_only_what_was_measured(page, graph):
    curve = curve_of(graph)
    page.open(graph, curve=curve)
    slider = page.at("amount")
    page.press(Keys.HOME, *[Keys.ARROW_RIGHT] * 9, into=slider)
    row = curve[curve["edges"] == 10].iloc[0]
    assert f"Faithfulness {row['faithfulness']:.4g}".replace("-", "−") in page.at("kept").text
    place = """
        const now = Number(document.querySelector("#curve .now").getAttribute("x1"));
        const points = [...document.querySelectorAll("#curve .point")].map((p) => Number(p.getAttribute("cx")));
        return [now, points];"""
    now, points = page.js(place)
    assert now == pytest.approx(points[curve["edges"].tolist().index(10)], abs=0.05)
    assert points == sorted(points)
    page.press(*[Keys.ARROW_RIGHT] * 3, into=slider)
    now, points = page.js(place)
    assert points[3] < now < points[4]  # between 10 and 20 edges
    assert "measured on both sides" in page.at("kept").text
    page.at("sure").click()
    assert "not of the part shown" in page.at("kept").text


def test_a_point_below_the_first_stop_is_read_but_not_drawn(page, graph):
    empty = pd.DataFrame([{"edges": 0, "faithfulness": 0.0625}, {"edges": 20, "faithfulness": 0.5}])
    page.open(graph, curve=empty)
    page.press(Keys.HOME, into=page.at("amount"))
    assert "measured on both sides: 0.0625 at 0 edges; 0.5 at 20 edges" in page.at("kept").text
    assert page.js("return document.querySelectorAll('#curve .point').length") == 1


def test_without_a_curve_there_is_none(page, graph):
    page.open(graph)
    assert not page.at("curve").is_displayed()
    assert "aithfulness" not in page.at("kept").text


def test_search_finds_by_id_and_by_class(page, graph):
    page.open(graph)
    search = page.at("search")
    page.press("diagonal", into=search)
    wanted = {name for name, klass in graph.nodes(data="klass") if klass == "diagonal"}
    assert page.bright() == wanted
    assert page.at("found").text == f"{len(wanted)} of 40"
    page.press(Keys.ESCAPE, into=search)
    assert page.bright() == set(graph)
    name = busiest(graph)
    page.press(name, Keys.ENTER, into=search)
    assert page.heading() == name
    around = {edge for edge in edges_of(graph) if name in edge[:2]}
    page.shows(around)
    assert page.js("return document.activeElement.id") == "stage"


def test_a_click_isolates_and_a_click_or_escape_goes_back(page, graph):
    page.open(graph)
    name = busiest(graph)
    around = {edge for edge in edges_of(graph) if name in edge[:2]}
    page.point(*page.spot(name), click=True)
    page.wait("return circuit.view.isolated !== null")
    page.shows(around)
    assert page.bright() == {end for edge in around for end in edge[:2]}
    assert f"{len(around)} edges of 120 around {name}" in page.at("kept").text
    page.point(*page.spot(name), click=True)
    page.wait("return circuit.view.isolated === null")
    page.shows(edges_of(graph))
    page.point(*page.spot(name), click=True)
    page.wait("return circuit.view.isolated !== null")
    page.press(Keys.ESCAPE)
    page.shows(edges_of(graph))


@pytest.mark.parametrize("reach", ["upstream", "downstream", "both"])
def test_a_click_can_show_everything_up_or_downstream(page, graph, reach):
    page.open(graph)
    name = busiest(graph)
    page.at("reach").find_element(By.CSS_SELECTOR, f"[value={reach}]").click()
    page.point(*page.spot(name), click=True)
    page.wait("return circuit.view.isolated !== null")
    up, down = nx.ancestors(graph, name) | {name}, nx.descendants(graph, name) | {name}
    wanted = {edge for edge in edges_of(graph) if reach != "downstream" and edge[1] in up}
    wanted |= {edge for edge in edges_of(graph) if reach != "upstream" and edge[0] in down}
    page.shows(wanted)
    assert len(wanted) < 120


def test_edges_are_filtered_by_kind_and_by_how_sure_they_are(page, graph):
    page.open(graph)
    page.driver.find_element(By.CSS_SELECTOR, "#kinds input[value=q]").click()
    page.shows({edge for edge in edges_of(graph) if edge[2] != "q"})
    page.driver.find_element(By.CSS_SELECTOR, "#kinds input[value=q]").click()
    page.at("sure").click()
    page.shows(edges_of(graph, lambda values: values["p"] <= 0.05))
    assert not page.at("chosen").is_displayed()  # no edge says whether a circuit has it


def test_the_chosen_circuit_can_be_shown_alone(page):
    nodes = pd.DataFrame({"id": ["L0.H1", "L0.H2", "metric"]})
    edges = pd.DataFrame(
        {"source": ["L0.H1", "L0.H2"], "target": "metric", "kind": "final", "in_circuit": [True, False]}
    )
    page.open(component_graph(nodes, edges))
    page.at("chosen").click()
    page.shows({("L0.H1", "metric", "final")})
    assert not page.at("only-sure").is_displayed()
    assert not page.at("amount").is_enabled()  # nothing was measured to prune by


def test_five_thousand_edges_open_with_the_strongest_and_can_all_be_shown(page, large):
    page.open(large, curve=curve_of(large))
    stops = levels(read(large))
    at = stops[opening(stops)]
    page.shows(above(large, at.threshold))
    assert 100 < at.edges <= 150
    assert page.js("return circuit.cy.edges().length") == at.edges  # the others cost nothing until they are shown
    assert page.js("return circuit.data.font * circuit.cy.zoom()") > 6
    slider = page.at("amount")
    page.press(Keys.END, into=slider)
    sizes = sorted((abs(effect) for *_, effect in large.edges(data="effect")), reverse=True)
    page.shows(above(large, sizes[4999]))
    assert len(page.drawn()) == 5000
    for words in (page.panel(), page.at("kept").text):  # what is not there is said
        assert "200" in words
        assert "left out" in words
    page.press(Keys.HOME, into=slider)
    page.shows(above(large, stops[0].threshold))
    name = busiest(large)
    page.point(*page.spot(name), click=True)
    page.wait("return circuit.view.isolated !== null")
    assert page.heading() == name
    size = page.js("return parseFloat(circuit.cy.nodes('.isolated').style('font-size')) * circuit.cy.zoom()")
    assert size >= 11 - 1e-3  # what stands out is named legibly at any zoom


def test_one_component_without_edges_is_a_graph_too(page):
    page.open(component_graph(pd.DataFrame({"id": ["L3.H1"], "klass": ["direct"]})))
    assert page.at("kept").text == "This graph has no edges."
    assert page.bright() == {"L3.H1"}
    page.point(*page.spot("L3.H1"), click=True)
    page.wait("return circuit.view.isolated !== null")
    assert "No number was measured here" in page.panel()
