"""docs/graph.md says what is so: its example runs, its tables name every kind and every format."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from circuits.graph.formats import FORMS
from circuits.graph.names import KINDS
from circuits.graph.receivers import EDGE_KINDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "graph.md").read_text(encoding="utf-8")


def column(heading, number):
    """The cells of one column of the table under a heading."""
    rows = [
        line.split("|")[1:-1] for line in PAGE.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines() if "|" in line
    ]
    return [row[number].strip() for row in rows[2:]]


def test_its_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], names)  # noqa: S102  our own page
    assert list(names["graph"].edges) == [
        ("L8.H7", "L9.H6", "q"), ("L8.H7", "L9.MLP", "mlp"), ("L9.MLP", "metric", "final"),
    ]  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ["circuit.gexf"]


@pytest.mark.parametrize(
    ("heading", "number", "known"),
    [
        ("Nodes", 1, set(KINDS)),
        ("Edges", 0, set(EDGE_KINDS)),
        ("Formats", 0, {f"`{form.suffix}`" for form in FORMS.values()}),
    ],
)
def test_its_tables_are_complete(heading, number, known):
    assert {word for cell in column(heading, number) for word in cell.split(", ")} == known
