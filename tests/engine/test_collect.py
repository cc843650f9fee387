"""The residual at the last position of many padded prompts is what one unpadded prompt at a time has there."""

from __future__ import annotations

import oracle
import pytest
import small_models
import tiny
import torch

from circuits.engine import collect
from circuits.engine.collect import last_residuals
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.instructions import Instruction, InstructionSet

TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9 w10 w11", "w12", "w13 w14 w15 w16", "w17 w18 w19 w20 w21 w22"]


@pytest.fixture(scope="module")
def prompts() -> InstructionTokens:
    return InstructionSet(tuple(Instruction(text, "harmless") for text in TEXTS)).tokenize(tiny.tokenizer())


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_each_prompt_alone_and_unpadded(architecture: str, prompts: InstructionTokens):
    model, hf = small_models.model(architecture), small_models.raw(architecture)
    found = last_residuals(model, prompts)
    assert found.shape == (len(TEXTS), model.shape.n_layers, model.shape.d_model)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    for row, (ids, mask) in enumerate(zip(prompts.ids, prompts.mask, strict=True)):
        alone = ids[mask]
        with torch.no_grad():
            states = hf(input_ids=alone[None], output_hidden_states=True, use_cache=False).hidden_states
        keys = [("resid_pre", layer) for layer in range(model.shape.n_layers)]
        seen = oracle.run(hf, alone, keep=keys)[1]
        for layer, key in enumerate(keys):
            assert torch.allclose(found[row, layer], states[layer][0, -1], atol=2e-5)
            assert torch.allclose(found[row, layer], seen[key][-1], atol=2e-5)


def test_batches_do_not_show(prompts: InstructionTokens, monkeypatch: pytest.MonkeyPatch):
    model = small_models.model("gemma2")
    whole = last_residuals(model, prompts)
    for size in (1, 2, 3):
        monkeypatch.setattr(collect, "_BATCH", size)
        assert torch.allclose(last_residuals(model, prompts), whole, atol=1e-5)
    order = torch.tensor([4, 2, 0])
    some = InstructionTokens(
        InstructionSet(tuple(prompts.instructions[int(i)] for i in order)), prompts.ids[order], prompts.mask[order],
        prompts.instruction[order], tuple(prompts.text[int(i)] for i in order),
    )  # fmt: skip
    assert torch.allclose(last_residuals(model, some), whole[order], atol=1e-5)


def test_the_first_layer_is_the_last_tokens_embedding(prompts: InstructionTokens):
    """Which is why prompts that end alike have no direction there."""
    hf = small_models.raw("llama")
    found = last_residuals(small_models.model("llama"), prompts)
    assert torch.equal(found[:, 0], hf.get_input_embeddings().weight.detach()[prompts.ids[:, -1]])


def test_half_precision_is_told_in_single():
    model = small_models.load(
        str(small_models.folder("llama")), device="cpu", dtype="bfloat16", tokenizer=tiny.tokenizer()
    )
    prompts = InstructionSet((Instruction("w1 w2", "harmless"), Instruction("w5 w6 w7", "harmful"))).tokenize(model)
    found = last_residuals(model, prompts)
    assert found.dtype == torch.float32
    assert torch.equal(found, found.bfloat16().float()), "these are the run's own numbers"
