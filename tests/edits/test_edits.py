"""Stored edits come back bit for bit, act as they did, and go into weights where weights can express them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny
import torch

from circuits.edits import load_edits, save_edits
from circuits.engine import generate, read, sweep
from circuits.errors import ModelError, OutputError, SiteError
from circuits.interventions import Ablate, Add, Aim, Cell, Clamp, Columns, Patch, Rotate, ablate_everywhere
from circuits.linalg import plane
from circuits.metrics import RefusalMetric
from circuits.model import load
from circuits.sites import Site, head

MODEL, TOKENS = small_models.model("llama"), small_models.uneven()
V, W = torch.randn(2, 32, generator=torch.Generator().manual_seed(8)) * 3
EVERY: Cell = (
    Ablate(Site("resid_pre", 1), V, -2, alpha=0.3),
    Add(Site("mlp_out", 2), W, "subject", scale=torch.tensor(0.1)),
    Clamp(head(1, 2), V[:8], -6.5, (0, -1)),
    Rotate(Site("resid_post", 3), plane(V, W), 33.25, "last"),
    Aim(Site("resid_mid", 2), plane(V, W), -120.0),
    Patch(Site("attn_out", 0), "post_subject", W),
    Patch(Site("pattern", 3, 1), "last", torch.tensor(0.0), keys="subject"),
    Patch(Site("pattern", 2), "all", torch.tensor(0.0), keys=-2),
    Add(Site("resid_pre", 3), W.bfloat16(), Columns((-1, -2)), -0.5),
)


def _everywhere(**options: Any) -> Cell:
    return ablate_everywhere(V, range(4), **options)


def test_the_round_trip_is_bit_for_bit(tmp_path: Path):
    folder = save_edits(tmp_path / "edits", EVERY, model=MODEL, note="what ‹this› is")
    edits = load_edits(folder, MODEL)
    assert (edits.model, edits.model_hash, edits.note, edits.differs) == (MODEL.name, MODEL.hash, "what ‹this› is", "")
    for before, after in zip(EVERY, edits.cell, strict=True):
        assert type(before) is type(after)
        for name, value in vars(before).items():
            found = getattr(after, name)
            if isinstance(value, torch.Tensor) and value.ndim:
                assert found.dtype == value.dtype
                assert torch.equal(found, value), (before.site.label, name)
            elif isinstance(value, torch.Tensor):
                assert float(found) == float(value)
            else:
                assert found == value, (before.site.label, name)
    metric = RefusalMetric(MODEL, "w60")
    cells = [*((i,) for i in EVERY), EVERY]
    again = [*((i,) for i in edits.cell), edits.cell]
    values = [sweep(MODEL, TOKENS, metric, c, audited=False) for c in (cells, again)]
    assert torch.equal(values[0].value, values[1].value)
    # no gap between one unit vector and the same one normalised once more, over and over
    for _ in range(3):
        edits = load_edits(save_edits(tmp_path / "again", edits.cell, model=MODEL))
    assert torch.equal(edits.cell[0].direction, EVERY[0].direction)  # type: ignore[union-attr]


def test_a_person_can_read_them(tmp_path: Path):
    folder = save_edits(tmp_path / "edits", _everywhere(alpha=0.5), model=MODEL)
    data = json.loads((folder / "edits.json").read_text())
    assert data["model"] == {"name": MODEL.name, "hash": MODEL.hash, "n_layers": 4, "d_model": 32}
    assert [o["site"] for o in data["operations"]][:3] == ["L0.resid_pre", "L0.ATTN", "L0.MLP"]
    assert {(o["op"], o["direction"], o["alpha"], o["positions"]) for o in data["operations"]} == {
        ("ablate", "t0", 0.5, "all")
    }
    assert sorted(p.name for p in folder.iterdir()) == ["directions.safetensors", "edits.json"]


def test_they_go_into_the_weights_when_a_model_is_loaded(tmp_path: Path):
    cell = (*_everywhere(), *ablate_everywhere(W, range(4), alpha=0.5))
    folder = save_edits(tmp_path / "no-w", cell, model=MODEL)
    edited = load(str(small_models.folder("llama")), device="cpu", tokenizer=tiny.tokenizer(), edits=folder)
    expected = read(MODEL, TOKENS, load_edits(folder, MODEL).cell, []).logits
    assert (read(edited, TOKENS, (), []).logits - expected).abs().max() <= 1e-4
    assert (expected - read(MODEL, TOKENS, (), []).logits).abs().max() > 1e-2
    assert "edits 'no-w')" in edited.title
    assert edited.hash != MODEL.hash
    assert generate(edited, TOKENS, max_new_tokens=3) == generate(MODEL, TOKENS, cell, max_new_tokens=3)


def test_edits_of_another_model_are_said_not_refused(tmp_path: Path):
    folder = save_edits(tmp_path / "edits", _everywhere(), model=MODEL)
    other = small_models.model("qwen2")
    with pytest.warns(UserWarning, match="a direction of one model may mean nothing in another"):
        edits = load_edits(folder, other)
    assert f"found on llama (hash {MODEL.hash}), used on qwen2 (hash {other.hash})" in edits.differs
    edited = load(str(small_models.folder("qwen2")), device="cpu", tokenizer=tiny.tokenizer(), edits=folder)
    assert "found on llama of hash" in edited.title


def test_another_size_is_refused(tmp_path: Path):
    folder = save_edits(tmp_path / "edits", _everywhere(), model=MODEL)
    text = (folder / "edits.json").read_text()
    (folder / "edits.json").write_text(text.replace('"n_layers": 4', '"n_layers": 5'))
    with pytest.raises(ModelError, match="5 layers of width 32; llama has 4 of width 32"):
        load_edits(folder, MODEL)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ((*_everywhere(), Add(Site("resid_pre", 2), W)), "operation 9, add at L2.resid_pre, cannot"),
        ((Ablate(Site("mlp_out", 1), V, "last"), *_everywhere()), "operation 0, ablate at L1.MLP, cannot"),
        ((*_everywhere(), Ablate(Site("resid_pre", 2), V)), "operation 9, ablate at L2.resid_pre, cannot"),
        (ablate_everywhere(V, range(3)), "what is ablated at L3.ATTN is not"),
        ((*_everywhere(), Ablate(Site("mlp_out", 2), W)), "what is ablated at L2.MLP is not"),
        ((*_everywhere()[:-1], Ablate(Site("mlp_out", 3), V, alpha=0.5)), "what is ablated at L3.MLP is not"),
        ((Rotate(Site("resid_pre", 0), plane(V, W), 90.0),), "operation 0, rotate at L0.resid_pre, cannot"),
    ],
)
def test_what_weights_cannot_express_is_refused_before_they_are_read(cell: Cell, said: str, tmp_path: Path):
    folder = save_edits(tmp_path / "edits", cell, model=MODEL)
    empty = tmp_path / "model"
    empty.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (empty / name).write_text("")
    with pytest.raises(ModelError, match=said) as refusal:
        load(str(empty), edits=folder)
    assert "at run time: load_edits(" in str(refusal.value)


def test_a_model_with_post_norms_is_refused(tmp_path: Path):
    folder = save_edits(tmp_path / "edits", _everywhere(), model=small_models.model("gemma2"))
    with pytest.raises(ModelError, match="a norm stands between"):
        load(str(small_models.folder("gemma2")), device="cpu", tokenizer=tiny.tokenizer(), edits=folder)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ((), "0 interventions to store"),
        ((Patch(head(1, 2)),), "L1.H2: a patch from another run"),
        ((Add(Site("resid_pre", 1), torch.ones(5, 32)),), r"vector has shape \(5, 32\)"),
        ((Add(Site("resid_pre", 1), V, scale=torch.ones(5)),), r"scale has shape \(5,\)"),
        ((Add(Site("resid_pre", 1), V[:8]),), r"vector has shape \(8,\)"),
        ((Add(Site("resid_pre", 9), V),), "layers 0 to 3"),
        ((Add(head(1, 9), V[:8]),), r"L1.H9: this model has 4 there"),
        ((Add(Site("resid_pre", 1), V / 0),), "not finite"),
        ((Add(Site("resid_pre", 1), V, scale=torch.tensor(torch.inf)),), "not finite"),
        ((Patch(Site("mlp_out", 1), value=V / 0),), "not finite"),
        ((Patch(Site("mlp_out", 1), value=torch.ones(5, 9, 32)),), "belongs to its prompts"),
    ],
)
def test_what_cannot_stay_is_not_written(cell: Cell, reason: str, tmp_path: Path):
    with pytest.raises(SiteError, match=reason):
        save_edits(tmp_path / "edits", cell, model=MODEL)
    assert not (tmp_path / "edits").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        save_edits(tmp_path / "file", _everywhere(), model=MODEL)
