"""What values show of themselves: hostile text stays text, certificates are there, and no model runs for it."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import plotly.io as pio
import pytest
import torch

import circuits as ct
import circuits.measure
from circuits import display
from circuits.engine.certificate import Certificate
from circuits.engine.sweep import Swept
from circuits.graph import component_graph
from circuits.measure.residual import ResidualPatching
from circuits.metrics import Metric
from circuits.prompts import Pair, TokenPairs
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.report.circuit import circuit_page, show
from circuits.report.contents import Verdict
from circuits.result import Provenance, Result

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\" onmouseover=\"alert(3)\u202e&lt;b&gt;"
BENIGN = "benign"
PLOTLY = "application/vnd.plotly.v1+json"
PLAIN = {"div", "b", "table", "caption", "tbody", "tr", "th", "td", "mark", "span", "details", "summary", "ul", "li"}


class Structure(HTMLParser):
    """Tags with the names of their attributes: what a page does, without what it says."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.said = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.said.append(data)


def token_pairs(text):
    ids = torch.arange(12).reshape(2, 6)
    words = tuple((f"{text}{row}", "a", text, "b", "c", text) for row in range(2))
    return TokenPairs(
        pairs=ct.PairSet(tuple(Pair(f"{text} one", f"{text} two", text, f"{text}!") for _ in range(2)), text), clean=ids,
        corrupt=ids, mask=torch.ones(2, 6, dtype=torch.bool), subject=torch.tensor([2, 2]),
        instruction=torch.ones(2, 6, dtype=torch.bool), clean_text=words, corrupt_text=words,
    )  # fmt: skip


def provenance(text):
    return Provenance(
        model=f"{text} (not Gemma)", model_hash="0", dtype=text, device="cpu", pairs=text, metric=text,
        certificate=f"certificate ok: 12 cells {text}",
    )  # fmt: skip


def residual(text):
    torch.manual_seed(0)
    return ResidualPatching(
        provenance=provenance(text), value=torch.rand(2, 3, 6), source=torch.ones(2), base=torch.zeros(2),
        direction="denoise", tokens=token_pairs(text),
    )  # fmt: skip


class Named(Metric):
    """Any metric: only its name is shown."""

    def __init__(self, name):
        self.name = name

    def bind(self, pairs):
        raise AssertionError(f"bound to {pairs}: its name alone was asked for")


def edge_circuit(text):
    edges = frozenset({ct.Edge("embed", "L0.q[1]"), ct.Edge("L0.H1", "metric")})
    return ct.Circuit(edges, text, "0", 20, text)


SHOWN = {
    "result": residual,
    "pairs": lambda text: token_pairs(text).pairs,
    "tokens": token_pairs,
    "instructions": lambda text: ct.InstructionSet.from_pairs(token_pairs(text).pairs),
    "instruction tokens": lambda text: InstructionTokens.from_pairs(token_pairs(text)),
    "circuit": edge_circuit,
    "verdict": lambda text: Verdict(text, "undecided", text, rule=text),
    "certificate": lambda text: Certificate(cells=1, token_layers=1, sampled=1, oracle=0.0, dtype=text),
}


@pytest.fixture(autouse=True)
def _notebook(monkeypatch):
    """As in a notebook's kernel, at its start."""
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    monkeypatch.setattr(display, "_SENT", set())


@pytest.mark.parametrize("name", SHOWN)
def test_hostile_text_stays_text(name):
    shown = [Structure(SHOWN[name](text)._repr_html_()) for text in (HOSTILE, BENIGN)]
    assert shown[0].found == shown[1].found, "text became markup"
    assert {tag for tag, _ in shown[0].found} <= PLAIN
    assert {name for _, names in shown[0].found for name in names} <= {"style", "colspan"}
    assert BENIGN in "".join(shown[1].said)


def test_hostile_metrics_stay_text():
    html = Named(HOSTILE)._repr_html_()
    assert {tag for tag, _ in Structure(html).found} == {"div", "b"}
    assert "Named: Any metric" in html


def test_text_cannot_turn_round_what_stands_beside_it():
    assert "\u202e" not in display.card(HOSTILE, display.lines(HOSTILE), display.facts([(HOSTILE, HOSTILE)]))


def test_a_picture_holds_hostile_text_as_text():
    made = [residual(text)._repr_mimebundle_() for text in (BENIGN, HOSTILE, HOSTILE)]
    library, *hostile = ([tag for tag, _ in Structure(bundle["text/html"]).found] for bundle in made)
    assert set(hostile[0]) == {"div", "script"}
    assert hostile[0] == hostile[1]
    assert library.count("script") > hostile[0].count("script")
    assert "<script>alert" not in made[2]["text/html"]
    said = json.dumps(made[1][PLOTLY])
    assert "<script" not in said
    assert "<img" not in said


def test_plotly_comes_once_in_a_session_and_nothing_from_a_network():
    result = residual(BENIGN)
    first, second = (result._repr_mimebundle_()["text/html"] for _ in range(2))
    assert len(first) > 1_000_000 > len(second)
    for html in (first, second):
        assert not [tag for tag, names in Structure(html).found if {"src", "href"} & set(names)]


def test_another_renderer_is_the_readers_choice(monkeypatch):
    monkeypatch.setattr(pio.renderers, "default", "json")
    assert set(residual(BENIGN)._repr_mimebundle_()) == {"application/json", "text/plain"}


def test_without_a_renderer_there_is_the_table(monkeypatch):
    monkeypatch.setattr(pio.renderers, "default", None)
    result = residual(BENIGN)
    assert result._repr_mimebundle_()["text/html"] == result._repr_html_()


def test_the_certificate_and_the_models_name_stand_under_the_picture_and_over_the_table():
    result = residual(BENIGN)
    bundle = result._repr_mimebundle_()
    (caption,) = [a["text"] for a in bundle[PLOTLY]["layout"]["annotations"] if a.get("name") == "caption"]
    for said in (caption, result._repr_html_(), bundle["text/plain"]):
        assert "benign (not Gemma)" in said
        assert "certificate ok: 12 cells" in said


def test_a_note_makes_the_figure_taller_and_leaves_the_plot_as_it_is():
    plain, noted = residual(BENIGN).figure(), display.noted(residual(BENIGN).figure(), "certificate " + 40 * "words ")
    inner = [f.layout.height - f.layout.margin.t - f.layout.margin.b for f in (plain, noted)]
    assert inner[0] == inner[1]
    assert noted.layout.height > plain.layout.height
    assert display.noted(plain, "") is plain


def test_a_legend_keeps_its_place_from_the_top():
    figure = _with_legend()
    assert figure.layout.legend.yref == "container"
    before = (1 - figure.layout.legend.y) * figure.layout.height
    after = display.noted(figure, "one line")
    assert (1 - after.layout.legend.y) * after.layout.height == pytest.approx(before)


def _with_legend():
    from circuits.draw import bars

    table = pd.DataFrame({"x": ["a", "b"] * 2, "y": [1.0, 2.0, 3.0, 4.0], "kind": ["p", "p", "q", "q"]})
    return bars(table, x="x", y="y", color="kind", title="t", x_title="x", y_title="y", caption="c")


def test_a_figure_shows_as_results_do_and_stays_as_it_was():
    figure = residual(BENIGN).figure()
    before = json.loads(figure.to_json())
    made = display.Picture(figure, "a note")._repr_mimebundle_()
    assert set(made) == {PLOTLY, "text/html", "text/plain"}
    assert "a note" in json.dumps(made[PLOTLY])
    assert json.loads(figure.to_json()) == before


def test_a_figure_without_a_caption_gets_one():
    import plotly.graph_objects as go

    figure = display.noted(go.Figure(layout={"height": 300}), "a <b>note")
    assert [a.text for a in figure.layout.annotations] == ["a &lt;b&gt;note"]


def result_classes():
    for module in pkgutil.walk_packages(circuits.measure.__path__, "circuits.measure."):
        importlib.import_module(module.name)
    return sorted(Result.__subclasses__(), key=lambda one: one.__name__)


def test_every_result_shows_itself_in_the_same_way():
    """The display is the base class's, which puts the certificate there; its parts ask for no arguments."""
    classes = [one for one in result_classes() if one.__module__.startswith("circuits.")]
    assert len(classes) >= 40
    for one in classes:
        assert one._repr_html_ is Result._repr_html_, one
        assert one._repr_mimebundle_ is Result._repr_mimebundle_, one
        for name in ("figure", "to_frame", "to_summary"):
            method = getattr(one, name, None)
            needed = list(inspect.signature(method).parameters.values())[1:] if method else []
            assert all(p.default is not inspect.Parameter.empty for p in needed), f"{one.__name__}.{name}"


@pytest.fixture(scope="module")
def measured():
    """What a few verbs return on the bundled model."""
    model = ct.load()
    tokens = ct.toy_refusal_pairs().tokenize(model).select(range(4))
    metric = ct.RefusalMetric(model, "I")
    heads = ct.patch_heads(model, tokens, metric)
    roles = ct.classify_heads(model, tokens, layers=[3])
    screen = ct.screen_edges(model, tokens, metric, method="eap")
    circuit = ct.Circuit.top_n(model, dict(zip(screen.what, screen.score.mean(0).tolist(), strict=True)), 100)
    faithful = ct.evaluate(model, tokens, metric, circuit)
    swept = ct.sweep(model, tokens, metric, [(ct.Patch(ct.head(2, 1), "last"),)])
    return {
        "model": model, "metric": metric, "heads": heads, "roles": roles, "screen": screen, "circuit": circuit,
        "faithful": faithful, "swept": swept, "certificate": swept.certificate,
    }  # fmt: skip


def test_no_model_runs_for_a_display(measured, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a display ran a model")

    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)
    for value in measured.values():
        html = value._repr_html_()
        assert not [tag for tag, _ in Structure(html).found if tag == "script"]
        if isinstance(value, Result):
            value._repr_mimebundle_()


def test_measured_values_say_their_certificates_and_the_models_honest_name(measured):
    for name in ("heads", "roles", "screen", "faithful"):
        result = measured[name]
        said = "".join(Structure(result._repr_html_()).said)
        assert measured["model"].title in said
        assert "not Gemma" in said
        assert result.provenance.certificate in said
        (caption,) = [a["text"] for a in result._repr_mimebundle_()[PLOTLY]["layout"]["annotations"] if a.get("name")]
        assert "not Gemma" in caption.replace("<br>", " ")
    assert measured["heads"].provenance.certificate.startswith("certificate ok")
    for name in ("swept", "certificate"):
        assert measured["swept"].certificate.line in "".join(Structure(measured[name]._repr_html_()).said)
    assert measured["model"].title in "".join(Structure(measured["model"]._repr_html_()).said)


def test_a_circuit_lists_its_edges_and_counts_the_rest(measured):
    circuit = measured["circuit"]
    shown = Structure(circuit._repr_html_())
    assert sum(tag == "tr" for tag, _ in shown.found) == display.ROWS + 2
    assert f"… {len(circuit) - display.ROWS} more" in shown.said


def test_a_sweep_shows_its_first_cells():
    value = torch.arange(40.0).reshape(20, 2)
    swept = Swept(value=value, base=value[0], source=value[1], certificate=Certificate(cells=20, token_layers=1))
    said = Structure(swept._repr_html_()).said
    assert "20 cells, not audited" in said
    assert "… 8 more" in said


def graph(text):
    nodes = pd.DataFrame({"id": ["embed", "L0.H1", "metric"], "klass": ["", text, ""], "label": ["embed", text, text]})
    edges = pd.DataFrame({"source": ["embed", "L0.H1"], "target": ["L0.H1", "metric"], "kind": ["v", "final"]})
    return component_graph(nodes, edges.assign(effect=[0.1, 0.2]), {"model": f"{text} (not Gemma)", "metric": text})


def test_a_graph_shows_its_page_in_a_frame_that_cannot_leave_it():
    safe = HOSTILE.replace("\u202e", "")
    for text in (safe, BENIGN):
        shown = show(graph(text), title=text, height=500)
        parsed = Parsed(shown._repr_html_())
        ((tag, values),) = parsed.found
        assert tag == "iframe"
        assert set(values) == {"sandbox", "title", "srcdoc", "style"}
        assert values["sandbox"].split() == ["allow-scripts", "allow-downloads"]
        assert "height:500px" in values["style"]
        assert values["srcdoc"] == circuit_page(graph(text), title=text)
    assert repr(shown) == "benign: 3 components, 2 connections of benign (not Gemma)"


class Parsed(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_provenance_without_a_certificate_adds_no_line():
    bare = residual(BENIGN)
    bare = replace(bare, provenance=replace(bare.provenance, certificate=""))
    (caption,) = [
        a["text"] for a in bare._repr_mimebundle_()[PLOTLY]["layout"]["annotations"] if a.get("name") == "caption"
    ]
    assert caption == next(a.text for a in bare.figure().layout.annotations if a.name == "caption")
