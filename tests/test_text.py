"""What must not stand in any file of the repository, and what its few files of habits must agree on."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Written in two pieces, so that this file does not find itself.
MACHINES = [first + last for first, last in (("/wo", "rk/"), ("/ho", "me/"), ("/ro", "ot/"), ("/Us", "ers/"))]
UNFINISHED = ["raise NotImpl" + "ementedError", "TO" + "DO", "FIX" + "ME", "XX" + "X"]


def texts() -> dict[str, str]:
    """Every file that git knows or would add, as text; files that are not text are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607  whatever git is there
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    found = {}
    for name in filter(None, listed.split("\0")):
        try:
            found[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
    return found


@pytest.fixture(scope="module")
def tree():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the tree is not known")
    return texts()


def test_the_tree_is_read(tree):
    assert {"pyproject.toml", "Makefile", "circuits/errors.py"} <= tree.keys()


@pytest.mark.parametrize("word", MACHINES)
def test_no_file_knows_a_machine(tree, word):
    assert not [name for name, text in tree.items() if word in text]


@pytest.mark.parametrize("word", UNFINISHED)
def test_no_file_is_unfinished(tree, word):
    assert not [name for name, text in tree.items() if re.search(rf"\b{word}\b", text)]


def test_every_requirement_has_a_tested_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {line.split("==")[0] for line in lines if line and not line.startswith("#")}
    names = {
        re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for group in wanted for line in group
    }
    assert names - {project["name"]} <= tested
    assert all(re.fullmatch(r"#.*|[a-z0-9.-]+==[^+@/ ]+", line) for line in lines)


def test_make_explains_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    explained = re.findall(r"^([a-z0-9-]+):[^\n]*## \S", text, re.MULTILINE)
    assert sorted(explained) == sorted(phony[1].split())
