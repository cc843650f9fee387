"""What a run was made from is told whole, found again, compared, drawn again and handed on."""

from __future__ import annotations

import json
import math
import os
import socket
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from circuits.errors import CircuitError, OutputError
from circuits.report import Completion, Report, Section, Verdict, write
from circuits.report.folder import redraw
from circuits.report.stored import from_json, to_json
from circuits.runs.command import main
from circuits.runs.differences import compare
from circuits.runs.exported import export_run
from circuits.runs.found import Found, named, runs_below
from circuits.runs.record import NAME, Record, Try, read, read_if_any

GONE = 2**22 + 11
"""No process has this number."""


def _record(**changed: object) -> Record:
    plain = Record(
        case="toy", model={"title": "m (not Gemma)", "weights": "aa"}, prompts="4 pairs ab", metric="logit (cd)",
        configuration={"model": "m", "pairs": "x.csv", "angles": [0.0, 90.0], "seed": 0, "device": "auto"},
        files={"pairs": "ef"}, seed=0, threads=1, code="0.1+12", packages={"torch": "2"}, tries=(_try(),),
    )  # fmt: skip
    return replace(plain, **changed)


def _try(status: str = "complete", pid: int = GONE, started: str = "2026-01-01 10:00:00+0000") -> Try:
    return Try(socket.gethostname(), pid, "python -m x", started, status)


def _report(number: float = 1.5) -> Report:
    table = pd.DataFrame({
        "head": ["L0.H1", None], "value": [number, math.nan], "n": [1, 2], "ok": [True, False], "far": [math.inf, -math.inf],
        "when": pd.array([1, pd.NA], dtype="Int64"),
    })  # fmt: skip
    figure = go.Figure(go.Heatmap(z=np.array([[1.0, np.nan], [number, 2.0]]), text=[["<b>", "&"], ["’", "−"]]))
    section = Section("where", "Where", "It is there.", {"map": figure}, "read", "against", "", table, ("a note",))
    return Report(
        title="T", question="Q?", model="m (not Gemma)", model_note="not Gemma", pairs="4", metric="logit", certificate="ok",
        verdicts=[Verdict("it is", "supported", f"{number}", "where", "rule")], sections=[section],
        completions=[Completion("<p>", "harmful", "base", "I cannot", refused=True)], manifest={"seed": "0"},
        steps=pd.DataFrame({"step": ["a"], "seconds": [0.25]}), command="python -m x",
    )  # fmt: skip


@pytest.fixture
def root(tmp_path):
    for name, number in (("m-aaaa1111", 1.5), ("m-aabb2222", 2.5)):
        folder = tmp_path / "toy" / name
        write(_report(number), folder, images="never")
        (folder / "data").mkdir()
        pd.DataFrame({"pair": [0, 1], "value": [number, math.nan]}).to_csv(folder / "data" / "r.csv", index=False)
        (folder / "kept").mkdir()
        (folder / "kept" / "sweep-1.safetensors").write_bytes(b"x")
        day = "01" if number == 1.5 else "02"
        _record(seed=int(number), tries=(_try(started=f"2026-01-{day} 10:00:00+0000"),)).write(folder)
    return tmp_path


def test_a_record_comes_back(tmp_path):
    record = _record()
    record.write(tmp_path)
    assert read(tmp_path) == record
    assert json.loads((tmp_path / NAME).read_text())["status"] == "complete"


@pytest.mark.parametrize(
    ("status", "pid", "said"),
    [
        ("complete", GONE, "complete"),
        ("failed", GONE, "failed"),
        ("running", GONE, "stopped"),
        ("running", os.getpid(), "running"),
        ("running", os.getppid(), "running"),
    ],
    ids=["complete", "failed", "gone", "this one", "alive"],
)
def test_a_process_that_is_gone_was_stopped(status, pid, said):
    assert _record(tries=(_try("failed"), _try(status, pid))).status == said


@pytest.mark.parametrize(
    "change",
    [
        {"case": "other"}, {"prompts": "4 pairs ac"}, {"metric": "logit (ce)"}, {"files": {"pairs": "ee"}}, {"seed": 1},
        {"threads": 2}, {"code": "0.1+13"}, {"packages": {"torch": "3"}},
        {"model": {"title": "m (not Gemma)", "weights": "ab"}},
        {"configuration": {"pairs": "x.csv", "angles": [0.0, 91.0], "seed": 0}},
    ],
)  # fmt: skip
def test_what_changes_a_number_changes_the_identity(change):
    assert _record(**change).identity != _record().identity


def test_what_does_not_leaves_it():
    """Where the same file lies, how the same device is called, and who worked when."""
    same = _record(
        configuration={"model": "./m", "pairs": "y/x.csv", "angles": [0.0, 90.0], "seed": 0, "device": "cpu"}, tries=()
    )
    assert same.identity == _record().identity


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"tries": 3}', '{"case": "x"}', "[" * 100_000, '{"tries": [{"pid": "x"}]}', '{"tries": [[]]}'],
)
def test_a_damaged_record_is_said_and_counts_as_none(tmp_path, text):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / NAME).write_text(text)
    with pytest.raises(CircuitError, match=r"run\.json"):
        read(folder)
    assert read_if_any(folder) is None
    assert [found.record for found in runs_below(tmp_path)] == [None]


def test_runs_are_found_by_folder_and_by_parts_of_their_id(root):
    folders = [found.folder.name for found in runs_below(root)]
    assert folders == ["m-aaaa1111", "m-aabb2222"]
    for name in ("m-aaaa1111", "m-aaa", "1111", str(root / "toy" / "m-aaaa1111")):
        assert named(name, root).id == "m-aaaa1111"
    with pytest.raises(CircuitError, match="2 runs are called 'm-aa'"):
        named("m-aa", root)
    with pytest.raises(CircuitError, match="no run 'zz'"):
        named("zz", root)


def test_a_run_equals_itself_and_differs_from_another(root):
    a, b = runs_below(root)
    assert compare(a, a).same
    assert not compare(a, a).inputs
    found = compare(a, b)
    assert found.inputs == {"seed": ("1", "2")}
    assert found.verdicts == {"it is": ("supported: 1.5", "supported: 2.5")}
    assert found.results["difference"].tolist() == [1.0]
    assert not found.same


@pytest.mark.parametrize(
    ("other", "note"),
    [("pair,value\n0,1.5\n", r"\(2, 2\) and \(1, 2\)"), ("pair,value\n0,1.5\n1,2\n", "undefined in one"), (None, "not there")],
)
def test_what_cannot_be_compared_is_not_the_same(root, other, note):
    a, b = runs_below(root)
    (b.folder / "data" / "r.csv").unlink() if other is None else (b.folder / "data" / "r.csv").write_text(other)
    found = compare(a, b)
    assert not found.same
    assert found.results["note"].str.contains(note).all()


def test_a_report_comes_back_from_its_file():
    report = _report()
    again = from_json(to_json(report), "x")
    pd.testing.assert_frame_equal(again.sections[0].table, report.sections[0].table, check_dtype=True)
    pd.testing.assert_frame_equal(again.steps, report.steps)
    assert again.verdicts == tuple(report.verdicts)
    assert again.completions == tuple(report.completions)
    was, now = (json.loads(r.sections[0].figures["map"].to_json()) for r in (report, again))
    assert was == now
    assert to_json(again) == to_json(from_json(to_json(again), "x"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": 2}', "[" * 100_000])
def test_a_damaged_report_is_said(text):
    with pytest.raises(CircuitError, match=r"x (is no stored report|was written by another version)"):
        from_json(text, "x")


def test_a_report_is_drawn_again_from_its_file_alone(root):
    folder = root / "toy" / "m-aaaa1111"
    drawn = redraw(folder, images="never").read_bytes()
    (folder / "index.html").unlink()
    (folder / "figures" / "map.html").unlink()
    assert redraw(folder, images="never").read_bytes() == drawn
    assert (folder / "figures" / "map.html").is_file()
    (folder / "report.json").unlink()
    with pytest.raises(CircuitError, match="run the case again"):
        redraw(folder)


def test_an_export_holds_the_run_without_its_blocks_and_nothing_from_outside(root, tmp_path):
    run = named("1111", root)
    (run.folder / "data" / "away").symlink_to("/etc/hostname")
    target, count = export_run(run, tmp_path / "out.zip")
    names = zipfile.ZipFile(target).namelist()
    assert len(names) == count
    assert "m-aaaa1111/run.json" in names
    assert "m-aaaa1111/data/r.csv" in names
    assert not [n for n in names if "kept" in n or "away" in n]
    assert export_run(run, tmp_path / "again.zip")[0].read_bytes() == target.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        export_run(run, target)


def test_the_commands_say_what_they_find(root, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    at = ["--root", str(root)]
    assert main(["list", *at]) == 0
    assert "m-aabb2222  complete" in capsys.readouterr().out
    assert main(["list", "--json", *at]) == 0
    assert [run["id"] for run in json.loads(capsys.readouterr().out)] == ["m-aaaa1111", "m-aabb2222"]
    assert main(["show", "1111", *at]) == 0
    assert "python -m x" in capsys.readouterr().out
    assert main(["diff", "1111", "1111", *at]) == 0
    assert "numbers: the same, in all 1 results" in capsys.readouterr().out
    assert main(["diff", "1111", "2222", *at]) == 1
    assert "seed" in capsys.readouterr().out
    assert main(["redraw", "1111", "--no-images", *at]) == 0
    assert main(["export", "1111", *at]) == 0
    assert Path("m-aaaa1111.zip").is_file()
    assert main(["show", "zz", *at]) == 2
    assert capsys.readouterr().err.startswith("error: no run 'zz'")
    assert main(["list", "--root", str(root / "none")]) == 0
    assert "circuits run gemma_refusal" in capsys.readouterr().out


def test_a_damaged_run_is_listed_as_such(root, capsys):
    (root / "toy" / "m-aaaa1111" / NAME).write_text("{")
    assert main(["list", "--root", str(root)]) == 0
    assert "damaged" in capsys.readouterr().out
    assert Found(root, None).id == root.name
