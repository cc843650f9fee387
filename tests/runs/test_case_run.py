"""A case's run on disk: opened when it is complete, gone on with when it is not, another one when anything changed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch

from circuits.case.progress import Progress
from circuits.case.run import Run
from circuits.case.unchanged import Unchanged
from circuits.engine import sweep
from circuits.errors import UndefinedError
from circuits.interventions import Patch
from circuits.metrics import LogitDifference
from circuits.runs.record import read
from circuits.sites import Site


def _args(**changed: Any) -> argparse.Namespace:
    plain: dict[str, Any] = {
        "model": "gemma", "pairs": None, "seed": 0, "out": None, "again": False, "no_images": True, "figures": None,
        "ray": None, "ray_workers": None, "command": "python -m x",
    }  # fmt: skip
    return argparse.Namespace(**{**plain, **changed})


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _run(**changed: Any) -> Run:
    model = small_models.model("gemma")
    metric = LogitDifference(model, "w50", "w51")
    return Run(_args(**changed), Progress(total=0), case="toy", model=model, tokens=small_models.uneven(), metric=metric)


def _work() -> torch.Tensor:
    model = small_models.model("gemma")
    cells = [(Patch(Site("resid_pre", 1), "last"),)]
    return sweep(model, small_models.uneven(), LogitDifference(model, "w50", "w51"), cells).value


def _complete(**changed: Any) -> Path:
    with _run(**changed) as run:
        _work()
        (run.folder / "index.html").write_text("x")
        (run.folder / "data").mkdir(exist_ok=True)
        (run.folder / "data" / "r.csv").write_text("v\n1\n")
        (run.folder / "manifest.json").write_text('{"files": ["index.html"], "images": "still images: not asked for"}')
    return run.folder


def test_a_complete_run_is_opened():
    folder = _complete()
    told = json.loads((folder / "run.json").read_text())
    assert told["status"] == "complete"
    assert (told["tries"][0]["found"], told["tries"][0]["made"]) == (0, 2)
    with pytest.raises(Unchanged, match="nothing changed since") as found:
        _run()
    assert found.value.index == folder / "index.html"


def test_again_computes_it_anew():
    folder = _complete()
    with _run(again=True) as run:
        _work()
    assert run.folder == folder
    assert read(folder).tries[-1].made == 2
    assert read(folder).tries[-1].found == 0


def test_a_failed_run_goes_on_where_it_stopped(capsys):
    run, before = _run(), []

    def fail() -> None:
        with run:
            before.append(_work())
            raise UndefinedError("no such number")

    with pytest.raises(UndefinedError):
        fail()
    assert read(run.folder).status == "failed"
    assert "no such number" in read(run.folder).tries[-1].error
    with _run() as again:
        assert torch.equal(_work(), before[0])
    assert again.folder == run.folder
    assert [t.status for t in read(run.folder).tries] == ["failed", "complete"]
    assert read(run.folder).tries[-1].made == 0
    said = capsys.readouterr().out
    assert "goes on where it failed" in said
    assert "2 blocks found, 0 computed" in said


def test_a_report_without_its_page_is_made_again():
    folder = _complete()
    (folder / "index.html").unlink()
    with _run() as run:
        assert run.folder == folder


@pytest.mark.parametrize("change", [{"seed": 1}, {"pairs": "pairs.csv"}])
def test_a_changed_input_is_another_run(change, tmp_path):
    (tmp_path / "pairs.csv").write_text("clean,corrupt\n")
    assert _run(**change).folder != _run().folder


def test_a_changed_file_is_another_run_and_a_moved_one_is_not(tmp_path):
    (tmp_path / "pairs.csv").write_text("clean,corrupt\n")
    before = _run(pairs="pairs.csv").folder
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pairs.csv").rename(tmp_path / "elsewhere" / "pairs.csv")
    assert _run(pairs="elsewhere/pairs.csv").folder == before
    (tmp_path / "elsewhere" / "pairs.csv").write_text("clean,corrupt\na,b\n")
    assert _run(pairs="elsewhere/pairs.csv").folder != before


def test_other_code_is_another_run(monkeypatch):
    before = _run().folder
    monkeypatch.setattr("circuits.case.run.code_version", lambda: "0.1.0+other")
    assert _run().folder != before


def test_another_run_in_the_folder_asked_for_is_not_opened():
    """--out names a folder, whatever was there."""
    _complete(out="mine")
    with pytest.raises(Unchanged):
        _run(out="mine")
    with _run(out="mine", seed=1) as run:
        _work()
    assert read(run.folder).seed == 1
    assert len(read(run.folder).tries) == 1
