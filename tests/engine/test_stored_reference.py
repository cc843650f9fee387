"""Maps of a small model that others trained, computed in float64 by a script that knows nothing of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.engine import capture, sweep
from circuits.interventions import Cell, Columns, Patch
from circuits.measure.attention import classify_heads
from circuits.measure.blocks import patch_blocks
from circuits.measure.heads import patch_heads
from circuits.measure.residual import patch_residual
from circuits.metrics import LogitDifference
from circuits.model import Model, load
from circuits.prompts import PairSet, TokenPairs
from circuits.sites import Site, head


@pytest.fixture(scope="module")
def model(shared: Path) -> Model:
    return load(str(shared / "models" / "TinyStories-656K"), device="cpu")


@pytest.fixture(scope="module")
def tokens(shared: Path, model: Model) -> TokenPairs:
    return PairSet.from_json(shared / "reference" / "tinystories656k_name_pronoun_pairs.json").tokenize(model)


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, torch.Tensor]:
    with np.load(shared / "reference" / "tinystories656k_name_pronoun_patching.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= 1e-4


def test_the_prompts_are_the_same(tokens: TokenPairs, reference: dict[str, torch.Tensor]):
    assert torch.equal(tokens.clean, reference["clean_ids"])
    assert torch.equal(tokens.corrupt, reference["corrupt_ids"])
    assert torch.equal(tokens.subject, reference["diff_pos"])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_residual_and_blocks(model: Model, tokens: TokenPairs, reference: dict[str, torch.Tensor], direction: Any):
    metric, stored = LogitDifference(model), {n: reference[f"{n}_{direction}"] for n in ("resid", "attn", "mlp")}
    resid = patch_residual(model, tokens, metric, direction=direction)
    _close(resid.value, stored["resid"][:, :-1])
    blocks = patch_blocks(model, tokens, metric, direction=direction)
    _close(blocks.value[:, 0], stored["attn"])
    _close(blocks.value[:, 1], stored["mlp"])
    names = ("ld_corrupt", "ld_clean") if direction == "denoise" else ("ld_clean", "ld_corrupt")
    _close(resid.base, reference[names[0]])
    _close(resid.source, reference[names[1]])
    cells: list[Cell] = [
        (Patch(Site("resid_post", model.shape.n_layers - 1), Columns((p,))),) for p in range(tokens.n_pos)
    ]
    _close(sweep(model, tokens, metric, cells, direction=direction).value.T, stored["resid"][:, -1])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(("positions", "name"), [("all", "head"), ("last", "head_last")])
def test_heads(
    model: Model, tokens: TokenPairs, reference: dict[str, torch.Tensor], positions: Any, name: str, direction: Any
):
    found = patch_heads(model, tokens, LogitDifference(model), positions=positions, direction=direction)
    _close(found.value, reference[f"{name}_{direction}"])


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_ablated_heads(model: Model, tokens: TokenPairs, reference: dict[str, torch.Tensor], kind: str):
    shape = model.shape
    heads = [head(layer, h) for layer in range(shape.n_layers) for h in range(shape.n_heads)]
    runs = [capture(model, ids, tokens.mask, heads) for ids in (tokens.clean, tokens.corrupt)]

    def value(site: Site) -> torch.Tensor:
        mean = torch.cat([run.seen[site.whole] for run in runs]).mean(0)[:, site.index]
        return mean if kind == "mean" else torch.zeros_like(mean)

    cells: list[Cell] = [(Patch(site, "all", value(site)),) for site in heads]
    found = sweep(model, tokens, LogitDifference(model), cells, direction="noise")
    _close(found.value.T.reshape(-1, shape.n_layers, shape.n_heads), reference[f"head_{kind}"])


def test_attention_patterns(model: Model, tokens: TokenPairs, reference: dict[str, torch.Tensor]):
    _close(classify_heads(model, tokens).pattern, reference["attn_pattern_clean_mean"])
