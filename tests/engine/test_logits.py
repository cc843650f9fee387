"""Logits at all positions are the oracle's, however the prompts are batched; continuations are a greedy loop's."""

from __future__ import annotations

import pytest
import small_models
import tiny
import torch
from oracle import Edit, PairOracle, ablated, formula, run

from circuits.engine import generate
from circuits.engine.logits import continued, logits_under
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Ablate, Add, Clamp, Patch, Rotate, ablate_everywhere
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.sites import Site

TOKENS = small_models.uneven()
V = torch.randn(32, generator=torch.Generator().manual_seed(5))
EACH = torch.randn(5, 32, generator=torch.Generator().manual_seed(6))
SIZES = torch.tensor([1.0, -2.0, 3.0, 0.5, 0.0])
CELL = (
    Ablate(Site("resid_pre", 1), V), Add(Site("mlp_out", 2), EACH, scale=SIZES), Patch(Site("attn_out", 2), "last", 2 * V),
    Clamp(Site("resid_post", 3), EACH, SIZES),
)  # fmt: skip


def edits(pair: int, n: int) -> list[Edit]:
    unit = EACH[pair] / EACH[pair].norm()
    return [
        Edit("resid_pre", 1, formula(range(n), ablated(V))),
        Edit("mlp_out", 2, formula(range(n), lambda a: a + SIZES[pair] * EACH[pair])),
        Edit("attn_out", 2, formula([n - 1], lambda _: 2 * V)),
        Edit("resid_post", 3, formula(range(n), lambda a: a + (SIZES[pair] - a @ unit) * unit)),
    ]


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox", "llama"])
def test_every_position_under_a_cell_is_the_oracles(architecture: str, memory: int | None):
    found = logits_under(small_models.model(architecture), TOKENS, CELL, max_memory=memory)
    assert found.shape == (*TOKENS.mask.shape, 84)
    for pair in range(TOKENS.n_pairs):
        one = PairOracle(small_models.raw(architecture), TOKENS, pair, "noise")
        logits, _ = run(one.hf, one.base, edits(pair, one.length))
        assert torch.allclose(found[pair, one.pad :], logits, atol=2e-5)


def test_rows_are_those_of_the_whole():
    model = small_models.model("gemma3")
    whole, some = logits_under(model, TOKENS, CELL), logits_under(model, TOKENS, CELL, rows=slice(2, 99))
    kept = TOKENS.mask[2:]
    assert torch.allclose(whole[2:][kept], some[kept], atol=1e-5)
    with pytest.raises(SiteError, match="no pair between 5 and 5"):
        logits_under(model, TOKENS, rows=slice(7, 9))


def test_no_edits_are_the_model_itself():
    model = small_models.model("llama")
    assert torch.equal(logits_under(model, TOKENS), model.logits(TOKENS.clean, TOKENS.mask))


def test_what_cannot_be_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch):
    model = small_models.model("llama")
    with pytest.raises(UndefinedError, match="L1.resid_pre are not finite"):
        logits_under(small_models.model("gpt2"), TOKENS, (Add(Site("resid_pre", 1), V, scale=1e38),))
    monkeypatch.setattr(type(model), "logits", lambda *_: pytest.fail("ran"))
    with pytest.raises(SiteError, match="needs a source run"):
        logits_under(model, TOKENS, (Patch(Site("mlp_out", 1)),))
    with pytest.raises(SiteError, match="layers 0 to 3"):
        logits_under(model, TOKENS, (Ablate(Site("mlp_out", 4), V),))


def test_an_edit_of_one_plane_per_pair():
    model = small_models.model("gpt2")
    plane = torch.linalg.qr(torch.randn(5, 32, 2, generator=torch.Generator().manual_seed(1)))[0].mT.contiguous()
    whole = logits_under(model, TOKENS, (Rotate(Site("resid_pre", 2), plane, SIZES * 40),))
    for pair in range(5):
        alone = (Rotate(Site("resid_pre", 2), plane[pair], float(SIZES[pair]) * 40),)
        one = logits_under(model, TOKENS, alone, rows=slice(pair, pair + 1))[0]
        assert torch.allclose(whole[pair][TOKENS.mask[pair]], one[TOKENS.mask[pair]], atol=1e-5)


TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8", "w9", "w10 w11 w12 w13"]


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
def test_continuations_are_a_greedy_loops_up_to_the_token_that_ends_them(
    architecture: str, monkeypatch: pytest.MonkeyPatch
):
    model, hf = small_models.model(architecture), small_models.raw(architecture)
    prompts = InstructionSet(tuple(Instruction(t, "harmless") for t in TEXTS)).tokenize(tiny.tokenizer())
    loops: list[list[int]] = []
    for row, mask in zip(prompts.ids, prompts.mask, strict=True):
        ids = row[mask]
        for _ in range(6):
            ids = torch.cat([ids, run(hf, ids)[0][-1].argmax()[None]])
        loops.append(ids.tolist())
    end = loops[0][int(prompts.mask[0].sum()) + 2]  # the first continuation's third token ends whatever it occurs in
    monkeypatch.setattr(model.hf.generation_config, "eos_token_id", [end])
    text = continued(model, prompts, max_new_tokens=6)
    assert text.ids.shape[1] == int(text.mask.sum(1).max())
    for i, loop in enumerate(loops):
        n = int(prompts.mask[i].sum())
        said = loop[n:]
        said = said[: said.index(end) + 1] if end in said else said
        kept = text.mask[i]
        assert text.ids[i][kept].tolist() == loop[:n] + said
        assert kept.tolist() == sorted(kept.tolist()), "padding stands on the left"
        assert text.instruction[i][kept].tolist() == [False] + [True] * (n - 1) + [False] * len(said)
        assert text.text[i][: -int(kept.sum())] == ("",) * (len(kept) - int(kept.sum()))
        assert all(text.text[i][-int(kept.sum()) :])
    assert model.hf.generation_config.eos_token_id == [end]


def test_continuations_are_what_generate_says():
    model = small_models.model("llama")
    prompts = InstructionSet(tuple(Instruction(t, "harmless") for t in TEXTS)).tokenize(tiny.tokenizer())
    text = continued(model, prompts, max_new_tokens=5)
    said = generate(model, prompts.beside_themselves(), max_new_tokens=5)
    for i, words in enumerate(said):
        ids = text.ids[i][text.mask[i]][int(prompts.mask[i].sum()) :]
        assert model.tokenizer.decode(ids, skip_special_tokens=True) == words


def test_ablated_everywhere_leaves_nothing_of_the_direction_to_read():
    model = small_models.model("llama")
    cell = ablate_everywhere(V, range(4))
    twice = (*cell, Ablate(Site("resid_post", 3), V))
    once, again = (logits_under(model, TOKENS, c)[TOKENS.mask] for c in (cell, twice))
    assert torch.allclose(once, again, atol=1e-5)
