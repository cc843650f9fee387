"""Prompts that would run as scripts, in every page and table that shows them, opened in a browser."""

from __future__ import annotations

import html
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import small_models
from circuit_browser import BROWSER, DRIVER
from hostile import texts
from selenium import webdriver
from selenium.common.exceptions import NoAlertPresentException

from circuits.graph import component_graph
from circuits.measure.attention_text import attention_on_tokens
from circuits.measure.residual import patch_residual
from circuits.metrics import LogitDifference
from circuits.model import load
from circuits.prompts import Instruction, InstructionSet, Pair, PairSet
from circuits.report import Completion, Report, Section, Verdict, verdict_table, write
from circuits.report.circuit import write_page
from circuits.sites import head

WORDS = list(texts.WORDS.values())
PLAIN = [word for word in WORDS if word.isprintable()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model called by a hostile name, and what was measured on hostile pairs."""
    home = tmp_path_factory.mktemp("hostile")
    folder = home / texts.WORDS["image"]
    shutil.copytree(small_models.folder("llama"), folder)
    model = load(str(folder), device="cpu", tokenizer=texts.tokenizer())
    pairs = PairSet.from_pairs(texts.pairs(), name=texts.WORDS["script"])
    tokens = pairs.tokenize(model)
    metric = LogitDifference(model, texts.WORDS["script"], texts.WORDS["image"])
    asked = InstructionSet(tuple(Instruction(p.clean, "harmless", p.source) for p in pairs), texts.WORDS["close"])
    found = SimpleNamespace(home=home, model=model, pairs=pairs, tokens=tokens)
    found.resid = patch_residual(model, tokens, metric)
    found.attention = attention_on_tokens(model, asked.tokenize(model), [head(1, 0)])
    return found


@pytest.fixture(scope="module")
def report(made):
    said = [*WORDS, texts.NUL]
    sections = [
        Section(f"s{i}", word, word, figures, word, word, word, table, [word])
        for i, (word, figures, table) in enumerate([
            (WORDS[0], {"resid": made.resid.figure()}, made.resid.to_frame()),
            (WORDS[1], {"attention": made.attention.figure()}, made.attention.to_frame()),
            (WORDS[2], {}, made.tokens.to_frame()),
            (WORDS[3], {}, pd.DataFrame({word: [word] for word in said})),
        ])
    ]  # fmt: skip
    report = Report(
        title=" ".join(PLAIN[:4]), question=WORDS[0], model=made.model.title, model_note=WORDS[1], pairs=repr(made.tokens),
        metric=made.resid.provenance.metric, certificate=WORDS[2], sections=sections, verdict_note=WORDS[5],
        verdicts=[Verdict(word, "undecided", word, "s0", word) for word in said],
        completions=[Completion(word, WORDS[1], WORDS[0], word * 2, i % 2 == 0, WORDS[2]) for i, word in enumerate(said)],
        manifest={WORDS[3]: WORDS[4], "date": WORDS[0]}, command=" ".join(PLAIN),
    )  # fmt: skip
    return write(report, made.home / "report", images="never")


@pytest.fixture(scope="module")
def circuit(made):
    named = [f"own {word}" for word in WORDS if not any(c < " " or c == "\x9b" for c in word)]
    nodes = pd.DataFrame(
        [{"id": name, "kind": "feature", "layer": 1, "klass": name, "label": name, "effect": 0.5} for name in named]
        + [{"id": "metric", "label": WORDS[0]}]
    )
    edges = pd.DataFrame([{"source": name, "target": "metric", "kind": "final", "effect": 0.5} for name in named])
    graph = component_graph(nodes, edges, {"model": made.model.title, "metric": WORDS[0], "pairs": WORDS[1]})
    return write_page(graph, made.home / "circuit.html", title=WORDS[2])


@pytest.fixture(scope="module")
def notebook(made):
    """What a notebook shows, on a page without any policy of its own."""
    shown = [made.pairs, made.tokens, Verdict(WORDS[0], "undecided", WORDS[1], rule=WORDS[2]), made.resid]
    path = made.home / "notebook.html"
    path.write_text("<meta charset=utf-8>" + "".join(value._repr_html_() for value in shown), encoding="utf-8")
    return path


class Browser:
    """A browser that writes down what a page asks the network for, and what it complains of."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(BROWSER)
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        options.unhandled_prompt_behavior = "ignore"
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))

    def harmless(self, path: Path) -> str:
        """Open a page, draw all of it, and return its text; nothing may have run, been asked for or been complained of."""
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.driver.set_window_size(1200, 6000)
        self.driver.get(path.as_uri())
        self.driver.execute_script("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        wanted = self.driver.execute_script("return document.querySelectorAll('.plot').length")
        end = time.monotonic() + 60
        while self.driver.execute_script("return document.querySelectorAll('.plot .main-svg').length") < wanted:
            self.driver.execute_script(
                "[...document.querySelectorAll('.plot')].forEach((plot) => plot.scrollIntoView())"
            )
            assert time.monotonic() < end, "a figure was never drawn"
            time.sleep(0.05)
        with pytest.raises(NoAlertPresentException):
            _ = self.driver.switch_to.alert.text
        assert self.driver.execute_script("return window.__pwned") is None
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        folder = path.parent.as_uri() if path.parent.name != "figures" else path.parents[1].as_uri()
        assert all(url.startswith((f"{folder}/", "data:", "blob:")) for url in asked), asked
        assert self.driver.get_log("browser") == []
        handlers = "return [...document.querySelectorAll('*')].filter((e) => [...e.attributes].some((a) => /^on/.test(a.name)))"
        assert self.driver.execute_script(f"{handlers}.length") == 0
        links = self.driver.execute_script("return [...document.querySelectorAll('[href]')].map((e) => String(e.href))")
        assert not [link for link in links if link.lower().startswith("javascript")]
        return self.driver.execute_script("return document.documentElement.textContent")


@pytest.fixture(scope="module")
def browser():
    if not (BROWSER and DRIVER):
        pytest.skip("no Chrome or Chromium with its chromedriver is installed")
    opened = Browser()
    yield opened
    opened.driver.quit()


def test_the_report_shows_every_word_and_runs_none(browser: Browser, report: Path):
    text = browser.harmless(report)
    assert all(word in text for word in PLAIN)
    assert texts.WORDS["turned"] in text  # as a browser shows it; each stands in a block of its own
    assert "␛[2J␛]0;owned␇\ufffd31m" in text  # control characters as pictures
    assert "nul␀byte" in text
    assert "49" not in browser.driver.find_element("css selector", "h1").text


def test_pages_of_single_figures(browser: Browser, report: Path):
    for name in ("resid", "attention"):
        browser.harmless(report.parent / "figures" / f"{name}.html")
        drawn = browser.driver.execute_script(
            "return [...document.querySelectorAll('.plot text')].map((t) => t.textContent).join(' ')"
        )
        assert drawn
        assert texts.WORDS["long"] not in drawn  # cut
        assert not browser.driver.execute_script("return document.querySelectorAll('.plot a[*|href]').length")


def test_the_circuit_shows_every_word_and_runs_none(browser: Browser, circuit: Path):
    text = browser.harmless(circuit)
    assert browser.driver.execute_script("return window.circuit !== undefined")
    shown = browser.driver.execute_script("return circuit.data.nodes.map((node) => node.id).join(' ')")
    assert all(f"own {word}" in shown and f"own {word}" in text for word in PLAIN)


def test_a_notebook_shows_every_word_and_runs_none(browser: Browser, notebook: Path):
    text = browser.harmless(notebook)
    assert all(word in text for word in PLAIN if word != texts.WORDS["long"])


# --- without a browser -----------------------------------------------------------------------------------------------------


def test_scripts_of_the_report_are_named_by_their_hash(report: Path):
    for path in (report, report.parent / "figures" / "resid.html"):
        policy = html.unescape(
            path.read_text(encoding="utf-8").split('Content-Security-Policy" content="')[1].split('"')[0]
        )
        allowed = dict(part.split(" ", 1) for part in policy.split("; "))
        assert "unsafe" not in allowed["script-src"]
        assert "sha256-" in allowed["script-src"]
        assert (allowed["default-src"], allowed["base-uri"], allowed["form-action"]) == ("'none'", "'none'", "'none'")


def test_half_a_surrogate_pair_of_a_file_name_does_not_stop_a_report(tmp_path: Path):
    name = b"caf\xe9.csv".decode("utf-8", "surrogateescape")
    index = write(Report(
        title=name, question="q", model="m", model_note="", pairs=name, metric="m", certificate="", verdicts=[], sections=[],
        command=f"--pairs {name}",
    ), tmp_path, images="never")  # fmt: skip
    assert "--pairs caf\ufffd.csv" in index.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["pairs"] == name


def test_tables_of_the_terminal_hold_no_control_characters():
    table = verdict_table([Verdict(word, "undecided", word) for word in (*WORDS, texts.NUL)], note=" ".join(WORDS))
    assert all(c.isprintable() or c == "\n" for c in table)


def test_what_is_printed_of_hostile_prompts_is_printable(made):
    for value in (made.tokens, made.pairs, made.model):
        assert repr(value).replace("\n", "").isprintable(), ascii(repr(value))[:300]
    with pytest.raises(Exception, match="does not align") as refusal:  # the excerpts of a misaligned pair
        PairSet((Pair(texts.BETWEEN.join(WORDS), texts.BETWEEN.join(WORDS[::-1])),)).tokenize(made.model)
    assert all(c.isprintable() or c == "\n" for c in str(refusal.value)), ascii(str(refusal.value))[:3000]
