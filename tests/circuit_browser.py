"""A circuit's page in headless Chromium, and what a graph says should be seen there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from circuits.report.circuit import write_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
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


def edges_of(graph, keep=bool) -> set[Edge]:
    return {(s, t, k) for s, t, k, values in graph.edges(keys=True, data=True) if keep(values)}


def above(graph, threshold: float) -> set[Edge]:
    return edges_of(graph, lambda values: abs(values["effect"]) >= threshold)


def busiest(graph) -> str:
    """The head with most edges."""
    return max((n for n in graph if ".H" in n), key=graph.degree)


def downloaded(page: Page, name: str, button: str) -> Path:
    path = page.driver.downloads / name
    path.unlink(missing_ok=True)
    page.at(button).click()
    end = time.monotonic() + 60
    while not path.is_file():
        assert time.monotonic() < end, f"no {name} came"
        time.sleep(0.05)
    return path
