"""The wheel holds the package with its data and nothing else, and works where the repository is not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("circuit_patching-*-py3-none-any.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {PurePosixPath(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """Runs code where the unpacked wheel is the only `circuits`."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)

    def run(code: str) -> str:
        check = f"import circuits; assert circuits.__file__.startswith({str(folder)!r}), circuits.__file__\n"
        done = subprocess.run(
            [sys.executable, "-c", check + code],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_every_file_of_the_package_is_in_it(names):
    here = {
        PurePosixPath(path.relative_to(ROOT).as_posix())
        for path in (ROOT / "circuits").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert not here - names


def test_every_file_that_git_knows_is_in_it(names):
    """What is tracked and not ignored: data that a rule for ignoring hides would be missing without a word."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the tree is not known")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "-z", "--", "circuits"],  # noqa: S607  whatever git is there
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    assert not {PurePosixPath(name) for name in listed if name and (ROOT / name).exists()} - names


SUFFIXES = [".csv", ".safetensors", ".json", ".jsonl", ".yaml", ".jinja", ".css", ".js", ".gz", ".md"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_is_data_of_every_kind(names, suffix):
    assert any(name.suffix == suffix for name in names if name.parts[0] == "circuits")


def test_no_kind_of_data_is_unknown(names):
    """A new kind of file is to be thought of here and in .gitignore."""
    kinds = {name.suffix for name in names if name.parts[0] == "circuits"}
    assert kinds - {*SUFFIXES, ".py", ".typed"} <= {"", ".LICENSE"}  # others' files come with their licences


def test_data_is_what_it_is_here(wheel):
    """Byte for byte."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("circuits/") and not name.endswith(".py"):
                assert archive.read(name) == (ROOT / name).read_bytes(), name


def test_types_and_licence_travel_along(names):
    assert PurePosixPath("circuits/py.typed") in names
    assert any(name.match("*.dist-info/licenses/LICENSE") for name in names)


def test_nothing_else_is_in_it(names):
    tops = {name.parts[0] for name in names}
    assert len(tops) == 2
    assert {top.endswith(".dist-info") for top in tops - {"circuits"}} == {True}
    assert not [name for name in names if {"tests", "__pycache__"} & set(name.parts)]


def test_it_brings_the_command(wheel, elsewhere):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert "circuits = circuits.__main__:main" in archive.read(name).decode().splitlines()
    code = """
import contextlib, io, sys
from importlib import metadata
(entry,) = (e for e in metadata.entry_points(group="console_scripts") if e.name == "circuits")
found, sys.argv, said = entry.load(), ["circuits", "--help"], io.StringIO()
with contextlib.redirect_stdout(said):
    try:
        code = found()
    except SystemExit as left:
        code = left.code
print(code or 0, "gemma_refusal" in said.getvalue())
"""
    assert elsewhere(code) == "0 True"


def test_its_prompts_open(elsewhere):
    assert int(elsewhere("print(len(circuits.toy_refusal_pairs()))")) > 10


def test_its_model_opens(elsewhere):
    code = """
from circuits.model import bundled_models
from safetensors import safe_open
import circuits, pathlib
assert bundled_models()
for name in bundled_models():
    folder = pathlib.Path(circuits.__file__).parent / "organisms" / name.replace("-", "_")
    (weights,) = folder.glob("*.safetensors")
    with safe_open(weights, "pt") as file:
        print(sum(file.get_tensor(key).isfinite().all().item() for key in file.keys()), len(file.keys()))
"""
    for line in elsewhere(code).splitlines():
        finite, tensors = map(int, line.split())
        assert finite == tensors > 0


def test_the_installed_package_says_its_version(elsewhere):
    assert elsewhere("from importlib import metadata; print(metadata.version('circuit-patching'))") == "0.1.0"
