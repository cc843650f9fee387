"""The notebooks of the repository, and what keeps one from being stored as it should be."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("cases/*/notebook.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|usr|var|mnt|opt|work|data|Users|Volumes)\b|\b[A-Za-z]:\\|~/")


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def unclean(notebook: nbformat.NotebookNode) -> list[str]:
    """What a run, an editor or a machine has left in it."""
    found = [] if notebook.metadata == METADATA else [f"metadata {dict(notebook.metadata)}"]
    for i, cell in enumerate(notebook.cells):
        found += [f"cell {i}: metadata {dict(cell.metadata)}"] if cell.metadata else []
        found += [f"cell {i}: attachments"] if cell.get("attachments") else []
        if cell.cell_type == "code":
            found += [f"cell {i}: outputs"] if cell.outputs else []
            found += [f"cell {i}: counted"] if cell.execution_count is not None else []
        found += [f"cell {i}: path {path[0]!r}" for path in _ABSOLUTE.finditer(cell.source)]
    return found


def stripped(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """As it is stored: no outputs, no counts, nothing of a machine."""
    kept = nbformat.from_dict({**notebook, "metadata": METADATA})
    for cell in kept.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return kept


def main() -> None:
    """Strip all notebooks: `python tests/stored_notebooks.py`."""
    for path in NOTEBOOKS:
        kept = stripped(read(path))
        nbformat.validate(kept)
        path.write_text(nbformat.writes(kept) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
