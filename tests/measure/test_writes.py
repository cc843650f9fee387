"""What is read along a direction adds up, layer by layer, and equals a dot product with the oracle's activations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import oracle
import pytest
import small_models
import torch

from circuits.errors import UndefinedError
from circuits.linalg import random_directions
from circuits.measure.writes import components

TOKENS = small_models.uneven()
V = 7 * torch.randn(32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_the_component_grows_by_what_is_written(architecture: str):
    found = components(small_models.model(architecture), TOKENS, V, null_draws=5)
    assert found.residual.shape == (2, 5, 5)
    assert torch.allclose(found.residual.diff(dim=-1), found.written.sum(2), atol=2e-5)
    assert found.written.abs().min() > 0


@pytest.mark.parametrize("architecture", ["gemma2", "qwen2"])
def test_components_equal_the_oracles(architecture: str):
    found = components(small_models.model(architecture), TOKENS, V, null_draws=5)
    unit = V / V.norm()
    for side, ids in enumerate((TOKENS.clean, TOKENS.corrupt)):
        for i in (0, 3):
            keep = [("resid_post", 2), ("resid_pre", 0), ("attn_out", 1), ("mlp_out", 3)]
            _, seen = oracle.run(small_models.raw(architecture), ids[i][TOKENS.mask[i]], keep=keep)
            expected = [float(seen[key][-1] @ unit) for key in keep]
            measured = [
                found.residual[side, i, 3], found.residual[side, i, 0],
                found.written[side, i, 0, 1], found.written[side, i, 1, 3],
            ]  # fmt: skip
            assert [m.item() for m in measured] == pytest.approx(expected, abs=2e-5)


def test_each_pair_may_have_its_own_direction():
    model = small_models.model("llama")
    own = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    together = components(model, TOKENS, own, null_draws=5)
    for i in range(5):
        alone = components(model, TOKENS, own[i], null_draws=5)
        assert torch.allclose(together.residual[:, i], alone.residual[:, i], atol=1e-6)


def test_the_null_is_the_gap_along_random_directions():
    model = small_models.model("llama")
    found = components(model, TOKENS, V, null_draws=6, seed=9)
    for n, v in enumerate(random_directions(6, 32, seed=9)):
        along = components(model, TOKENS, v, null_draws=5)
        gap = (along.residual[0] - along.residual[1]).mean(0)
        assert torch.allclose(found.null_residual[n], gap, atol=1e-5)
        assert torch.allclose(found.null_written[n], (along.written[0] - along.written[1]).mean(0), atol=1e-5)


def test_frames_and_figures(says: Callable[..., None]):
    model = small_models.model("llama")
    found = components(model, TOKENS, V)
    gap = found.gap_frame()
    assert np.allclose(gap["mean"], (found.residual[0] - found.residual[1]).mean(0), atol=1e-5)
    assert (gap["null_low"] <= 0).all()
    assert (gap["null_high"] >= 0).all()
    written = found.written_summary().set_index(["kind", "layer"])
    expected = (found.written[0] - found.written[1]).mean(0)
    assert written.loc[("mlp_out", 2), "mean"] == pytest.approx(expected[1, 2].item(), abs=1e-5)
    null = np.quantile(found.null_written[:, 1, 2].numpy(), 0.975)
    assert written.loc[("mlp_out", 2), "null_high"] == pytest.approx(null, abs=1e-5)
    says(found.figure(), model.name)
    says(found.written_figure(), model.name)


def test_no_direction():
    with pytest.raises(UndefinedError, match="norm zero"):
        components(small_models.model("llama"), TOKENS, torch.zeros(32))
