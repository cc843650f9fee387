"""DOT: Graphviz's grammar holds every graph; pydot, where it is installed, reads it back."""

from __future__ import annotations

import re
import sys

import pytest
from graph.samples import assert_same, built, graphs, plain, sample
from hypothesis import HealthCheck, given, settings

from circuits.errors import CircuitError
from circuits.graph import export, load_graph
from circuits.graph.formats import FORMS, parse_graph
from circuits.graph.formats.dot import _quoted, _spelled

FORM = FORMS["dot"]
STRING = r'"(?:[^"\\]|\\.)*"'
VALUE = rf"(?:{STRING}|-?[0-9]+(?:\.[0-9]*)?|[A-Za-z_][A-Za-z_0-9]*)"
LISTED = rf"\[{VALUE}={VALUE}(?:, {VALUE}={VALUE})*\]"
GRAMMAR = re.compile(rf"digraph \{{\n(?:  (?:graph|{STRING}|{STRING} -> {STRING}) {LISTED};\n|\n)*\}}\n")
"""The part of Graphviz's grammar that we use: identifiers, numerals without exponent, quoted strings."""
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("make", [sample, plain])
def test_it_obeys_the_grammar(make):
    assert GRAMMAR.fullmatch(FORM.write(make(), "c"))


@quick
@given(parts=graphs())
def test_any_graph_obeys_the_grammar_and_every_edge_stands_once(parts):
    graph = built(parts)
    text = FORM.write(graph, "c")
    assert GRAMMAR.fullmatch(text)
    assert len(re.findall(rf"^  {STRING} -> {STRING} \[", text, re.MULTILINE)) == graph.number_of_edges()
    assert len(re.findall(rf"^  {STRING} \[", text, re.MULTILINE)) == len(graph)


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        (1e-7, "0.0000001"), (-0.0, "-0.0"), (3.0, "3.0"), (1e22, "1" + "0" * 22 + ".0"), (3, "3"), (True, "true"),
        ("3", '"3"'), ('a"b', r'"a\"b"'), ("a\\", r'"a\\"'), ("a\nb", r'"a\nb"'), ("a\\n", r'"a\\n"'),
    ],
)  # fmt: skip
def test_types_and_quotes_are_kept(value, spelled):
    assert _spelled(value) == spelled


def test_signs_and_sizes_are_drawn():
    text = FORM.write(plain(), "c")
    line = next(line for line in text.splitlines() if '"L0.H1" -> "metric"' in line)
    assert 'penwidth=6.00, color="#D55E00"' in line
    negative = [line for line in text.splitlines() if '"_effect"=-0.5' in line]
    assert len(negative) == 2
    assert all('color="#0072B2"' in line for line in negative)


def test_the_names_that_mean_something_to_graphviz_are_ours_only():
    """`layer`, `pos` or `weight` of ours would move nodes or fail; with `_` before them they are only kept."""
    graph = plain()
    graph.nodes["L1.MLP"].update(pos="x", width=-1, shape="mine")
    text = FORM.write(graph, "c")
    line = next(line for line in text.splitlines() if line.startswith('  "L1.MLP" ['))
    bare = re.findall(r'(?<![\w"])(\w+)=', re.sub(STRING + "=", "", line))
    assert bare == ["label", "shape"]


def test_without_pydot_reading_says_what_is_missing(tmp_path, monkeypatch):
    path = export(sample(), tmp_path / "c.dot")
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(CircuitError, match="reading DOT needs the package pydot, which is not installed"):
        load_graph(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # between pydot and its parser
@pytest.mark.parametrize("make", [sample, plain])
def test_pydot_reads_it(tmp_path, make):
    pydot = pytest.importorskip("pydot", reason="pydot is not installed")
    path = export(make(), tmp_path / "c.dot")
    (theirs,) = pydot.graph_from_dot_file(str(path))
    ends = [(edge.get_source(), edge.get_destination()) for edge in theirs.get_edges()]
    assert ends == [(_quoted(source), _quoted(target)) for source, target in make().edges()]
    assert_same(make(), load_graph(path))


@quick
@given(parts=graphs())
def test_any_graph_is_read_back_by_pydot(parts):
    pytest.importorskip("pydot", reason="pydot is not installed")
    graph = built(parts)
    assert_same(graph, parse_graph(FORM.write(graph, "c"), FORM))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digraph {", "no DOT of one graph"),
        ("", "no DOT of one graph"),
        ("graph { a }", "must be one digraph"),
        ("digraph { subgraph s { a } }", "without subgraphs"),
        ("digraph { a }", "a node is 'a', not text in quotes"),
        ('digraph { "L0.H1" -> "metric" }', "its source is not among the 0 nodes"),
        ('digraph { "L0.H1" [] "metric" [] "L0.H1" -> "metric" [] }', "kind None is none of"),
        ('digraph { "L0.H1" ["_p"=1.2.3] }', "'1.2.3', not text in quotes"),
    ],
)
def test_a_file_that_is_wrong_is_named(text, message):
    pytest.importorskip("pydot", reason="pydot is not installed")
    with pytest.raises(CircuitError, match=message):
        parse_graph(text, FORM)
