"""A direction out of the weights equals the direction out of every write at run time, or the model is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import small_models
import tiny
import torch
from torch import nn

from circuits.engine import read, sweep
from circuits.errors import ModelError, UndefinedError
from circuits.interventions import ablate_everywhere
from circuits.metrics import RefusalMetric
from circuits.model import Model, load
from circuits.model.orthogonal import orthogonalised

POST_NORM = ("gemma2", "gemma3", "olmo2")
PLAIN = tuple(a for a in small_models.ARCHITECTURES if a not in POST_NORM)
WRITERS = (
    "wte", "wpe", "embed_tokens", "embed_in", "o_proj", "down_proj", "c_proj", "attention.dense", "dense_4h_to_h",
)  # fmt: skip
"""What modules that write to the residual stream are called, in all of them."""
V = torch.randn(32, generator=torch.Generator().manual_seed(5)) * 7
TOKENS = small_models.uneven()


def _at_run_time(model: Model, direction: torch.Tensor, alpha: float) -> torch.Tensor:
    cell = ablate_everywhere(direction, range(model.shape.n_layers), alpha=alpha)
    return read(model, TOKENS, cell, []).logits


def _logits(model: Model) -> torch.Tensor:
    return read(model, TOKENS, (), []).logits


@cache
def _edited(architecture: str) -> Model:
    return orthogonalised(small_models.model(architecture), V)


@pytest.mark.parametrize(("architecture", "alpha"), [*((a, 1.0) for a in PLAIN), ("gemma", 0.6), ("gpt2", 1.5)])
def test_weights_equal_the_run_time_edit(architecture: str, alpha: float):
    model = small_models.model(architecture)
    before = _logits(model)
    edited = _edited(architecture) if alpha == 1 else orthogonalised(model, V, alpha=alpha)
    expected = _at_run_time(model, V, alpha)
    assert (_logits(edited) - expected).abs().max() <= 1e-4
    assert (expected - before).abs().max() > 1e-2, "the direction does nothing here"
    assert torch.equal(_logits(model), before), "the original was changed"
    assert edited.facts["edited weights against the run-time edit"] <= 1e-5


@pytest.mark.parametrize("architecture", PLAIN)
def test_no_write_is_left_along_the_direction(architecture: str):
    """Read off the module tree itself, not through the list of what was edited."""
    edited, v = _edited(architecture), V / V.norm()
    writes = 0
    for name, module in edited.hf.named_modules():
        last = isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D"
        if name.endswith(WRITERS):
            written: Any = module.weight if last else module.weight.T
            assert (written @ v).abs().max() <= 1e-5, name
            if getattr(module, "bias", None) is not None:
                assert abs(float(module.bias @ v)) <= 1e-5, name
            writes += 1
    assert writes == 1 + 2 * 4 + (architecture == "gpt2")


@pytest.mark.parametrize("architecture", ["gemma", "gpt2"])
def test_a_tied_unembedding_is_untied_and_stays(architecture: str):
    model = small_models.model(architecture)
    assert model.hf.config.tie_word_embeddings
    edited = _edited(architecture)
    assert torch.equal(edited.W_U, model.W_U)
    assert not edited.hf.config.tie_word_embeddings
    assert model.hf.config.tie_word_embeddings
    assert (edited.parts.embed.weight - edited.W_U).abs().max() > 1e-3
    edited.hf.tie_weights()
    assert (edited.parts.embed.weight - edited.W_U).abs().max() > 1e-3, "tied again"


@pytest.mark.parametrize("architecture", ["gemma", "llama"])
def test_tied_and_untied_checkpoints_give_the_same(architecture: str, tmp_path: Any):
    """The other way round from how the architecture comes: llama tied, gemma untied."""
    import transformers as hf

    torch.manual_seed(0)
    config = tiny.config(architecture)
    config.tie_word_embeddings = not config.tie_word_embeddings
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    model = load(str(tmp_path), device="cpu", tokenizer=tiny.tokenizer())
    assert (model.W_U is model.parts.embed.weight) == (architecture == "llama")
    edited = orthogonalised(model, V)
    assert (_logits(edited) - _at_run_time(model, V, 1.0)).abs().max() <= 1e-4
    assert torch.equal(edited.W_U, model.W_U)


@pytest.mark.parametrize("architecture", POST_NORM)
def test_a_norm_after_the_matrix_is_refused(architecture: str):
    with pytest.raises(ModelError, match=r"a norm stands between the matrices of L0 .*\n.*ablate_everywhere"):
        orthogonalised(small_models.model(architecture), V)


def test_the_copy_says_what_it_is_and_has_another_hash():
    model = small_models.model("llama")
    once, half = _edited("llama"), orthogonalised(model, V, alpha=0.5)
    assert model.edits == ""
    assert "edited" not in model.title
    assert "weights edited in memory: direction " in once.title
    assert "0.5 of direction " in half.title
    assert len({m.hash for m in (model, once, half)}) == 3
    assert orthogonalised(model, 4 * V).hash == once.hash, "a direction has no norm"
    spike = torch.eye(32)[17]  # one column of many: a sample of the values may miss it
    assert orthogonalised(model, spike).hash != model.hash


def test_two_directions_in_turn_are_two_edits_in_turn():
    model, w = small_models.model("gpt2"), V.roll(3)
    edited = orthogonalised(_edited("gpt2"), w, alpha=0.7)
    layers = range(4)
    cell = (*ablate_everywhere(V, layers), *ablate_everywhere(w, layers, alpha=0.7))
    assert (_logits(edited) - read(model, TOKENS, cell, []).logits).abs().max() <= 1e-4
    assert edited.edits.count("removed") == 2


def test_the_copy_is_swept_and_audited_like_any_other():
    edited = _edited("gemma")
    cell = ablate_everywhere(V, range(4))
    swept = sweep(edited, TOKENS, RefusalMetric(edited, "w60"), [cell])
    assert (swept.value[0] - swept.base).abs().max() <= 1e-5, "there was something left to ablate"


def test_it_is_never_written(tmp_path: Any):
    edited = _edited("gemma")
    for tree in (edited.hf, edited.bridge.original_model):
        with pytest.raises(ModelError, match="not written to disk"):
            tree.save_pretrained(tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_in_reduced_precision():
    model = load(str(small_models.folder("llama")), device="cpu", dtype="bfloat16", tokenizer=tiny.tokenizer())
    edited = orthogonalised(model, V)
    assert edited.dtype == torch.bfloat16
    assert edited.facts["edited weights against the run-time edit"] <= 5e-2


def test_directions_that_are_none():
    model = small_models.model("llama")
    with pytest.raises(ModelError, match=r"shape \(31,\)"):
        orthogonalised(model, V[:31])
    for v in (torch.zeros(32), torch.full((32,), torch.nan)):
        with pytest.raises(UndefinedError, match="no unit vector"):
            orthogonalised(model, v)
    with pytest.raises(ModelError, match="alpha is nan"):
        orthogonalised(model, V, alpha=float("nan"))


def test_a_matrix_that_was_missed_is_found_out(monkeypatch: pytest.MonkeyPatch):
    """The proof against the run-time edit does not trust the list of matrices."""
    from circuits.model import orthogonal

    whole = orthogonal._writers
    monkeypatch.setattr(orthogonal, "_writers", lambda model: whole(model)[:-1])
    with pytest.raises(ModelError, match="from the run-time edit"):
        orthogonalised(small_models.model("llama"), V)
