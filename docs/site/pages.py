"""Pages that are not written in docs/: the API from docstrings, the studies from cases/, pictures from figures/.

mkdocs calls the three functions that begin with `on_`. Everything is read from source text; the package is not imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "circuits"
BY_FILE = ("measure", "case")
"""Rooms whose files are documented one by one; of the others, what they export."""
BARE = ("cases", "organisms")
"""Rooms that are run, not called: what they say of themselves, and of their parts."""


def on_config(config: Any) -> Any:
    """Read `*` in the navigation."""
    sources = _sources()
    config["nav"] = [part for entry in config["nav"] for part in _expanded(entry, sources)]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/."""
    for src_uri, text in _generated().items():
        files.append(File.generated(config, src_uri, content=text))
    for picture in sorted((ROOT / "figures").glob("*/*.png")):
        where = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, where, abs_src_path=str(picture)))
    return files


def _generated() -> dict[str, str]:
    return {"reference/index.md": index()} | references() | studies()


def _sources() -> list[str]:
    """Every page there will be, the index of a folder first."""
    written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    return sorted({*written, *_generated()}, key=lambda uri: (Path(uri).name != "index.md", uri))


def _expanded(entry: Any, sources: list[str]) -> Iterator[Any]:
    """An entry of the navigation, `*` in it replaced by the pages that exist; nothing where there are none."""
    if isinstance(entry, str):
        yield from _matching(entry, sources)
        return
    ((title, value),) = entry.items()
    if isinstance(value, list):
        inside = [part for child in value for part in _expanded(child, sources)]
        yield {title: [part for i, part in enumerate(inside) if part not in inside[:i]]}  # what a `*` finds again
    elif "*" not in value:
        yield entry
    elif found := _matching(value, sources):
        yield {title: found if "/*" in value else found[0]}


def _matching(pattern: str, sources: list[str]) -> list[str]:
    if "*" not in pattern:
        return [pattern]
    known = re.compile(re.escape(pattern).replace(r"\*", "[^/]*"))
    return [uri for uri in sources if known.fullmatch(uri)]


# --- the API --------------------------------------------------------------------------------------------------------------


def rooms() -> list[str]:
    """Modules and packages directly in `circuits`."""
    found = [path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    return sorted(path.stem for path in found if not path.stem.startswith("_"))


def homes() -> dict[str, tuple[str, ...]]:
    """Module -> the names of `circuits` that are imported from it."""
    for node in _tree(PACKAGE).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            return ast.literal_eval(node.value)
    raise LookupError("circuits/__init__.py has no table _HOME of what is public")


def public() -> dict[str, str]:
    """Every name of `circuits` and the module that its documentation is under."""
    return {name: _under(module, name) for module, names in homes().items() for name in names}


def _under(package: str, name: str) -> str:
    """The package, or its file of the same name: `circuits.engine.generate` is both a function and the file it is in."""
    file = ROOT / package.replace(".", "/") / f"{name}.py"
    return f"{package}.{name}" if file.is_file() else package


def index() -> str:
    """The table of all public names, each with its first sentence."""
    rows = [
        f"| [`{name}`][{module}.{name}] | {sentence(module, name)} | [{room}]({room}.md) |"
        for name, module in sorted(public().items(), key=lambda pair: pair[0].lower())
        for room in [module.split(".")[1]]
    ]
    head = "# All public names\n\nAfter `import circuits as ct` each of these is `ct.NAME`, imported on first use.\n"
    return "\n".join([head, "| name | what it is | room |", "|---|---|---|", *rows, ""])


def sentence(module: str, name: str) -> str:
    """The first line of what a module says of a name, its own or imported from elsewhere in the package."""
    path = ROOT / module.replace(".", "/")
    for file in [path / "__init__.py", path.with_suffix(".py"), *sorted(path.glob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if file.is_file() else ():
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                return _escaped((ast.get_docstring(node) or "").partition("\n")[0])
            if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
                return sentence(str(node.module), name)
    raise LookupError(f"{module} has no {name}")


def _escaped(text: str) -> str:
    """For a cell of a table."""
    return re.sub(r"([|*])", r"\\\1", text).replace("<", "&lt;")


def references() -> dict[str, str]:
    """One page for each room."""
    return {f"reference/{room}.md": "\n".join([f"# circuits.{room}", "", *_room(room)]) for room in rooms()}


def _room(room: str) -> Iterator[str]:
    path = PACKAGE / room
    yield from _entry(f"circuits.{room}", [] if room in BARE else _exported(path), root=False)
    for child in sorted(path.rglob("*")) if path.is_dir() else []:
        package = (child / "__init__.py").is_file()
        module = child.suffix == ".py" and not child.stem.startswith("_")
        beside = child.parent == path
        if package or (module and room in BY_FILE and (beside or not _exported(child.parent))):
            name = ".".join(("circuits", *child.relative_to(PACKAGE).with_suffix("").parts))
            yield from _entry(name, None if module else _exported(child) if room not in BARE else [])
    for module, names in homes().items():
        if (
            module.startswith(f"circuits.{room}.")
            and room not in BY_FILE
            and not (ROOT / module.replace(".", "/")).is_dir()
        ):
            yield from _entry(module, list(names))


def _entry(name: str, members: list[str] | None, *, root: bool = True) -> Iterator[str]:
    """One module; `members` of it, None for all that it defines."""
    apart = [f"{_under(name, member)}.{member}" for member in members or () if _under(name, member) != name]
    beside = [member for member in members or () if f"{name}.{member}.{member}" not in apart]
    chosen = "" if members is None else f"      members: {beside or 'false'}\n"
    yield (
        f"::: {name}\n    options:\n      heading_level: {2 if root else 1}\n      show_root_heading: {str(root).lower()}\n"
        f"      show_root_toc_entry: {str(root).lower()}\n{chosen}"
    )
    yield from (f"::: {function}\n    options:\n      heading_level: {3 if root else 2}\n" for function in apart)


def _exported(path: Path) -> list[str] | None:
    """What `__all__` lists; None for a module, which exports what it defines."""
    if not path.is_dir():
        return None
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _tree(package: Path) -> ast.Module:
    return ast.parse((package / "__init__.py").read_text(encoding="utf-8"))


# --- the studies ----------------------------------------------------------------------------------------------------------


def studies() -> dict[str, str]:
    """README of every case, with its pictures."""
    return {f"studies/{path.parent.name}.md": _study(path) for path in sorted((ROOT / "cases").glob("*/README.md"))}


def _study(readme: Path) -> str:
    """The text, its links led to where their targets are in the site; a link to a folder of pictures becomes the pictures."""
    text, shown = readme.read_text(encoding="utf-8"), ""

    def led(match: re.Match[str]) -> str:
        nonlocal shown
        said, target = match[1], (readme.parent / match[2]).resolve()
        if ":" in match[2] or match[2].startswith("#"):
            return match[0]
        if target.suffix == ".png":
            return f"[{said}](../figures/{target.parent.name}/{target.name})"
        if target.parent == ROOT / "figures":
            shown += "".join(
                f"\n![{p.stem}](../figures/{target.name}/{p.name})\n" for p in sorted(target.glob("*.png"))
            )
        if target.parent.parent == ROOT / "cases" and target.name == "README.md":
            return f"[{said}]({target.parent.name}.md)"
        if target.is_relative_to(ROOT / "docs"):
            return f"[{said}](../{target.relative_to(ROOT / 'docs').as_posix()})"
        return said  # it lies in the repository, and the site has no copy

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", led, text) + shown
