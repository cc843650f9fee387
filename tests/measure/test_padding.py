"""Careful batches give what prompts give alone; the careless ones are exactly what a person's careless forward pass gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_models
import torch

from circuits.errors import AuditError, CircuitError
from circuits.measure import padding as module
from circuits.measure.padding import SETTINGS, PaddingEffects, padding_effects
from circuits.prompts.instructions import Instruction, InstructionSet


def _instructions(n: int = 8, *, longer: int = 0, end: str = "w70") -> InstructionSet:
    """n of each label; harmful ones have `longer` words more."""
    rng = np.random.default_rng(1)
    said = [
        Instruction(
            " ".join(f"w{i}" for i in rng.integers(1, 40, size=rng.integers(2, 7) + (j % 2 == 0) * longer)) + f" {end}",
            ("harmful", "harmless")[j % 2],
        )
        for j in range(2 * n)
    ]  # fmt: skip
    return InstructionSet(tuple(said), "made up")


def _measure(architecture: str, **given: Any) -> PaddingEffects:
    return padding_effects(small_models.model(architecture), _instructions(**given), draws=50)


@pytest.fixture(scope="module")
def llama() -> PaddingEffects:
    return _measure("llama", longer=3)


@pytest.mark.parametrize("architecture", ["gemma3", "gpt2", "gpt_neox", "phi3"])
def test_care_changes_nothing_and_attended_padding_does(architecture: str):
    found = _measure(architecture)
    for setting in ("equal", "masked", "right"):
        s = SETTINGS.index(setting)
        assert found.moved[s].max() < 1e-4
        torch.testing.assert_close(found.cosines[s, 1:], torch.ones(3).double(), rtol=0, atol=1e-6)
    last = found.padding.argmin()
    assert found.padding[last] == 0
    assert found.moved[SETTINGS.index("attended"), last].max() < 1e-4, "nothing before it: nothing to attend to"
    padded = found.padding > 0
    # a window of four in the first block may not reach the padding
    assert found.moved[SETTINGS.index("attended"), padded][:, 3].min() > 1e-3
    columns = found.moved[SETTINGS.index("columns"), padded]
    if architecture == "gpt2":  # learned positions are absolute
        assert columns.min() > 1e-3
        assert found.verdict.startswith("positions that count padding change the direction")
    else:
        assert columns.max() < 1e-4


def _by_hand(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[layer, d_model] at the last column, by Hugging Face alone."""
    with torch.no_grad():
        out = small_models.raw("llama")(
            input_ids=ids[None],
            attention_mask=mask[None].long(),
            position_ids=positions[None],
            output_hidden_states=True,
        )
    return torch.stack([h[0, -1] for h in out.hidden_states[:-1]])


def test_settings_are_what_they_say(llama: PaddingEffects):
    prompts = _instructions(longer=3).tokenize(small_models.model("llama"))
    width, of = prompts.ids.shape[1], prompts.harmful
    column = torch.arange(width)
    alone = torch.stack([
        _by_hand(i[m], m[m], torch.arange(int(m.sum()))) for i, m in zip(prompts.ids, prompts.mask, strict=True)
    ])  # fmt: skip
    attended = torch.stack(
        [_by_hand(i, torch.ones_like(m), column) for i, m in zip(prompts.ids, prompts.mask, strict=True)]
    )
    for setting, resid in (("alone", alone), ("attended", attended)):
        s = SETTINGS.index(setting)
        expected = resid[of].mean(0) - resid[~of].mean(0)
        torch.testing.assert_close(llama.directions[s, 1:].float(), expected[1:], atol=1e-5, rtol=1e-4)
        distance = (resid - alone).norm(dim=-1) / alone.norm(dim=-1)
        torch.testing.assert_close(llama.moved[s].float(), distance, atol=1e-5, rtol=1e-3)
    assert llama.padding.tolist() == [width - int(m.sum()) for m in prompts.mask]


def test_attended_padding_becomes_part_of_a_direction_between_unequal_lengths(llama: PaddingEffects):
    """Without any padding attended to, the direction stays: the dip is the padding's and not the batch's."""
    table = llama.to_summary().set_index(["setting", "layer"])
    for layer in (1, 2, 3):
        assert table.loc[("attended", layer), "cosine_high"] < table.loc[("masked", layer), "cosine_low"]
        assert table.loc[("attended", layer), "cosine"] < 0.99
        assert table.loc[("masked", layer), "norm_change"] == pytest.approx(0, abs=1e-5)
        # drawn again, prompts that attend to padding still differ from themselves alone
        assert table.loc[("alone", layer), "cosine_low"] == pytest.approx(1, abs=1e-9)
    gap = float(llama.padding[::2].double().mean() - llama.padding[1::2].double().mean())
    assert gap < 0
    assert f"harmful prompts have {gap:+.1f} columns more of padding" in llama.verdict
    assert llama.verdict.startswith("attention to padding changes the direction, batching and positions do not")
    assert f"attended {llama.cosines[5, 1:].min():.4f} (layer " in llama.verdict


def test_draws_are_those_of_the_same_prompts(llama: PaddingEffects):
    from circuits.engine import contrast
    from circuits.linalg import cosine

    prompts = _instructions(longer=3).tokenize(small_models.model("llama"))
    resid = module._run_all(small_models.model("llama"), prompts).double()
    w = contrast.resamples(prompts.harmful, 50, seed=0)[7]
    for s in (3, 5):
        a, b = (torch.einsum("p,pd->d", w, x[:, 2]) for x in (resid[s], resid[0]))
        assert llama.resampled_cosine[s, 7, 2].item() == pytest.approx(cosine(a, b).item(), abs=1e-8)
        assert llama.resampled_norm[s, 7, 2].item() == pytest.approx((a.norm() / b.norm()).item(), abs=1e-8)


def test_layers_where_all_prompts_are_alike_are_said(llama: PaddingEffects, says: Callable[..., None]):
    assert llama.undefined == (0,)
    table = llama.to_summary()
    assert table.loc[table["layer"] == 0, ["cosine", "cosine_low", "norm_change", "d"]].isna().all(axis=None)
    assert len(llama.to_frame()) == 6 * 16 * 4
    for figure in (llama.figure(), llama.separation_figure()):
        says(figure, small_models.model("llama").name)


def test_a_model_that_does_not_mind_its_mask_is_found_out(monkeypatch: Any):
    honest = module._run_all

    def careless(model: Any, prompts: Any) -> torch.Tensor:
        resid = honest(model, prompts)
        resid[SETTINGS.index("right")] = resid[SETTINGS.index("attended")]
        return resid

    monkeypatch.setattr(module, "_run_all", careless)
    with pytest.raises(AuditError, match="right residuals are not those of prompts run alone"):
        _measure("llama")


def test_prompts_that_need_no_padding_are_refused():
    same = InstructionSet(
        tuple(Instruction(f"w{i} w2 w3", ("harmful", "harmless")[i % 2]) for i in range(12)), "even"
    )  # fmt: skip
    with pytest.raises(CircuitError, match="every prompt has 4 tokens"):
        padding_effects(small_models.model("llama"), same)
    with pytest.raises(CircuitError, match="give at least 6 of each"):
        padding_effects(small_models.model("llama"), _instructions(4))
