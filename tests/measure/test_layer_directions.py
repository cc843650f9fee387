"""Planted means and noise have the d, cosines and stability that formulas give; noise alone has none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_models
import torch

from circuits.engine import contrast, held_out
from circuits.engine.collect import last_residuals
from circuits.errors import CircuitError, UndefinedError
from circuits.linalg import cosine
from circuits.measure import layer_directions as module
from circuits.measure.layer_directions import LayerDirections, layer_directions, stable_block
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.stats import cohens_d

MODEL = small_models.model("llama")


def _prompts(n: int, *, labels: tuple[str, str] = ("harmful", "harmless")) -> InstructionTokens:
    rng = np.random.default_rng(0)
    said = [
        Instruction(" ".join(f"w{i}" for i in rng.integers(1, 40, size=rng.integers(3, 8))), labels[j % 2])
        for j in range(2 * n)
    ]  # fmt: skip
    ended = tuple(Instruction(f"{i.text} w70", i.label) for i in said)  # one last token for all, as a template has
    return InstructionSet(ended, "made up").tokenize(MODEL)


def _planted(monkeypatch: Any, resid: torch.Tensor, draws: int = 40) -> LayerDirections:
    monkeypatch.setattr(module, "last_residuals", lambda _model, _prompts: resid)
    return layer_directions(MODEL, _prompts(len(resid) // 2), draws=draws, null_directions=50)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OF = torch.arange(80) % 2 == 0


@pytest.fixture(scope="module")
def planted() -> LayerDirections:
    """40 of each class in 300 dimensions; layers 1 to 3 share a direction, layer 4 has another, layer 5 has noise alone."""
    resid = _noise(80, 6, 300, seed=1)
    resid[:, 0] = 2.0
    axes = torch.eye(300)
    for layer, size, axis in ((1, 8.0, 0), (2, 8.0, 0), (3, 8.0, 0), (4, 3.0, 1)):
        resid[OF, layer] += size * axes[axis]
    with pytest.MonkeyPatch.context() as patch:
        return _planted(patch, resid, draws=60)


def test_separation_is_what_the_formula_gives(planted: LayerDirections):
    """A direction δu + noise of variance 2/n in each of D dimensions: d = δ²/√(δ² + 2D/n) held out, n = 32 of 40."""
    table = planted.to_summary().set_index("layer")
    for layer, delta in ((1, 8.0), (2, 8.0), (3, 8.0), (4, 3.0)):
        expected = delta**2 / np.sqrt(delta**2 + 2 * 300 / 32)
        assert table.loc[layer, "d"] == pytest.approx(expected, rel=0.2)
        assert table.loc[layer, "d_low"] < expected < table.loc[layer, "d_high"]
        assert table.loc[layer, "p_max"] == 1 / 61
    assert table.loc[5, "d_low"] < 0 < table.loc[5, "d_high"]
    assert table.loc[5, "p"] > 0.05
    # noise alone, on its own prompts: a gap of ‖noise‖ = √(2D/n), in its own standard deviations
    assert table.loc[5, "d_in_sample"] == pytest.approx(np.sqrt(2 * 300 / 40), rel=0.15)
    assert table.loc[5, "optimism"] > 3.0
    assert (table["random_d"].drop(0) < 1.5).all()


def test_stability_is_what_the_formula_gives(planted: LayerDirections):
    """Halves of 20: cosine δ²/(δ² + 2D/20); two full sets of 40 would have δ²/(δ² + 2D/40)."""
    table = planted.to_summary().set_index("layer")
    for layer in (1, 2, 3):
        assert table.loc[layer, "half"] == pytest.approx(64 / (64 + 30), abs=0.06)
        assert table.loc[layer, "full_size"] == pytest.approx(64 / (64 + 15), abs=0.06)
        assert table.loc[layer, "null_half"] < 0.45
    assert table.loc[5, "half"] < table.loc[5, "null_half"]


def test_layers_that_share_a_direction_form_a_block(planted: LayerDirections):
    """Noise of the layers is independent here: cosine δ²/(δ² + 2D/40) = .81 between any two of the three."""
    cosines = planted.cosines
    assert cosines[1, 2].item() == pytest.approx(64 / 79, abs=0.04)
    assert planted.block(0.7).layers == (1, 2, 3)
    shares = planted.block_stability(0.6).set_index("layer")
    assert shares.loc[[1, 2, 3], "share"].min() > 0.5
    assert shares.loc[[0, 4, 5], "share"].max() < 0.05
    assert shares["null_size"].max() == 0
    frame = planted.cosine_frame().set_index(["layer", "other"])
    assert frame.loc[(1, 2), "halves"] == pytest.approx(64 / (64 + 30), abs=0.06)
    assert frame.loc[(1, 2), "low"] < frame.loc[(1, 2), "cosine"]
    assert frame.loc[(1, 5), "null_high"] < 0.2


def test_a_residual_stream_that_carries_noise_on_makes_blocks_of_shuffled_labels(monkeypatch: Any):
    """The same noise in every layer and no concept: a perfect block, and shuffled labels have it too."""
    resid = _noise(80, 1, 50).repeat(1, 4, 1) + 0.01 * _noise(80, 4, 50, seed=1)
    found = _planted(monkeypatch, resid, draws=20)
    assert found.block().layers == (0, 1, 2, 3)
    stability = found.block_stability()
    assert stability["null_size"].iloc[0] == 4
    assert stability["p"].iloc[0] == 1.0


def test_the_shared_last_token_gives_no_direction(planted: LayerDirections, says: Callable[..., None]):
    assert planted.undefined == (0,)
    for t in (
        planted.directions[0],
        planted.projections[:, 0],
        planted.null_d[:, 0],
        planted.halves[:, 0],
        planted.shuffled[:, :, 0],
    ):
        assert t.isnan().all()
    assert planted.to_summary()["d"].isna().tolist() == [True] + [False] * 5
    for figure in (planted.figure(), planted.separation_figure(), planted.stability_figure()):
        says(figure, MODEL.name)
        said = " ".join(a.text for a in figure.layout.annotations if a.text).replace("<br>", " ")
        assert "no direction at layer 0: all prompts alike" in said
    caption = " ".join(a.text for a in planted.figure().layout.annotations).replace("<br>", " ")
    assert caption.endswith(f"{planted.block()}; labels shuffled: up to 0 layers (95 %)")


def test_projections_are_a_persons_loop():
    """On a real model: fold by fold, from the midpoint of the other folds' means, on their unit difference."""
    prompts = _prompts(10)
    resid = last_residuals(MODEL, prompts).double()
    found = layer_directions(MODEL, prompts, folds=3, draws=3, null_directions=2)
    of = prompts.harmful
    rank = {i: k for which in (of, ~of) for k, i in enumerate(which.nonzero()[:, 0].tolist())}
    for i in (0, 5, 19):
        rest = torch.tensor([rank[j] % 3 != rank[i] % 3 for j in range(20)])
        for layer in (1, 3):
            a, b = resid[rest & of, layer].mean(0), resid[rest & ~of, layer].mean(0)
            v = (a - b) / (a - b).norm()
            assert found.projections[i, layer].item() == pytest.approx(
                float((resid[i, layer] - (a + b) / 2) @ v), abs=1e-8
            )
    mean = resid[of].mean(0) - resid[~of].mean(0)
    torch.testing.assert_close(found.directions[1:], mean[1:])
    for layer in (1, 2, 3):
        v = mean[layer] / mean[layer].norm()
        table = cohens_d((resid[of, layer] @ v).numpy(), (resid[~of, layer] @ v).numpy())
        assert found.to_summary().loc[layer, "d_in_sample"] == pytest.approx(table.estimate, abs=1e-9)
    first, second = contrast.halves(of, seed=0)
    assert not (first.bool() & second.bool()).any()
    halves = [torch.einsum("p,pd->d", w, resid[:, 2]) for w in (first, second)]
    assert found.halves[0, 2, 2].item() == pytest.approx(cosine(*halves).item(), abs=1e-9)
    assert found.undefined == (0,)


def test_shuffled_labels_make_a_calibrated_p():
    """Without a concept, p ≤ .1 in a tenth of the sets: 8 ± 2.7 of 80."""
    of, hits = torch.arange(24) % 2 == 0, 0
    fold = held_out.folds_of(of, 4)
    for seed in range(80):
        x = _noise(24, 1, 30, seed=seed)
        products = contrast.gram(x, x)
        seen, *drawn = (
            held_out.separation(held_out.projected(products, of[p], fold[p]).T, of[p]).item()
            for p in (torch.arange(24), *contrast.shuffles(of, 19, seed=seed))
        )
        hits += (1 + sum(d >= seen for d in drawn)) / 20 <= 0.1
    assert 2 <= hits <= 16


def test_the_interval_of_d_counts_the_dependence_between_folds():
    """95 % claimed, noise makes most of the direction: as if independent, the projections' own interval covers 76 to 90 %."""
    of = torch.arange(24) % 2 == 0
    fold, expected, covered = held_out.folds_of(of, 4), 1 / np.sqrt(1 + 2 * 30 / 9), 0
    for seed in range(25):
        x = _noise(24, 1, 30, seed=seed)
        x[of, 0, 0] += 1
        d, low, high = held_out.held_out_d(contrast.gram(x, x), of, fold)
        covered += bool(low <= expected <= high)
    assert low < d < high
    assert covered >= 23


def test_the_jackknife_leaves_each_prompt_out_of_everything():
    """Without one prompt the procedure gives what it gives on the other prompts alone, with their folds."""
    of, x = torch.arange(14) % 2 == 0, _noise(14, 2, 20)
    fold = held_out.folds_of(of, 3)
    products = contrast.gram(x, x)
    kept = torch.arange(14) != 5
    without = held_out.projected(products, of, fold, kept)[kept]
    rest = held_out.projected(contrast.gram(x[kept], x[kept]), of[kept], fold[kept])
    torch.testing.assert_close(without, rest)


def test_prompts_of_a_third_label_change_nothing():
    two, third = _prompts(6), [Instruction(f"w{i} w2 w70", "incapable") for i in range(3)]
    three = InstructionSet((*third, *two.instructions), "three").tokenize(MODEL)
    a, b = (layer_directions(MODEL, p, folds=2, draws=2, null_directions=2) for p in (two, three))
    torch.testing.assert_close(a.directions, b.directions, equal_nan=True)
    assert a.labels == b.labels


def test_pairs_share_a_fold():
    both = InstructionTokens.from_pairs(small_models.uneven())
    fold = held_out.folds_of(both.harmful, 2)
    assert fold[:5].tolist() == fold[5:].tolist()


def test_blocks_by_hand():
    c = torch.eye(5)
    assert stable_block(c).blocks == ()
    for i, j in ((0, 1), (3, 4)):
        c[i, j] = c[j, i] = 0.8
    assert stable_block(c).blocks == ((0, 1), (3, 4))
    assert str(stable_block(c)) == "layers 0–1 or 3–4 (all cosines ≥ 0.8)"
    c[1, 2] = c[2, 1] = 0.9  # 0 and 2 do not agree: still no block of three
    assert stable_block(c).blocks == ((0, 1), (1, 2), (3, 4))
    c[0, 2] = c[2, 0] = 0.9
    assert stable_block(c).blocks == ((0, 1, 2),)
    assert stable_block(c, containing=4).blocks == ((3, 4),)
    c[1, 1] = torch.nan
    c[1], c[:, 1] = torch.nan, torch.nan
    assert stable_block(c).blocks == ((3, 4),)
    with pytest.raises(CircuitError, match="no layer 5"):
        stable_block(c, containing=5)


def test_what_cannot_be_measured_is_refused(monkeypatch: Any):
    with pytest.raises(CircuitError, match="3 harmful and 3 harmless prompts; give at least 6"):
        layer_directions(MODEL, _prompts(3))
    with pytest.raises(CircuitError, match="0 harmless prompts; give at least 6"):
        layer_directions(MODEL, _prompts(6, labels=("harmful", "incapable")))
    with pytest.raises(CircuitError, match="against itself"):
        layer_directions(MODEL, _prompts(6, labels=("harmful", "harmful")), against="harmful")
    with pytest.raises(CircuitError, match="7 folds for classes of 6"):
        layer_directions(MODEL, _prompts(6), folds=7)
    with pytest.raises(UndefinedError, match="no direction"):
        _planted(monkeypatch, torch.ones(12, 4, 8))
