"""Every notebook runs from a clean clone, shows what it says, and never passes a bundled model off as another."""

from __future__ import annotations

import re
import shutil

import nbformat
import pytest
from nbclient import NotebookClient
from stored_notebooks import NOTEBOOKS, read

PLOTLY = "application/vnd.plotly.v1+json"
FOLDERS = {path.parent.name: path for path in NOTEBOOKS}
FIGURES = 6
"""At least so many in each."""


def run(name, folder, monkeypatch, **environment):
    """Execute in an empty folder, with what lies beside the notebook; the executed notebook."""
    for variable in ("CIRCUITS_MODEL", "CIRCUITS_PAIRS", "PLOTLY_RENDERER"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    for beside in FOLDERS[name].parent.glob("*.csv"):
        shutil.copy(beside, folder)
    notebook = read(FOLDERS[name])
    NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(notebook):
    """What every output says, by MIME type and as streams; pictures as the text of their JSON, its lines joined."""
    found = []
    for output in outputs(notebook):
        data = output.get("data", {"text/plain": output.get("text", "")})
        found += [str(value) for kind, value in data.items() if kind != "text/html" or len(value) < 1_000_000]
    return [re.sub(r"<br>|\\u003cbr\\u003e", " ", text) for text in found]


def check(notebook, title, figures):
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    said = texts(notebook)
    assert any(title in text for text in said)
    assert any("certificate ok: " in text for text in said)
    drawn = [output.data for output in outputs(notebook) if PLOTLY in output.get("data", {})]
    assert len(drawn) >= figures
    for data in drawn:
        captions = [a["text"] for a in data[PLOTLY]["layout"].get("annotations", ()) if a.get("name") == "caption"]
        assert captions
        assert title.partition(" (")[0] in captions[0]
    assert all("text/html" in data for data in drawn), "a page made from the notebook would lack a figure"
    whole = [data["text/html"] for data in drawn]
    assert sum(len(html) > 1_000_000 for html in whole) == 1, "plotly.js comes once"
    for html in whole:
        assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", html), "a figure needs no network"
    return said


@pytest.mark.parametrize("name", FOLDERS)
def test_it_runs_on_the_bundled_model(name, tmp_path, monkeypatch):
    notebook = run(name, tmp_path, monkeypatch)
    model = {"gemma2_replication": "gemma2", "gemma_refusal": "gemma", "your_own_task": "gemma"}.get(name, "qwen2")
    said = check(notebook, f"refusal-{model} (bundled", FIGURES)
    for text in said:
        for family in re.findall(r"(Gemma|Qwen)\d* architecture", text):
            assert f"not {family}" in text
        if re.search(r"\b(Gemma|Qwen)", text):
            assert re.search(r"not (Gemma|Qwen)", text), text[:300]
    if name == "your_own_task":
        assert any("this runs on a small bundled model" in text for text in said)
        assert any("with two mistakes" in text or "do not align" in text for text in said)
        assert any("<iframe sandbox=" in text for text in said)
        assert {"circuit.graphml", "circuit.html", "faithfulness.csv"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_a_model_of_the_readers_own(tmp_path, monkeypatch, shared):
    """The same cells with another model and its pairs, chosen by the two variables alone."""
    folder = shared / "models/TinyStories-656K"
    if not folder.is_dir():
        pytest.skip("no TinyStories-656K in shared/models")
    given = {"CIRCUITS_MODEL": str(folder), "CIRCUITS_PAIRS": "tinystories.csv"}
    notebook = run("your_own_task", tmp_path, monkeypatch, **given)
    said = check(notebook, "TinyStories-656K (local folder", FIGURES)
    assert not any("refusal-gemma" in text or "bundled model" in text for text in said)
    kept = nbformat.writes(notebook)
    assert "logit[answer]" in kept
