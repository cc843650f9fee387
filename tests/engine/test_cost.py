"""Forward passes are counted whoever runs them, and whole runs count as what they are."""

from __future__ import annotations

import pytest
import torch

import circuits as ct
from circuits.engine import capture
from circuits.engine.cost import forward_passes


@pytest.fixture(scope="module")
def model():
    return ct.load()


@pytest.fixture(scope="module")
def tokens(model):
    return ct.PairSet(ct.toy_refusal_pairs()[:6].pairs, "six").tokenize(model)


def hooks_left(model):
    return [name for name, module in model.hf.named_modules() if module._forward_pre_hooks or module._forward_hooks]


def test_a_run_of_every_prompt_is_one_pass_each(model, tokens):
    with forward_passes(model, tokens) as cost:
        capture(model, tokens.clean, tokens.mask, [])
    assert cost.passes == tokens.n_pairs


def test_outside_the_context_nothing_is_counted(model, tokens):
    with forward_passes(model, tokens) as cost:
        pass
    model.logits(tokens.clean, tokens.mask)
    assert cost.passes == 0
    assert not hooks_left(model)


def test_an_exception_leaves_no_hook(model, tokens):
    with pytest.raises(RuntimeError), forward_passes(model, tokens):
        raise RuntimeError
    assert not hooks_left(model)


def test_a_sweep_costs_what_its_certificate_says_and_the_runs_around_it(model, tokens):
    metric = ct.RefusalMetric(model, "I")
    cells = [(ct.Patch(ct.Site("resid_pre", layer), "last"),) for layer in range(1, model.shape.n_layers)]
    with forward_passes(model, tokens) as cost:
        swept = ct.sweep(model, tokens, metric, cells, audited=False)
    one = model.shape.n_layers * tokens.n_pos
    assert cost.passes == pytest.approx(tokens.n_pairs + swept.certificate.token_layers / one)


def test_generation_counts_the_prompt_once_and_each_new_token_as_one_column(model, tokens):
    with forward_passes(model, tokens) as cost:
        said = ct.generate(model, tokens, max_new_tokens=3)
    assert len(said) == tokens.n_pairs
    # the last new token is never run
    assert cost.seen["token_layers"] == model.shape.n_layers * tokens.n_pairs * (tokens.n_pos + 2)


def test_memory_of_the_caller_is_not_touched(model, tokens):
    before = model.logits(tokens.clean, tokens.mask)
    with forward_passes(model, tokens):
        during = model.logits(tokens.clean, tokens.mask)
    assert torch.equal(before, during)
