"""Every measurement has its page, and everything a page can be held to is held: headings, signature, code, fields, columns."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import circuits as ct
from circuits.result import Result

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "measurements"
PAGES = {path.stem: path for path in sorted(FOLDER.glob("*.md")) if path.stem != "index"}
INDEX = FOLDER / "index.md"
HEADINGS = [
    "Question", "Call", "Equation", "What comes back", "Null and interval", "How it misleads", "Reference",
]  # fmt: skip
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SIGNATURE = re.compile(r"^`(ct\.(\w+)\([^`]*\))`\s+→\s+`(\w+)`$", re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)]+)\)")
each_page = pytest.mark.parametrize("page", PAGES)


def measurements() -> dict[str, type[Result]]:
    """Every public verb, found by what it says it returns.

    `typing.get_type_hints` cannot read every shape in a signature, so the return annotation alone is looked up.
    """
    found: dict[str, type[Result]] = {}
    for name in ct.__all__:
        verb = getattr(ct, name)
        if inspect.isfunction(verb):
            said = inspect.signature(verb).return_annotation
            kind = vars(sys.modules[verb.__module__]).get(said) if isinstance(said, str) else said
            if isinstance(kind, type) and issubclass(kind, Result):
                found[name] = kind
    return found


MEASUREMENTS = measurements()


def sections(page: str) -> dict[str, str]:
    """Heading -> text below it; what looks like a heading within a fence is none."""
    text = PAGES[page].read_text(encoding="utf-8")
    bare = FENCED.sub(lambda block: re.sub(r"(?m)^#", "\x00", block.group()), text)
    parts = re.split(r"(?m)^## (.+)$", bare)[1:]
    return {title: body.replace("\x00", "#") for title, body in zip(parts[::2], parts[1::2], strict=True)}


def declared(page: str) -> list[tuple[str, str, str]]:
    """(call, verb, result) of every signature outside the fences of a page's Call section."""
    return SIGNATURE.findall(FENCED.sub("", sections(page)["Call"]))


def written(verb: Any) -> str:
    """`ct.patch_heads(model, …, *, positions="last")`, as the verb's source has it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(verb))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    given = tree.args
    first = [None] * (len(given.args) - len(given.defaults)) + list(given.defaults)
    pairs = [*zip(given.args, first, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    said = [a.arg if d is None else f"{a.arg}={ast.unparse(d)}".replace("'", '"') for a, d in pairs]
    if given.kwonlyargs:
        said.insert(len(given.args), "*")
    return f"ct.{tree.name}({', '.join(said)})"


def bullets(text: str) -> list[str]:
    """Items of the lists in a text, each on one line."""
    items = re.split(r"(?m)^- ", FENCED.sub("", text))[1:]
    return [" ".join(item.split("\n\n")[0].split()) for item in items]


@pytest.fixture(scope="module")
def model() -> Any:
    return ct.load()


def test_there_are_measurements_and_some_functions_are_none() -> None:
    assert {"patch_residual", "decompose", "verify"} <= set(MEASUREMENTS)  # `decompose` has shapes hints cannot read
    assert not {"generate", "sweep", "load", "exact_edges", "filter_subjects"} & set(MEASUREMENTS)


def test_every_measurement_is_on_exactly_one_page() -> None:
    named = [verb for page in PAGES for _, verb, _ in declared(page)]
    assert sorted(named) == sorted(MEASUREMENTS)


@each_page
def test_headings_stand_in_order_and_the_page_is_short(page: str) -> None:
    text = PAGES[page].read_text(encoding="utf-8")
    assert list(sections(page)) == HEADINGS
    assert text.startswith(f"# {page}\n")
    assert len(text.splitlines()) <= 80
    assert all(body.strip() for body in sections(page).values())
    assert sections(page)["Question"].strip().endswith("?")
    assert len(bullets(sections(page)["How it misleads"])) >= 4
    assert "refusal-gemma" not in text or "not Gemma" in text


@each_page
def test_the_call_is_the_verbs_own(page: str) -> None:
    ((call, verb, result),) = declared(page)
    assert verb == page
    assert " ".join(call.split()) == written(getattr(ct, verb))
    assert result == MEASUREMENTS[verb].__name__


@each_page
def test_the_code_runs_and_gives_what_the_page_says(page: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ct, "load", lambda: model, raising=False)  # one model for all pages
    kind = MEASUREMENTS[declared(page)[0][1]]
    code = BLOCK.findall(sections(page)["Call"])
    assert code
    assert BLOCK.findall(PAGES[page].read_text(encoding="utf-8")) == code  # none elsewhere, which nobody would run
    assert any(f"ct.{page}(" in block for block in code)
    names: dict[str, Any] = {}
    for block in code:
        exec(compile(block, PAGES[page].name, "exec"), names)  # noqa: S102  the page's own code
    found = [value for value in names.values() if type(value) is kind]
    assert found, f"no {kind.__name__} in {sorted(names)}"
    returned = bullets(sections(page)["What comes back"])
    assert returned[0].startswith("Fields: ")
    for item in returned:
        _check_returned(found[-1], item)


def _check_returned(result: Result, item: str) -> None:
    """Fields exist and have as many axes as are named; methods exist; names after a frame's method are its columns."""
    before, _, after = item.partition(":")
    if before == "Fields":
        for span in SPAN.findall(after):
            _check_field(result, span)
        return
    methods = [span for span in SPAN.findall(before) if span.endswith("()")]
    assert methods, item
    for method in methods:
        assert callable(getattr(result, method[:-2])), method
    if "figure" in methods[0]:
        return
    columns = {str(column) for column in getattr(result, methods[0][:-2])().columns}
    named = {span for span in SPAN.findall(after) if span.isidentifier()}
    assert named <= columns, f"{methods[0]} lacks {sorted(named - columns)}; it has {sorted(columns)}"


def _check_field(result: Result, span: str) -> None:
    name, bracket, axes = span.partition("[")
    value = getattr(result, name.removesuffix("()"))
    assert callable(value) == name.endswith("()"), span
    if bracket:
        assert value.ndim == len(axes.split(",")), f"{span}: {tuple(value.shape)}"


def test_the_index_leads_to_every_page_once() -> None:
    rows = [line for line in INDEX.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    linked = [target for row in rows for target in LINK.findall(row)]
    assert sorted(linked) == sorted(path.name for path in PAGES.values())


@pytest.mark.parametrize("path", [INDEX, *PAGES.values()], ids=lambda path: path.stem)
def test_links_are_relative_and_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(FENCED.sub("", path.read_text(encoding="utf-8"))):
        file, _, anchor = target.partition("#")
        assert "://" not in target
        assert (path.parent / file).is_file(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", (path.parent / file).read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^\w\s-]", "", title).lower().replace(" ", "-") for title in headings}, target
