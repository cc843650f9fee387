"""The same steps of a case in two processes: the same bytes, whatever the hash seed; and no secret of the environment."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hostile import step

STEP = Path(__file__).with_name("step.py")
SECRETS = {
    "HF_TOKEN": "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0", "HUGGING_FACE_HUB_TOKEN": "hf_SENTINELolderSENTINELolder0",
    "CIRCUITS_JUDGE_KEY": "sk-SENTINELjudgeSENTINELjudge", "OPENAI_API_KEY": "sk-SENTINELopenaiSENTINEL",
}  # fmt: skip
MARK = b"SENTINEL"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two folders: filled by a process that was given secrets, and by this one, whose hash seed is another."""
    pytest.importorskip("openai", reason="the judge needs the package openai")
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    # nothing of this process's own settings but where things are
    env = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    path = os.pathsep.join(map(str, (STEP.parents[2], STEP.parents[1])))
    env |= SECRETS | {"PYTHONHASHSEED": seed, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, STEP, first], capture_output=True, env=env, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    (first / "stdout").write_bytes(done.stdout)
    (first / "stderr").write_bytes(done.stderr)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        for name in SECRETS:
            patch.delenv(name, raising=False)
        step.main(second)
    return first, second


def test_no_secret_is_written_or_said(runs: tuple[Path, Path]):
    files = [path for path in runs[0].rglob("*") if path.is_file()]
    assert len(files) >= 14
    assert [str(path) for path in files if MARK in path.read_bytes()] == []
    said = (runs[0] / "stderr").read_text(encoding="utf-8")
    assert "nobody/such-model" in said
    assert "unreachable" in (runs[0] / "stdout").read_text(encoding="utf-8")  # the judge was asked, with its key


def test_the_same_steps_give_the_same_bytes(runs: tuple[Path, Path]):
    first, second = runs
    names = sorted(p.relative_to(first).as_posix() for p in first.rglob("*") if p.suffix in {".csv", ".safetensors"})
    assert {"data/residual.csv", "data/residual.safetensors", "data/classes.csv", "report/tables/resid.csv"} <= set(
        names
    )
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []
    assert json.loads((first / "data/residual.json").read_text())["provenance"]["certificate"]
    for name in ("data/residual.json", "report/manifest.json", "report/index.html"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
