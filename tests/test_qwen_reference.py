"""The published choice of a refusal direction in Qwen-1.8B-Chat, made again from its scores and mean differences alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from circuits.engine.contrast import between
from circuits.errors import UndefinedError
from circuits.linalg import cosine
from circuits.measure.layer_directions import stable_block
from circuits.selection import Selection, published_filters, select

POSITIONS = (-5, -4, -3, -2, -1)


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "reference" / "qwen-1_8b-chat"


@pytest.fixture(scope="module")
def scores(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """[position, layer] of every score."""
    rows = json.loads((folder / "direction_evaluations.json").read_text())
    found = {k: np.full((5, 24), np.nan) for k in ("refusal_score", "steering_score", "kl_div_score")}
    for row in rows:
        for name, array in found.items():
            array[POSITIONS.index(row["position"]), row["layer"]] = row[name]
    assert len(rows) == 120
    return found


@pytest.fixture(scope="module")
def directions(folder: Path) -> torch.Tensor:
    """[position, layer, d_model]."""
    (only,) = load_file(folder / "mean_diffs.safetensors").values()
    assert only.shape == (5, 24, 2048)
    return only


def _choose(scores: dict[str, Any], **bounds: float) -> Selection:
    layer = np.broadcast_to(np.arange(24.0), (5, 24))
    filters = published_filters(scores["steering_score"], scores["kl_div_score"], layer, n_layers=24, **bounds)
    return select(scores["refusal_score"], filters, axes={"position": POSITIONS, "layer": range(24)})


def test_the_published_choice_follows_from_its_scores(scores: dict[str, Any], folder: Path):
    found = _choose(scores)
    stored = json.loads((folder / "direction_metadata.json").read_text())
    assert found.at == {"position": int(stored["pos"]), "layer": int(stored["layer"])} == {"position": -2, "layer": 15}
    assert len(found.survivors) == 12
    assert found.ties == ()
    assert [r.filter for r in found.rejected] == ["finite", "layer", "kl", "steering"]
    assert [r.alone for r in found.rejected][:2] == [0, 25]
    assert sum(r.in_order for r in found.rejected) == 108
    # a depth of 19.2 that is not cut to 19 lets two more pass
    assert len(_choose(scores, max_depth=20 / 24).survivors) == 14


def test_bounds_that_reject_all_are_answered_with_bounds_that_do_not(scores: dict[str, Any]):
    with pytest.raises(UndefinedError, match="none of 120 candidates passes") as caught:
        _choose(scores, max_kl=-1.0)
    advised = float(str(caught.value).split("relax max_kl to ")[1].split()[0])
    assert len(_choose(scores, max_kl=advised).survivors) == 1


def test_the_chosen_direction_and_its_neighbours(directions: torch.Tensor):
    at = directions[POSITIONS.index(-2)].double()
    assert at[15].norm().item() == pytest.approx(26.287, abs=5e-4)
    assert cosine(at[15], at[14]).item() == pytest.approx(0.753, abs=5e-4)
    assert cosine(at[15], at[16]).item() == pytest.approx(0.800, abs=5e-4)


def test_the_stable_block_is_later_than_the_chosen_layer(directions: torch.Tensor):
    at = directions[POSITIONS.index(-2)].double()
    cosines = between(at, at)
    assert stable_block(cosines).blocks == ((19, 20, 21, 22, 23),)
    alone = stable_block(cosines, containing=15)
    assert alone.layers == ()
    assert "no stable block" in str(alone)
