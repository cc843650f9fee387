"""The circuit's page in headless Chromium: what it shows is read from the page and compared with the graph."""

from __future__ import annotations

import json
import shutil
import time
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import networkx as nx
import pandas as pd
import pytest
from circuit_graphs import MODEL, curve_of, random_graph
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from circuits.graph import component_graph, load_graph
from circuits.report.circuit import write_page
from circuits.report.circuit.contents import read
from circuits.report.circuit.levels import levels, opening

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
HOSTILE = "<img src=x onerror=\"window.ran='img'\"><script>window.ran='script'</script></script>"

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chrome or Chromium with its chromedriver is installed"
)
Edge = tuple[str, str, str]


class Page:
    """A page opened from disk, and what a reader can see and do there."""

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, graph, *, width: int = 1200, height: int = 1000, scheme: str = "light", **options: Any) -> None:
        path = write_page(graph, self.folder / "circuit.html", **options)
        self.driver.set_window_size(width, height)
        self.emulate(scheme)
        self.driver.get(path.as_uri())
        self.wait("return window.circuit !== undefined")

    def emulate(self, scheme: str) -> None:
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}  # no scrolling under a click
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def wait(self, code: str, *arguments: Any, seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while not (found := self.js(code, *arguments)):
            assert time.monotonic() < end, f"never came true: {code}"
            time.sleep(0.05)
        return found

    def at(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def press(self, *keys: str, into: Any = None) -> None:
        """Press keys where the focus is, or in an element, and let the page answer them."""
        if into is not None:
            into.send_keys(*keys)
        else:
            ActionChains(self.driver).send_keys(*keys).perform()
        self.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 0))")

    def drawn(self) -> set[Edge]:
        """The edges that the drawing shows."""
        found = self.js("""
            const { cy, data } = circuit;
            return cy.edges().filter((e) => e.visible()).map((e) => data.edges[e.data("i")])
              .map((e) => [data.nodes[e.source].id, data.nodes[e.target].id, e.kind]);""")
        return {tuple(edge) for edge in found}

    def shows(self, wanted: set[Edge]) -> None:
        """Assert that the drawing comes to show these edges; a key is answered a moment after it was sent."""
        end = time.monotonic() + 20
        while (found := self.drawn()) != wanted and time.monotonic() < end:
            time.sleep(0.05)
        assert found == wanted

    def bright(self) -> set[str]:
        """The components that are drawn in full."""
        return set(
            self.js("""
            const { cy, data } = circuit;
            return cy.nodes().filter((n) => Number(n.style("opacity")) === 1).map((n) => data.nodes[n.data("i")].id);""")
        )

    def spot(self, name: str) -> tuple[int, int]:
        """Where a component stands in the window, scrolled there if need be."""
        x, y = self.js(
            """
            const i = circuit.data.nodes.findIndex((n) => n.id === arguments[0]);
            const { x, y } = circuit.cy.getElementById("n" + i).renderedPosition();
            const stage = document.getElementById("stage");
            const away = stage.getBoundingClientRect().y + y;
            if (away < 0 || away > window.innerHeight) window.scrollBy(0, away - window.innerHeight / 2);
            const box = stage.querySelector("#canvas").getBoundingClientRect();
            return [box.x + x, box.y + y];""",
            name,
        )
        return round(x), round(y)

    def point(self, x: int, y: int, *, click: bool = False) -> None:
        """Move the mouse there, and click if asked to."""
        chain = ActionChains(self.driver, duration=20)
        chain.w3c_actions.pointer_action.move_to_location(x, y)
        if click:
            chain.w3c_actions.pointer_action.click()
        chain.perform()

    def panel(self) -> str:
        return self.at("panel").text

    def heading(self) -> str:
        return self.js("return document.querySelector('#panel h2').textContent")

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "force-device-scale-factor=1"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    folder = str(tmp_path_factory.mktemp("downloads"))
    started.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": folder})
    started.downloads = Path(folder)
    yield started
    started.quit()


@pytest.fixture
def page(driver, tmp_path):
    opened = Page(driver, tmp_path)
    yield opened
    assert opened.complaints() == []  # no error, no warning and no breach of the policy in any test


@pytest.fixture(scope="module")
def graph():
    return random_graph(40, 120)


@pytest.fixture(scope="module")
def large():
    return random_graph(400, 5200)


def edges_of(graph, keep=bool) -> set[Edge]:
    return {(s, t, k) for s, t, k, values in graph.edges(keys=True, data=True) if keep(values)}


def above(graph, threshold: float) -> set[Edge]:
    return edges_of(graph, lambda values: abs(values["effect"]) >= threshold)


def busiest(graph) -> str:
    """The head with most edges."""
    return max((n for n in graph if ".H" in n), key=graph.degree)


def test_it_opens_with_all_of_a_small_graph(page, graph):
    page.open(graph, curve=curve_of(graph))
    page.shows(edges_of(graph))
    assert page.bright() == set(graph)
    assert MODEL in page.driver.find_element(By.TAG_NAME, "header").text
    assert "120 edges of 120" in page.at("kept").text
    assert page.js("return document.getElementById('stage').dataset.edges") == "120"
    assert page.js("return performance.getEntriesByType('resource').length") == 0


def test_the_policy_forbids_the_network(page, graph):
    page.open(graph)
    page.js("""
        document.addEventListener("securitypolicyviolation", (e) => { window.breach = e.effectiveDirective; });
        fetch("data:text/plain,hello").catch(() => {});""")
    assert page.wait("return window.breach") == "connect-src"
    assert any("Content Security Policy" in line for line in page.complaints())
    page.complaints()


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


def test_paper_is_light(page, graph):
    page.open(graph, scheme="dark")
    page.js("window.dispatchEvent(new Event('beforeprint'))")
    assert page.js("return document.documentElement.dataset.scheme") == "light"
    page.js("window.dispatchEvent(new Event('afterprint'))")
    assert page.js("return document.documentElement.dataset.scheme") == "dark"


def downloaded(page: Page, name: str, button: str) -> Path:
    path = page.driver.downloads / name
    path.unlink(missing_ok=True)
    page.at(button).click()
    end = time.monotonic() + 60
    while not path.is_file():
        assert time.monotonic() < end, f"no {name} came"
        time.sleep(0.05)
    return path


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
