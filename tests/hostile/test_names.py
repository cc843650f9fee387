"""Names from elsewhere that become paths: none leads out of its folder, and a path that cannot be is a CircuitError."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from hostile.readers import EDITS, TENSORS

from circuits.edits import load_edits
from circuits.errors import CircuitError, OutputError
from circuits.graph import component_graph, export, load_graph
from circuits.judges.answers import Answers
from circuits.prompts import InstructionSet, PairSet
from circuits.report import Report, Section, write
from circuits.report.circuit import write_page

NAMES = [
    "../../x", "/etc/x", "a/b", "a\\b", "..", ".", "", "-rf", "x" * 300, "nul\x00byte", "new\nline", "\x1b[2J", "con",
    "NUL.txt", "com1", "\u202efdp.exe", "~", "$HOME", "a b", "a:b", "x\ud800",
]  # fmt: skip
NOWHERE = ["nul\x00byte", "x" * 300, "x/" * 3000 + "x", "no/such/folder/x"]
"""Paths that no file can have, or that none has."""


def graph(*more: str):
    kinds = {"kind": "feature", "layer": 0}
    return component_graph(pd.DataFrame([{"id": "L0.H1"}, *({"id": name} | kinds for name in more), {"id": "metric"}]))


def report(**section: object) -> Report:
    fields = {"id": "s", "title": "t", "claim": "c"} | section
    return Report(
        title="t", question="q", model="m", model_note="", pairs="p", metric="m", certificate="c", verdicts=[],
        sections=[Section(**fields)],  # type: ignore[arg-type]
    )  # fmt: skip


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["id", "figures", "files"])
def test_names_of_a_report_stay_in_its_folder(name: str, where: str, tmp_path: Path):
    given = {"id": name, "figures": {name: go.Figure()}, "files": [name]}[where]
    if where == "files" and name == "a/b":
        given = ["a/../../b"]  # a folder beside the page is fine, another is not
    with pytest.raises(OutputError, match="is no file"):
        write(report(**{where: given}), tmp_path / "out", images="never")
    assert inside(tmp_path) == set()


def test_names_that_are_fine(tmp_path: Path):
    made = report(id="a-b_c.d", figures={"console": go.Figure()}, files=["circuit.html", "data/graph.json"])
    index = write(made, tmp_path, images="never")
    assert {"figures/console.html", "index.html"} <= inside(tmp_path)
    assert 'href="data/graph.json"' in index.read_text(encoding="utf-8")


@pytest.mark.parametrize("link", ["figures", "tables"])
def test_a_report_does_not_write_through_a_link_to_a_folder(link: str, tmp_path: Path):
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (outside / "mine.html").write_text("kept")
    (out / link).symlink_to(outside)
    (out / "manifest.json").write_text(json.dumps({"files": [f"{link}/mine.html"]}))
    with pytest.raises(OutputError, match=f"{link} is a link out of the report's folder"):
        write(report(), out, images="never")
    assert inside(outside) == {"mine.html"}


def test_a_report_does_not_write_through_a_link_to_a_file(tmp_path: Path):
    mine, out = tmp_path / "mine.txt", tmp_path / "out"
    mine.write_text("kept")
    names = ("index.html", "manifest.json", "plotly.min.js", "figures/f.html", "tables/s.csv")
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).symlink_to(mine)
    write(report(figures={"f": go.Figure()}, table=pd.DataFrame({"a": [1]})), out, images="never")
    assert mine.read_text() == "kept"
    assert all((out / name).is_file() and not (out / name).is_symlink() for name in names)


@pytest.mark.parametrize("name", NOWHERE)
def test_paths_that_cannot_be(name: str, tmp_path: Path):
    path = tmp_path / name
    for read in (PairSet.from_csv, PairSet.from_json, load_edits):
        with pytest.raises(CircuitError):
            read(path)
    for suffix in (".csv", ".json", ".txt"):
        with pytest.raises(CircuitError):
            InstructionSet.from_file(f"{path}{suffix}")
    for form in ("graphml", "node-link"):
        with pytest.raises(CircuitError, match="cannot read"):
            load_graph(path, form=form)
    if name != NOWHERE[-1]:
        made: dict[str, object] = {
            "report": lambda: write(report(), path, images="never"), "page": lambda: write_page(graph(), f"{path}.html"),
            "graph": lambda: export(graph(), path, form="gexf"), "answers": lambda: Answers(path),
        }  # fmt: skip
        for what, writes in made.items():
            with pytest.raises(OutputError):
                writes()  # type: ignore[operator]
            assert inside(tmp_path) <= {"x"}, what


@pytest.mark.parametrize("name", [name for name in NAMES if "\ud800" not in name])
def test_the_name_of_a_tensor_is_no_path(name: str, tmp_path: Path):
    operation = EDITS["operations"][0] | {"direction": name}
    (tmp_path / "edits.json").write_text(json.dumps(EDITS | {"operations": [operation]}), encoding="utf-8")
    (tmp_path / "directions.safetensors").write_bytes(TENSORS)
    with pytest.raises(CircuitError, match="there is no tensor"):
        load_edits(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_set_is_no_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pairs = PairSet.from_pairs([("a", "b")], name=name)
    assert pairs.name == name
    assert replace(pairs, name="x").hash == pairs.hash
    assert repr(pairs).isprintable()
    pairs.to_frame()
    pairs._repr_html_()
    assert inside(tmp_path) == set()


def test_ids_of_a_graph_are_no_paths(tmp_path: Path):
    made = graph("../../x")
    for name in ("g.graphml", "g.gexf", "g.cyjs", "g.json", "g.dot"):
        assert export(made, tmp_path / "out" / name).is_file()
    assert "../../x" in load_graph(tmp_path / "out" / "g.graphml")
    assert write_page(made, tmp_path / "out" / "page.html").is_file()
    assert {name.split("/")[0] for name in inside(tmp_path)} == {"out"}
