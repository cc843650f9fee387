"""Read at the end, the lens is the metric; before it, it is what the oracle's residual gives when unembedded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import norms
import oracle
import pytest
import small_models
import torch

from circuits.errors import UndefinedError
from circuits.linalg import random_directions
from circuits.measure import lens as module
from circuits.measure.attribution import attribute_logits
from circuits.measure.lens import LogitLens, logit_lens
from circuits.metrics import LogOdds, RefusalMetric

TOKENS = small_models.uneven()
SIDES = (TOKENS.clean, TOKENS.corrupt)


@cache
def lens(architecture: str) -> LogitLens:
    model = small_models.model(architecture)
    return logit_lens(model, TOKENS, RefusalMetric(model, "w60"), null_draws=6, seed=2)


def residuals(architecture: str, side: int, pair: int) -> list[torch.Tensor]:
    keys = [*(("resid_pre", layer) for layer in range(4)), ("resid_post", 3)]
    kept = oracle.run(small_models.raw(architecture), SIDES[side][pair][TOKENS.mask[pair]], keep=keys)[1]
    return [kept[key][-1] for key in keys]


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_every_reading_is_its_formula(architecture: str):
    found, hf = lens(architecture), small_models.raw(architecture)
    token = small_models.model(architecture).tokenizer.get_vocab()["w60"]
    g, norm = norms.pulled(hf, token), norms.final(hf)
    w_u = hf.get_output_embeddings().weight.detach().double()
    for s, pair in ((0, 1), (1, 3)):
        x = residuals(architecture, s, pair)
        for depth in range(5):
            unembedded = oracle.against_mean(norms.apply(norm, x[depth]) @ w_u.T, token)
            assert found.own_scale[s, pair, depth].item() == pytest.approx(unembedded, rel=1e-5, abs=1e-5)
            held = float(norms.apply(norm, x[depth], x[-1]) @ g)
            assert found.run_scale[s, pair, depth].item() == pytest.approx(held, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_both_readings_end_at_the_metric_and_step_by_the_attribution(architecture: str):
    found, model = lens(architecture), small_models.model(architecture)
    shares = attribute_logits(model, TOKENS, RefusalMetric(model, "w60"), null_draws=1)
    for value in (found.run_scale, found.own_scale):
        assert torch.allclose(value[..., -1] + shares.soft_cap, found.metric, atol=2e-6)
    assert torch.allclose(found.run_scale.diff(dim=-1), shares.written.sum(2), atol=2e-6)
    assert found.softcap == model.softcap
    for s, pair in ((0, 4), (1, 0)):
        logits = oracle.run(small_models.raw(architecture), SIDES[s][pair][TOKENS.mask[pair]])[0][-1]
        token = model.tokenizer.get_vocab()["w60"]
        assert found.metric[s, pair].item() == pytest.approx(oracle.against_mean(logits, token), abs=2e-6)


def test_the_embedding_of_a_shared_token_differs_only_at_the_scale_of_the_run():
    found = lens("llama")
    assert torch.equal(found.own_scale[0, :, 0], found.own_scale[1, :, 0])
    assert (found.run_scale[0, :, 0] - found.run_scale[1, :, 0]).abs().min() > 0


def test_the_null_is_the_difference_along_random_directions():
    found, hf = lens("gpt2"), small_models.raw("gpt2")
    token = small_models.model("gpt2").tokenizer.get_vocab()["w60"]
    size, norm = norms.pulled(hf, token).norm(), norms.final(hf)
    r = random_directions(6, 32, seed=2)[4].double()
    at_run = at_own = 0.0
    for s, sign in ((0, 1), (1, -1)):
        for pair in range(5):
            x = residuals("gpt2", s, pair)
            at_run += sign * size * (norms.apply(norm, x[2], x[-1], bias=False) @ r) / 5
            at_own += sign * size * (norms.apply(norm, x[2], bias=False) @ r) / 5
    assert found.null_run_scale[4, 2].item() == pytest.approx(float(at_run), abs=2e-6)
    assert found.null_own_scale[4, 2].item() == pytest.approx(float(at_own), abs=2e-6)


def test_frames_and_figures(says: Callable[..., None], tmp_path: Path):
    found, name = lens("gemma2"), small_models.model("gemma2").name
    assert len(found.to_frame()) == 2 * 2 * 5 * 5
    table = found.to_summary().set_index(["reading", "layer"])
    for reading, value in (("run scale", found.run_scale), ("own scale", found.own_scale)):
        for layer in range(5):
            mean = (value[0] - value[1])[:, layer].mean().item()
            assert table.loc[(reading, layer), "mean"] == pytest.approx(mean, abs=1e-6)
    row = table.loc[("own scale", 3)]
    assert row["low"] < row["mean"] < row["high"]
    assert table.loc[("own scale", 0), "p"] == 1
    for figure in (found.figure(), found.absolute_figure()):
        says(figure, name)
        assert "±3" in str(figure.layout.yaxis.title.text)
    assert found.save(tmp_path).exists()


def test_a_steady_difference_is_found_and_noise_is_not():
    gap = torch.zeros(2, 5, 5)
    gap[0, :, 3] = torch.linspace(1.0, 1.1, 5)
    gap[0, :, 1] = torch.tensor([1.0, -1.0, 0.5, -0.4, 0.0])
    found = replace(lens("llama"), run_scale=gap)
    table = found.to_summary().query("reading == 'run scale'").set_index("layer")
    assert table.loc[3, "p"] == pytest.approx(2 / 2**5)
    assert table.loc[1, "p"] > 0.5


def test_a_metric_without_a_direction_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "capture", None)
    model = small_models.model("llama")
    with pytest.raises(UndefinedError, match="not linear in the logits"):
        logit_lens(model, TOKENS, LogOdds(model, "w60"))
