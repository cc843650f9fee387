"""The sweeps agree with transformer_lens.patching, on prompts that it can take: one length, no padding."""

from __future__ import annotations

from typing import Any

import pytest
import small_models
import torch

from circuits.engine import sweep
from circuits.interventions import Cell, Columns, Patch
from circuits.metrics import LogitDifference
from circuits.sites import Site, head

SITES = {"resid_pre": "resid_pre", "attn_out": "attn_out", "mlp_out": "mlp_out"}


@pytest.fixture(scope="module")
def lens() -> Any:
    import transformer_lens.patching

    return transformer_lens.patching


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    import transformer_lens.patching

    # read when tqdm was imported, which may be before this test
    monkeypatch.setattr(transformer_lens.patching, "tqdm", lambda x, *_, **__: x)


def _lens_map(lens: Any, patcher: str, i: int, architecture: str) -> torch.Tensor:
    """What transformer-lens gives for pair i, denoised."""
    model, tokens = small_models.model(architecture), small_models.even()
    answer, wrong = (model.tokenizer.get_vocab()[t] for t in small_models.EVEN[i][2:])
    _, clean = model.bridge.run_with_cache(tokens.clean[i : i + 1])

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, answer] - logits[0, -1, wrong]

    return getattr(lens, patcher)(model.bridge, tokens.corrupt[i : i + 1], clean, metric)


@pytest.mark.parametrize("architecture", ["gemma", "gemma2"])
@pytest.mark.parametrize("kind", list(SITES))
def test_blocks_and_residual(lens: Any, kind: Any, architecture: str):
    model, tokens = small_models.model(architecture), small_models.even()
    cells: list[Cell] = [(Patch(Site(kind, layer), Columns((p,))),) for layer in range(4) for p in range(tokens.n_pos)]
    found = sweep(model, tokens, LogitDifference(model), cells).value.T.reshape(-1, 4, tokens.n_pos)
    for i in range(tokens.n_pairs):
        theirs = _lens_map(lens, f"get_act_patch_{SITES[kind]}", i, architecture)
        assert (found[i] - theirs.cpu()).abs().max() <= 1e-5
        assert theirs.std() > 1e-3


def test_heads_by_position(lens: Any):
    model, tokens = small_models.model("gemma"), small_models.even()
    cells: list[Cell] = [
        (Patch(head(layer, h), Columns((p,))),) for layer in range(4) for p in range(tokens.n_pos) for h in range(4)
    ]
    found = sweep(model, tokens, LogitDifference(model), cells).value.T.reshape(-1, 4, tokens.n_pos, 4)
    theirs = _lens_map(lens, "get_act_patch_attn_head_out_by_pos", 1, "gemma")
    assert (found[1] - theirs.cpu()).abs().max() <= 1e-5


def test_heads_at_all_positions(lens: Any):
    model, tokens = small_models.model("gemma"), small_models.even()
    cells: list[Cell] = [(Patch(head(layer, h)),) for layer in range(4) for h in range(4)]
    found = sweep(model, tokens, LogitDifference(model), cells).value.T.reshape(-1, 4, 4)
    theirs = _lens_map(lens, "get_act_patch_attn_head_out_all_pos", 2, "gemma")
    assert (found[2] - theirs.cpu()).abs().max() <= 1e-5
