"""`circuits doctor`: it finds what is wrong, above all an engine that is not exact; it shows no secret."""

from __future__ import annotations

import argparse
import importlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from circuits.command.doctor import exactness, examination, examine, machine, packages, surroundings
from circuits.command.doctor.check import Check
from circuits.engine import single

sweeping = importlib.import_module("circuits.engine.sweep")  # the package shows the function under this name
ASKED = argparse.Namespace(json=True)


# --- the engine ------------------------------------------------------------------------------------------------------


def test_the_engine_is_exact_here():
    found = exactness.check(n_pairs=2)
    assert found.status == "ok", found.found
    assert found.details["values"] == 2 * 16 * 2
    assert 0 < found.details["deviation"] < found.details["limit"] < 2e-3
    assert "not Gemma" in found.details["model"]


def test_a_sweep_that_is_off_in_one_cell_fails(monkeypatch: pytest.MonkeyPatch):
    """After its own audit, so that the comparison alone can see it."""
    right = sweeping.sweep

    def wrong(*args, **kwargs):
        swept = right(*args, **kwargs)
        value = swept.value.clone()
        value[5, 0] += 0.01
        return replace(swept, value=value)

    monkeypatch.setattr(sweeping, "sweep", wrong)
    found = exactness.check(n_pairs=1)
    assert found.status == "failed"
    assert found.details["deviation"] == pytest.approx(0.01, rel=0.05)
    assert "do not use numbers" in found.remedy


def test_edits_that_are_not_exact_fail(monkeypatch: pytest.MonkeyPatch):
    """Of the fast path alone: the sweep's own audit sees it first."""
    right = single.apply
    monkeypatch.setattr(single, "apply", lambda bound, activation, at: 1.01 * right(bound, activation, at))
    found = exactness.check(n_pairs=1)
    assert found.status == "failed"
    assert "failed its" in found.found


def test_a_number_that_is_none_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exactness, "compare", lambda *_: (float("nan"), 1e-3))
    assert exactness.check(n_pairs=1).status == "failed"


def test_its_cells_take_both_paths_and_every_kind():
    from circuits.interventions import Patch
    from circuits.model import load

    cells = exactness.mixed_cells(load())
    kinds = {i.site.kind for cell in cells for i in cell}
    assert kinds >= {"resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "post"}
    assert {len(cell) > 1 for cell in cells} == {True, False}
    assert {type(i) for cell in cells for i in cell} > {Patch}


# --- packages --------------------------------------------------------------------------------------------------------


def test_versions_are_held_against_what_is_asked_for():
    asked = [Requirement("numpy>=1"), Requirement("torch>=999"), Requirement("no-such-package-anywhere>=2")]
    found = packages.needed(asked)
    assert found.status == "failed"
    assert "numpy is" not in found.found
    assert "torch is 2" in found.found
    assert "no-such-package-anywhere is not installed" in found.found
    assert found.remedy == "python -m pip install 'no-such-package-anywhere>=2' 'torch>=999'"
    extra = packages.of_extra("judge", asked[2:])
    assert (extra.status, extra.remedy) == ("note", "python -m pip install 'no-such-package-anywhere>=2'")
    assert packages.FOR["judge"] in extra.found
    assert packages.needed(asked[:1]).status == "ok"


def test_every_extra_says_what_it_is_for(root: Path):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert packages.FOR.keys() == project["optional-dependencies"].keys()
    assert project["name"] == packages.NAME


def test_this_installation_has_what_it_needs():
    by_name = {check.name: check for check in packages.checks()}
    assert by_name["python"].status == by_name["packages"].status == "ok"
    assert by_name["packages"].details["torch"]


def test_a_package_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packages, "NAME", "no-such-package-anywhere")
    (found,) = packages.checks()
    assert found.status == "failed"
    assert "pip install -e ." in found.remedy


# --- machine and surroundings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "omp", "status"),
    [
        (1, {}, "ok"), (8, {}, "note"), (8, {"OMP_WAIT_POLICY": "passive"}, "ok"), (8, {"OMP_NUM_THREADS": "1"}, "ok"),
        (8, {"OMP_WAIT_POLICY": "ACTIVE"}, "note"),
    ],
)  # fmt: skip
def test_threads_that_spin(cores: int, omp: dict[str, str], status: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in omp.items():
        monkeypatch.setenv(name, value)
    found = machine.waiting(cores)
    assert found.status == status
    assert ("OMP_WAIT_POLICY=PASSIVE" in found.remedy) == (status == "note")


def test_more_threads_than_cores():
    assert machine.threads(8, 2).status == "note"
    assert machine.threads(2, 2).status == "ok"


def test_the_device_is_what_torch_says():
    import torch

    by_name = {check.name: check for check in machine.checks()}
    assert len(by_name["cuda"].details["devices"]) == torch.cuda.device_count()
    assert by_name["cpu"].details["threads"] == torch.get_num_threads()
    assert by_name["mps"].details["available"] is torch.backends.mps.is_available()


def test_a_folder_that_cannot_be_written_fails_and_none_is_made(tmp_path: Path):
    assert surroundings.writable(tmp_path / "runs" / "deep").status == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    found = surroundings.writable(tmp_path / "file" / "runs")
    assert found.status == "failed"
    assert "--out" in found.remedy


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "CIRCUITS_JUDGE_URL", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "https://user:hunter2@somewhere")
    found = surroundings.hub()
    assert "hunter2" not in str(found)
    assert "HF_TOKEN set" in found.found
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN not set" in surroundings.hub().found


# --- all together ----------------------------------------------------------------------------------------------------


def test_a_failed_check_gives_2_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    checks = [
        Check("one", "ok", "fine"),
        Check("two", "note", "hm", "perhaps"),
        Check("three", "failed", "bad", "do\nthis"),
    ]
    monkeypatch.setattr(examination, "_checks", lambda: iter(checks))
    assert examine(argparse.Namespace(json=False)) == 2
    said = capsys.readouterr().out
    lines = [line.strip() for line in said.splitlines()]
    assert lines[-5:-1] == ["failed  three         bad", "do", "this", ""]
    assert lines[-1] == "failed: three; what to do stands below each"
    checks.pop()
    assert examine(argparse.Namespace(json=False)) == 0
    assert capsys.readouterr().out.endswith("all is well\n")


def test_json_holds_everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(exactness, "check", lambda: Check("exactness", "failed", "off by 1", "do not use it"))
    assert examine(ASKED) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    names = [check["name"] for check in told["checks"]]
    assert {"python", "packages", "[judge]", "cpu", "openmp", "cuda", "mps", "still images", "runs", "model hub"} <= {
        *names
    }
    assert told["checks"][-1] == {
        "name": "exactness", "status": "failed", "found": "off by 1", "remedy": "do not use it", "details": {},
    }  # fmt: skip
