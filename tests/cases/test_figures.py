"""The pictures that README and docs show are those that the code draws: same words, same numbers, same files.

Each study is run on its own prompts up to the last picture shown, with nothing drawn; what no picture needs is left out.
After a change that is meant, `make figures` draws them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from circuits.case.drawn import FILE, described, differences
from circuits.cases import names

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "figures"
SHOWN = ("gemma_refusal",)
EVERY = "CIRCUITS_EVERY_PICTURE" in os.environ
"""Half a minute for each study: `make pictures` looks at all of them, other runs of the tests at those of README."""


@cache
def kept(name: str) -> dict[str, Any]:
    return json.loads((FIGURES / name / FILE).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", names())
def test_the_files_are_those_that_were_drawn(name: str):
    pictures = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FIGURES / name).glob("*.png")}
    assert pictures == {stem: said["png"] for stem, said in kept(name).items()}, "make figures"


@pytest.mark.parametrize("name", names() if EVERY else SHOWN)
def test_the_code_draws_these_pictures(name: str, tmp_path: Path):
    shown, out = kept(name), tmp_path / "drawn.json"
    words = [sys.executable, str(ROOT / "tests" / "case_figures.py"), name, str(out), *shown]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    drawn = json.loads(out.read_text(encoding="utf-8"))
    changed = {stem: differences(was, drawn[stem]) for stem, was in shown.items()}
    assert not {stem: parts for stem, parts in changed.items() if parts}, "make figures"


@pytest.fixture(scope="module")
def heat() -> go.Figure:
    """A figure with lists, words, and a number in its layout."""
    z = [[0.125 * i * j for i in range(6)] for j in range(4)]
    figure = go.Figure(go.Heatmap(z=z, text=[[f"{v:.2f} of it" for v in row] for row in z]))
    return figure.update_layout(title="Residual", width=700)


def changed(figure: go.Figure, **parts: Any) -> list[str]:
    other = go.Figure(figure)
    other.data[0].update({key: value for key, value in parts.items() if key in ("z", "text", "colorscale")})
    other.update_layout({key: value for key, value in parts.items() if key in ("title", "width")})
    return differences(described(figure), described(other))


def test_rounding_is_no_change(heat: go.Figure):
    assert changed(heat) == []
    assert changed(heat, z=[[v * (1 + 1e-7) for v in row] for row in heat.data[0].z]) == []


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"title": "Attention"}, "words, colours or structure"),
        ({"colorscale": "Viridis"}, "words, colours or structure"),
        ({"width": 720}, "numbers of layout"),
    ],
)
def test_another_look_is_a_change(heat: go.Figure, parts: dict[str, Any], said: str):
    assert said in changed(heat, **parts)


def test_a_cell_that_moved_or_is_missing_is_a_change(heat: go.Figure):
    rows = [list(row) for row in heat.data[0].z]
    rows[1][2], rows[3][4] = rows[3][4], rows[1][2]
    assert changed(heat, z=rows) == ["numbers of data.0.z"]
    rows[1][2] = float("nan")
    assert changed(heat, z=rows) == ["how many numbers data.0.z has"]
