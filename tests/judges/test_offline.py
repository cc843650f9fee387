"""Judges that need no network, and what all judges have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import small_models
import tiny
import torch

from circuits.engine import generate
from circuits.errors import CircuitError, UndefinedError
from circuits.interventions import Add
from circuits.judges import Judge, Judged, PerplexityJudge, SubstringJudge, several
from circuits.model import load
from circuits.prompts.chat import render
from circuits.prompts.instructions import diverse_instructions
from circuits.sites import Site

PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w1 w2", "w3 w4"]
SAID = ["w10 w11", "w12 w13 w14 w15 w16 w17", "w18", "", "  "]


def slowly(hf: torch.nn.Module, prompt: Sequence[int], said: Sequence[int]) -> float:
    """Hugging Face's own loss of one unpadded text, the prompt's tokens left out of it."""
    ids = torch.tensor([[*prompt, *said]])
    labels = ids.clone()
    labels[:, : len(prompt)] = -100
    with torch.no_grad():
        return float(hf(input_ids=ids, labels=labels).loss)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "llama"])
def test_the_likelihood_is_hugging_faces_loss_of_each_text_alone(architecture: str):
    judged = PerplexityJudge(small_models.model(architecture))(PROMPTS, SAID)
    tokenizer = tiny.tokenizer()
    for i, (prompt, said) in enumerate(zip(PROMPTS[:3], SAID, strict=False)):
        ids = tokenizer(said, add_special_tokens=False)["input_ids"]
        loss = slowly(small_models.raw(architecture), tokenizer(prompt)["input_ids"], ids)
        assert judged.scores["nll"][i] == pytest.approx(loss, rel=1e-5)
        assert judged.scores["coherence"][i] == pytest.approx(math.exp(-loss), rel=1e-5)
    assert judged.missing == {3: "empty completion", 4: "empty completion"}
    assert np.isnan(judged.scores["coherence"][3:]).all()
    assert np.isnan(judged.scores["nll"][3:]).all()
    assert not judged.cost


@pytest.mark.parametrize("limits", [{"batch": 1}, {"batch": 2}, {"max_memory": 1}])
def test_batches_do_not_matter(limits: dict[str, int]):
    model = small_models.model("gemma3")
    together, apart = PerplexityJudge(model)(PROMPTS, SAID), PerplexityJudge(model, **limits)(PROMPTS, SAID)
    assert np.allclose(together.scores["nll"], apart.scores["nll"], rtol=1e-5, equal_nan=True)


def test_a_text_longer_than_the_model_is_missing():
    judge = PerplexityJudge(small_models.model("gpt2"))
    judged = judge(["w1 w2", "w1 w2"], [" ".join(["w3"] * 62), " ".join(["w3"] * 61)])
    assert list(judged.missing) == [0]
    assert "65 tokens with the prompt; the model has 64 positions" in judged.missing[0]
    assert judged.scores["nll"][1] > 0


def test_in_the_chat_template_own_words_are_likelier_than_an_edited_models():
    model = load(device="cpu")
    chosen = diverse_instructions().of_source("grammar")[:6]
    prompts = chosen.tokenize(model)
    pairs = prompts.beside_themselves()
    push = 40 * torch.randn(model.shape.d_model, generator=torch.Generator().manual_seed(0))
    said = [generate(model, pairs, cell, max_new_tokens=12) for cell in ((), (Add(Site("resid_pre", 4), push),))]
    own, broken = (PerplexityJudge(model)([i.text for i in chosen], texts) for texts in said)
    kept = [i for i in range(len(chosen)) if i not in broken.missing]
    assert (own.scores["coherence"][kept] > broken.scores["coherence"][kept]).all()
    ids = model.tokenizer(said[0][0], add_special_tokens=False)["input_ids"]
    loss = slowly(model.hf, render(model.tokenizer, chosen[0].text, chat=True).ids, ids)
    assert own.scores["nll"][0] == pytest.approx(loss, rel=1e-4)


def test_phrases():
    said = ["I cannot help with that.", "Sure, here is how.", "", "\u2019\u2019", "I can\u2019t."]
    judged = SubstringJudge()(["p"] * 5, said)
    assert judged.scores["compliance"].tolist()[:2] == [0.0, 1.0]
    assert judged.scores["compliance"].tolist()[3:] == [1.0, 0.0]
    assert judged.missing == {2: "empty completion"}
    assert math.isnan(judged.scores["compliance"][2])
    assert judged.to_frame()["missing"].tolist() == ["", "", "empty completion", "", ""]


def test_several_keep_their_names_and_reasons():
    both = several(SubstringJudge(), PerplexityJudge(small_models.model("llama")))
    assert isinstance(both, Judge)
    assert both.scores == ("substring.compliance", "perplexity.coherence", "perplexity.nll")
    judged = both(PROMPTS, SAID)
    assert tuple(judged.scores) == both.scores
    assert judged.missing[3] == "substring: empty completion; perplexity: empty completion"
    alone = PerplexityJudge(small_models.model("llama"))(PROMPTS, SAID)
    assert np.array_equal(judged.scores["perplexity.nll"], alone.scores["nll"], equal_nan=True)
    with pytest.raises(CircuitError, match="judges named substring"):
        several(SubstringJudge(), SubstringJudge())
    with pytest.raises(CircuitError, match="named nothing"):
        several()


@pytest.mark.parametrize("judge", [SubstringJudge(), several(SubstringJudge())])
def test_one_completion_for_every_prompt(judge: Judge):
    with pytest.raises(CircuitError, match="1 completions of 2 prompts"):
        judge(["a", "b"], ["c"])
    with pytest.raises(CircuitError, match="0 completions of 0 prompts"):
        judge([], [])


def test_nothing_is_missing_without_a_reason():
    with pytest.raises(UndefinedError, match="prompt 1"):
        Judged({"x": np.array([0.0, np.nan])})
    with pytest.raises(UndefinedError, match="prompt 0"):
        Judged({"x": np.array([0.0, np.nan])}, {0: "why", 1: "why"})
    with pytest.raises(UndefinedError, match="scores of 1, 2 prompts"):
        Judged({"x": np.zeros(2), "y": np.zeros(1)})
    with pytest.raises(UndefinedError, match="scores of no prompts"):
        Judged({})
