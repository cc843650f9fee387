"""How the page is read: the numbers in the panel, the keyboard, the table; and that no text and no address gets further."""

from __future__ import annotations

import pandas as pd
import pytest
from circuit_browser import busiest, edges_of
from circuit_graphs import curve_of
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from circuits.graph import component_graph
from circuits.report.circuit.contents import read

HOSTILE = "<img src=x onerror=\"window.ran='img'\"><script>window.ran='script'</script></script>"


def test_pointing_shows_numbers_with_intervals_of_components_and_edges(page, graph):
    page.open(graph)
    name = busiest(graph)
    page.point(*page.spot(name))
    page.wait("return document.querySelector('#panel h2').textContent === arguments[0]", name)
    values = graph.nodes[name]
    number = f"{values['noise']:.4g} [{values['noise_low']:.4g}, {values['noise_high']:.4g}]".replace("-", "−")
    assert number in page.panel()
    assert f"p {values['noise_p']:.4g}" in page.panel() or values["noise_p"] < 1e-3
    assert ("not sure" in page.panel()) == (values["noise_p"] > 0.05)
    assert values["klass"] in page.panel()
    assert f"Fed by {graph.in_degree(name)}" in page.panel()
    assert f"Feeds {graph.out_degree(name)}" in page.panel()
    page.js("""circuit.cy.getElementById("e0").emit("mouseover")""")
    first = read(graph).edges[0].has
    assert " → " in page.heading()
    assert f"{first['effect']:.4g} [{first['low']:.4g}, {first['high']:.4g}]".replace("-", "−") in page.panel()
    assert "n 46" in page.panel()


def test_the_panel_leads_from_component_to_component(page, graph):
    page.open(graph)
    page.point(*page.spot(busiest(graph)), click=True)
    page.wait("return circuit.view.isolated !== null")
    link = page.at("panel").find_element(By.CSS_SELECTOR, "button.link")
    name = link.text
    link.click()
    assert page.heading() == name
    page.shows({edge for edge in edges_of(graph) if name in edge[:2]})
    assert page.js("return document.activeElement.id") == "panel"


def test_everything_can_be_done_from_the_keyboard(page, graph):
    page.open(graph, curve=curve_of(graph))
    page.js("document.body.focus()")
    met = []
    while not met or met[-1]:
        page.press(Keys.TAB)
        met.append(
            page.js("return document.activeElement === document.body ? '' : document.activeElement.id || 'other'")
        )
        assert len(met) < 100
        assert page.js("return !document.activeElement || document.activeElement === document.body"
                       " || getComputedStyle(document.activeElement).outlineStyle !== 'none'")  # fmt: skip
    wanted = [
        "search",
        "sure",
        "reach",
        "closer",
        "farther",
        "whole",
        "scheme",
        "svg",
        "png",
        "json",
        "stage",
        "amount",
    ]
    assert [name for name in met if name in wanted] == wanted
    stage = page.at("stage")
    page.js("arguments[0].focus()", stage)
    page.press(Keys.HOME)
    assert page.heading() == "embed"
    x = page.spot("embed")[0]
    for _ in range(3):
        page.press(Keys.ARROW_RIGHT)
        name = page.heading()
        assert page.spot(name)[0] > x
        x = page.spot(name)[0]
    option = page.js("return document.getElementById(arguments[0].getAttribute('aria-activedescendant'))", stage)
    assert option.get_attribute("textContent").startswith(f"{name}, ")
    assert option.get_attribute("role") == "option"
    page.press(Keys.ARROW_LEFT)
    assert page.spot(page.heading())[0] < x
    page.press(Keys.END)
    assert page.heading() == "metric"
    page.press(Keys.ENTER)
    page.shows({edge for edge in edges_of(graph) if edge[1] == "metric"})
    option = page.js("return document.getElementById(arguments[0].getAttribute('aria-activedescendant'))", stage)
    assert option.get_attribute("aria-selected") == "true"
    page.press(Keys.ARROW_LEFT)
    assert page.heading() in {edge[0] for edge in page.drawn()}  # only what is drawn can be walked to
    page.press(Keys.ESCAPE)
    page.shows(edges_of(graph))
    zoom = page.js("return circuit.cy.zoom()")
    page.press("+")
    assert page.js("return circuit.cy.zoom()") > zoom
    page.press("0")
    assert page.js("return circuit.cy.zoom()") == pytest.approx(zoom)


def test_controls_have_names(page, graph):
    page.open(graph, curve=curve_of(graph))
    for element in page.driver.find_elements(By.CSS_SELECTOR, "input, select, button, [role=listbox], aside, #curve"):
        if element.is_displayed():
            assert element.accessible_name.strip(), element.get_attribute("outerHTML")
    assert all(
        text.strip()
        for text in page.js("return [...document.querySelectorAll('[role=option]')].map((o) => o.textContent)")
    )


def test_the_table_says_in_words_what_is_drawn(page, graph):
    page.open(graph)
    page.driver.find_element(By.CSS_SELECTOR, "#table summary").click()
    page.press(Keys.HOME, *[Keys.ARROW_RIGHT] * 20, into=page.at("amount"))
    rows = page.js("""return [...document.querySelectorAll("#table tbody tr")]
        .map((row) => [...row.children].map((cell) => cell.textContent))""")
    assert {(source, target, kind) for source, kind, target, *_ in rows} == page.drawn()
    heads = page.js("return [...document.querySelectorAll('#table thead th')].map((cell) => cell.textContent)")
    assert heads == ["from", "kind", "to", "effect", "low", "high", "p", "n"]
    effects = [float(row[3].replace("−", "-")) for row in rows]
    assert [abs(e) for e in effects] == sorted((abs(e) for e in effects), reverse=True)
    source, kind, target = rows[0][:3]
    assert effects[0] == pytest.approx(graph.edges[source, target, kind]["effect"], rel=1e-3)


def test_hostile_text_stays_text(page):
    name = f"L1 {HOSTILE}"
    nodes = pd.DataFrame([
        {"id": name, "kind": "feature", "layer": 1, "klass": HOSTILE, "tokens": HOSTILE, HOSTILE: HOSTILE, "noise": 0.1},
        {"id": "metric", "label": HOSTILE},
    ])  # fmt: skip
    edges = pd.DataFrame([{"source": name, "target": "metric", "kind": "feeds", "effect": 0.1, "note": HOSTILE}])
    page.open(component_graph(nodes, edges, {"model": HOSTILE, HOSTILE: HOSTILE}), title=HOSTILE)
    page.driver.find_element(By.CSS_SELECTOR, "#table summary").click()
    assert page.js("return document.querySelector('h1').textContent") == HOSTILE
    assert page.js("return document.querySelector('#panel dd').textContent") == HOSTILE
    page.js("""circuit.cy.getElementById("n0").emit("tap")""")
    assert page.heading() == name
    assert page.js("return document.getElementById('panel').textContent.split(arguments[0]).length", HOSTILE) > 4
    page.js("""circuit.cy.getElementById("e0").emit("mouseover")""")
    assert HOSTILE in page.js("return document.getElementById('panel').textContent")
    assert HOSTILE in page.js("return document.getElementById('table').textContent")
    page.press("<script>", into=page.at("search"))
    assert page.at("found").text == "2 of 2"
    assert page.js("return document.querySelectorAll('main img, main script').length") == 0
    assert page.js("return window.ran === undefined")


def test_the_policy_forbids_the_network(page, graph):
    page.open(graph)
    page.js("""
        document.addEventListener("securitypolicyviolation", (e) => { window.breach = e.effectiveDirective; });
        fetch("data:text/plain,hello").catch(() => {});""")
    assert page.wait("return window.breach") == "connect-src"
    assert any("Content Security Policy" in line for line in page.complaints())
    page.complaints()
