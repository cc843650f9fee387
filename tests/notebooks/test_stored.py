"""Notebooks are stored as they are written: no outputs, nothing of a machine, no number that a run might change."""

from __future__ import annotations

import ast
import copy
import csv
import re

import nbformat
import pytest
from stored_notebooks import NOTEBOOKS, ROOT, read, stripped, unclean

STUDIES = ("gemma2_replication", "gemma_refusal", "incapability", "rotation_plane", "single_direction")
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.parent.name)


def test_every_study_has_one_and_so_has_the_readers_own_task():
    assert [path.parent.name for path in NOTEBOOKS] == [*STUDIES, "your_own_task"]


@EACH
def test_it_is_stored_stripped(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert not unclean(notebook)
    assert path.read_text(encoding="utf-8") == nbformat.writes(stripped(notebook)) + "\n"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda nb: nb.cells[1].outputs.append(nbformat.v4.new_output("stream", text="1")),
        lambda nb: nb.cells[1].update(execution_count=3),
        lambda nb: nb.cells[0].metadata.update(collapsed=True),
        lambda nb: nb.metadata.update(widgets={}),
        lambda nb: nb.metadata.kernelspec.update(display_name="circuits (3.11.7)"),
        lambda nb: nb.cells[0].update(source="read /" + "home/someone/model"),
        lambda nb: nb.cells[0].update(source="read C:\\models"),
    ],
)
def test_what_a_run_or_a_machine_leaves_is_seen(spoil):
    notebook = copy.deepcopy(read(NOTEBOOKS[0]))
    assert notebook.cells[1].cell_type == "code"
    spoil(notebook)
    assert unclean(notebook)


@EACH
def test_it_is_a_story_in_cells_of_which_the_first_names_the_model(path):
    notebook = read(path)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[:2] == ["markdown", "code"]
    assert 10 <= kinds.count("code") <= 19
    assert kinds.count("markdown") >= 8
    assert "CIRCUITS_MODEL" in notebook.cells[0].source
    assert 'os.environ.get("CIRCUITS_MODEL", "refusal-' in notebook.cells[1].source
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)


@EACH
def test_what_others_found_is_told_as_theirs(path):
    """Every quote says of which model; outside quotes no published model is spoken of as the one that runs."""
    for cell in read(path).cells:
        if cell.cell_type != "markdown":
            continue
        quotes = re.findall(r"(?:^>.*\n?)+", cell.source, re.MULTILINE)
        assert all(re.match(r"> Write-up, on [\w./-]+: ", quote) for quote in quotes), quotes
        prose = re.sub(r"^>.*$", "", cell.source, flags=re.MULTILINE)
        for sentence in re.split(r"(?<=[.:])\s", prose):
            if re.search(r"\b(Gemma|Qwen)", sentence, re.IGNORECASE):
                assert re.search(r"write-up|python -m circuits", sentence), sentence


@pytest.mark.parametrize("name", ["pairs.csv", "tinystories.csv"])
def test_pairs_of_the_readers_own_task_swap_one_word(name):
    with (ROOT / "cases/your_own_task" / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 16
    assert len({row["clean"] for row in rows}) == len(rows)
    for row in rows:
        clean, corrupt = row["clean"].split(), row["corrupt"].split()
        assert len(clean) == len(corrupt)
        assert sum(a != b for a, b in zip(clean, corrupt, strict=True)) == 1
        assert row["answer"] != row["wrong"]
