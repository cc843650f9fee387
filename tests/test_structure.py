"""The package keeps its own rules: imports point down, hooks and shapes have one home, files stay small."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from circuits.axes import AXES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "circuits"
FILES = sorted(PACKAGE.rglob("*.py"))

ORDER = (
    ("errors", "axes"),
    ("files",),
    ("sites", "linalg", "stats", "selection", "draw", "refusal"),
    ("display",),
    ("result", "frames"),
    ("prompts", "model"),
    ("metrics",),
    ("interventions",),
    ("engine",),
    ("tables", "judges", "edits", "sae", "harness", "remote"),
    ("measure",),
    ("graph",),
    ("report",),
    ("runs",),
    ("case",),
    ("cases", "organisms"),
    ("command",),
    ("__main__",),
)
"""What comes later may import what comes earlier; what stands side by side does not import each other."""
STEP = {room: step for step, rooms in enumerate(ORDER) for room in rooms}
INDEPENDENT = ("measure", "cases")
"""Rooms whose files (or packages) answer one question each and never import each other."""

SHAPES = {"Float", "Int", "Bool", "Num", "Shaped", "Integer", "UInt", "Real", "Inexact", "Complex"}
LONGEST = 300


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imports(module: str) -> set[str]:
    """All that `module` imports anywhere in its text; `from circuits import draw` names `circuits.draw`."""
    found: set[str] = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & TREES.keys()
            found |= whole or {str(node.module)}
    return found


def room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if name == "circuits" or name.startswith("circuits.")}


def test_every_module_has_its_place():
    rooms = {room(module) for module in TREES} - {""}
    assert rooms <= STEP.keys(), f"give a place in ORDER to {sorted(rooms - STEP.keys())}"


def test_imports_point_down():
    wrong = [
        f"{module} imports {name}"
        for module in TREES
        if room(module)
        for name in sorted(ours(module))
        if room(name) != room(module) and (not room(name) or STEP[room(name)] >= STEP[room(module)])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("parent", INDEPENDENT)
def test_answers_do_not_import_each_other(parent):
    def file(name):
        return ".".join(name.split(".")[2:3])

    wrong = [
        f"{module} imports {name}"
        for module in TREES
        if room(module) == parent and file(module)
        for name in sorted(ours(module))
        if room(name) == parent and file(name) != file(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_transformer_lens_is_imported_in_one_room():
    users = {room(m) for m in TREES if any(name.split(".")[0] == "transformer_lens" for name in imports(m))}
    assert users == {"model"}


def test_hooks_are_installed_in_one_place():
    """In `model.hooks`, which only model and engine use; training an organism stands outside the toolkit."""
    installers = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (node.attr.startswith("register_forward") or node.attr in {"add_hook", "run_with_hooks"})
    }
    assert {m for m in installers if room(m) != "organisms"} == {"circuits.model.hooks"}
    users = {room(module) for module in TREES if "circuits.model.hooks" in imports(module)}
    assert users <= {"model", "engine"}


def shapes(module: str):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in SHAPES:
            match node.slice:
                case ast.Tuple(elts=[_, ast.Constant(value=str(text))]):
                    yield node.lineno, text


def test_every_axis_stands_in_the_vocabulary():
    wrong = [
        f"{module}:{line}: {name!r} in {text!r}"
        for module in TREES
        for line, text in shapes(module)
        for name in re.findall(r"[A-Za-z_]\w*", text)
        if name != "_" and name not in AXES
    ]
    assert not wrong, "\n".join(wrong)


def test_shapes_are_checked_while_tests_run():
    """A name that exists only for the type checker is silently skipped when annotations are checked."""
    wrong = []
    for module, tree in TREES.items():
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} if any(shapes(module)) else set()
        for block in ast.walk(tree):
            if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test):
                for node in ast.walk(block):
                    if isinstance(node, ast.ImportFrom) and node.module in {"torch", "jaxtyping"}:
                        wrong += [f"{module}: {a.name}" for a in node.names if a.name in used & {*SHAPES, "Tensor"}]
    assert not wrong, f"import at run time: {wrong}"


def test_files_are_short_and_open_with_a_sentence():
    for module, path in zip(TREES, FILES, strict=True):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST, f"{module} is longer than {LONGEST}"
        first = (ast.get_docstring(TREES[module]) or "").strip(" .")
        assert first or not TREES[module].body, f"{module} has no docstring"
