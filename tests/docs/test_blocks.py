"""Every page's code runs as it stands, and prints what the page says it prints."""

from __future__ import annotations

import shlex
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import circuits as ct
from circuits.case import parser
from circuits.cases import names
from circuits.model import load
from docs import blocks

PAGES = blocks.pages()


@cache
def _loaded(name: str | None) -> ct.Model:
    return load() if name is None else load(name)


@pytest.fixture(autouse=True)
def one_model(monkeypatch: pytest.MonkeyPatch):
    """Pages ask for a bundled model each; it is loaded once."""

    def cached(name: str | None = None, **knobs: object) -> ct.Model:
        return load(*([] if name is None else [name]), **knobs) if knobs else _loaded(name)

    monkeypatch.setattr(ct, "load", cached, raising=False)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path):
    for block, said, shown in blocks.run(blocks.DOCS / page, tmp_path):
        assert blocks.alike(said, shown), (
            f"docs/{page}, line {block.line}: it prints\n{said}\nand the page says\n{shown}"
        )


def test_pages_have_code():
    """None is forgotten: `python` is run, `.no-run` says why not, and nothing else is called Python."""
    assert {"index.md", "tutorial.md", "graph.md"} <= set(PAGES)
    for page in blocks.DOCS.rglob("*.md"):
        for block in blocks.blocks(page):
            if "python" in block.head and not block.runs:
                assert block.head == "{.python .no-run}", f"{page.name}, line {block.line}: {block.head}"


def _commands() -> list[tuple[str, str, list[str]]]:
    """Page, case and flags of every command in docs/ that runs a case, by either name."""
    found: list[tuple[str, str, list[str]]] = []
    for page in sorted(blocks.DOCS.rglob("*.md")):
        for block in blocks.blocks(page):
            for line in block.body.replace("\\\n", " ").splitlines() if block.head == "console" else []:
                words = shlex.split(line.removeprefix("$ ").partition(">")[0], comments=True)
                for i, word in enumerate(words):
                    named = word.removeprefix("circuits.cases.")
                    if named != word or words[max(i - 2, 0) : i] == ["circuits", "run"]:
                        found.append((page.name, named, words[i + 1 :]))
    return [command for command in found if command[1].islower()]  # NAME and CASE stand for any


@pytest.mark.parametrize(("page", "case", "flags"), _commands())
def test_commands_have_flags_that_exist(page: str, case: str, flags: list[str]):
    assert case in names(), page
    read = parser(import_module(f"circuits.cases.{case}.__main__").CASE)
    if "--help" not in flags:
        read.parse_args([flag for flag in flags if flag not in {"…", "[…]"}])


def test_alike_tells_numbers_from_words():
    assert blocks.alike("L2.H6  0.171 [0.10, 0.26]", "L2.H6 0.17 [0.1, 0.27]")
    assert not blocks.alike("L2.H6 0.17", "L2.H7 0.17")
    assert not blocks.alike("L2.H6 0.17", "L2.H6 0.27")
    assert not blocks.alike("0.17", "0.17 0.2")
