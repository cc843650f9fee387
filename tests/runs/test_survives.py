"""Kills, full disks and company: what was finished stays, the rest is computed, the numbers are those of a run left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch

from circuits.engine import generate_cells, sweep
from circuits.engine.edges.names import METRIC, Edge
from circuits.engine.edges.paths import along_paths
from circuits.engine.kept import keep
from circuits.engine.task import blocks_of_work
from circuits.errors import OutputError
from circuits.files import PART, write_whole
from circuits.interventions import Cell, Patch
from circuits.metrics import LogitDifference
from circuits.sites import Site, head

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
KILLS = 50


def _work(model: Any) -> dict[str, Any]:
    """A sweep in many blocks, paths in several, completions in two."""
    tokens, metric = small_models.uneven(), LogitDifference(model, "w50", "w51")
    cells: list[Cell] = [(Patch(head(layer, h)),) for layer in range(4) for h in range(4)]
    sites = [Site(kind, layer) for kind in ("mlp_out", "attn_out") for layer in range(4)]
    cells += [(Patch(site, position),) for site in sites for position in (-1, -2)]
    edges = [Edge(f"L0.H{h}", METRIC) for h in range(4)] + [Edge("embed", f"L1.q[{h}]") for h in range(4)]
    with blocks_of_work(1.0):
        swept = sweep(model, tokens, metric, cells)
        paths = along_paths(model, tokens, metric, edges)
    said = generate_cells(model, tokens, [(), (Patch(Site("resid_pre", 2), "last"),)], max_new_tokens=6, rows=5)
    return {"sweep": swept, "paths": paths, "said": said}


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["said"] == b["said"] and all(
        torch.equal(getattr(a[what], name), getattr(b[what], name)) and repr(a[what].certificate) == repr(b[what].certificate)
        for what in ("sweep", "paths") for name in ("value", "base", "source")
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return small_models.model("gemma")


@pytest.fixture(scope="module")
def alone(model):
    """The answer of a run that nobody disturbs, and what it takes."""
    began = time.perf_counter()
    return _work(model), time.perf_counter() - began


def _child(model: Any, folder: Path) -> int:
    """A process that works into the folder; 0 when it comes to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with keep(folder):
                _work(model)
            code = 0
        finally:
            os._exit(code)
    return pid


def test_fifty_kills_change_nothing(model, alone, tmp_path):
    """At random moments, each run going on from what the ones before it left; a new folder when one is complete."""
    right, seconds = alone
    rng, kills, complete = random.Random(0), 0, 0
    folder = tmp_path / "0"
    while kills < KILLS:
        pid = _child(model, folder)
        limit = time.perf_counter() + rng.uniform(0, seconds / 4)
        while time.perf_counter() < limit and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        assert os.waitstatus_to_exitcode(status) == 0
        _check(model, folder, right)
        complete += 1
        folder = tmp_path / str(complete)
    with keep(folder) as kept:
        assert _same(_work(model), right)
    assert kept.found + kept.made > 30  # what was cut into blocks
    _check(model, folder, right)
    assert not list(folder.rglob(f".*{PART}"))  # what killed writers leave is taken away by the next


def _check(model: Any, folder: Path, right: dict[str, Any]) -> None:
    """The folder alone gives the answer: nothing is computed."""
    with keep(folder) as kept:
        assert _same(_work(model), right)
    assert kept.made == 0


def test_processes_at_one_folder_do_not_harm_each_other(model, alone, tmp_path):
    right, _ = alone
    every = [_child(model, tmp_path) for _ in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in every] == [0, 0, 0]
    _check(model, tmp_path, right)


@contextmanager
def _mounted(folder: Path, options: str) -> Generator[Path]:
    """A small file system in memory, where this user may make one."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)  # noqa: S607
    if made.returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607


def test_a_full_disk_loses_nothing(model, alone, tmp_path):
    """The run stops with what to do; with room again it goes on."""
    right, _ = alone
    with _mounted(tmp_path / "small", "size=48k") as folder:
        with pytest.raises(OutputError, match="no space left there\nfree some and run the same again"), keep(folder) as kept:
            _work(model)
        assert 0 < kept.made < 30
        assert not list(folder.rglob(f".*{PART}"))
        subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)  # noqa: S607
        with keep(folder) as again:
            assert _same(_work(model), right)
        assert again.found == kept.made


def test_a_read_only_folder_is_said_before_anything_is_run(model, tmp_path, monkeypatch):
    ran: list[object] = []
    monkeypatch.setattr("circuits.engine.worker.capture", lambda *a, **_: ran.append(a))
    said = "cannot write .*Read-only file system; choose another folder"
    with _mounted(tmp_path / "fixed", "ro") as folder, pytest.raises(OutputError, match=said), keep(folder):
        _work(model)
    assert not ran


def test_a_file_is_whole_or_not_there(tmp_path):
    """Readers at any moment see the old text or the new one."""
    path = tmp_path / "text"
    old, new = "old" * 100_000, "new" * 200_000
    write_whole(path, old)
    pid = os.fork()
    if pid == 0:
        for i in range(200):
            write_whole(path, new if i % 2 == 0 else old)
        os._exit(0)
    seen = set[str]()
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        seen.add(path.read_text())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert seen <= {old, new}


def test_a_link_is_replaced_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "link").symlink_to(outside)
    write_whole(tmp_path / "link", "new")
    assert outside.read_text() == "mine"
    assert (tmp_path / "link").read_text() == "new"
