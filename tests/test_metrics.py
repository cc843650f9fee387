"""Metrics equal their formulas, their pullbacks equal them, and every wrong token is shown with its pieces."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import small_models
import torch

from circuits.engine.readout import Readout
from circuits.errors import TokenError
from circuits.metrics import LogitDifference, LogOdds, Metric, RefusalMetric, parse_metric
from circuits.prompts import PairSet

TOKENS = small_models.uneven()
MODEL = small_models.model("llama")
VOCAB = MODEL.tokenizer.get_vocab()
LOGITS = 4 * torch.randn(3, TOKENS.n_pairs, 84, generator=torch.Generator().manual_seed(0))


def _answers(i: int) -> tuple[int, int]:
    return VOCAB[small_models.UNEVEN[i][2]], VOCAB[small_models.UNEVEN[i][3]]


METRICS: dict[str, tuple[Metric, Any]] = {
    "refusal": (RefusalMetric(MODEL, "w7"), lambda row, _: oracle.against_mean(row, VOCAB["w7"])),
    "two tokens": (LogitDifference(MODEL, "w7", "w8"), lambda row, _: oracle.difference(row, VOCAB["w7"], VOCAB["w8"])),
    "own answers": (LogitDifference(MODEL), lambda row, i: oracle.difference(row, *_answers(i))),
    "log-odds": (
        LogOdds(MODEL, "w7", "w8", "w9"),
        lambda row, _: oracle.log_odds(row, [VOCAB["w7"], VOCAB["w8"], VOCAB["w9"]]),
    ),
}


@pytest.mark.parametrize("name", list(METRICS))
def test_values_equal_the_formula(name: str):
    metric, formula = METRICS[name]
    found = metric.bind(TOKENS)(LOGITS)
    expected = torch.tensor([[formula(LOGITS[r, i], i) for i in range(TOKENS.n_pairs)] for r in range(3)])
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(METRICS))
def test_values_are_single_precision_whatever_the_model_is(name: str, dtype: torch.dtype):
    found = METRICS[name][0].bind(TOKENS)(LOGITS.to(dtype))
    assert found.dtype == torch.float32
    assert torch.allclose(found, METRICS[name][0].bind(TOKENS)(LOGITS.to(dtype).float()), atol=1e-5)


@pytest.mark.parametrize("name", ["refusal", "two tokens", "own answers"])
def test_the_pullback_is_the_metric_of_the_normalised_final_residual(name: str):
    bound = METRICS[name][0].bind(TOKENS)
    direction = bound.pullback(MODEL.W_U)
    assert direction is not None
    final = torch.randn(2, TOKENS.n_pairs, 32)
    normal = MODEL.parts.ln_final(final)
    assert torch.allclose((normal * direction).sum(-1), bound(normal @ MODEL.W_U.T), atol=1e-5)
    assert Readout(MODEL, bound).linear


def test_log_odds_have_no_pullback():
    bound = METRICS["log-odds"][0].bind(TOKENS)
    assert bound.pullback(MODEL.W_U) is None
    assert not Readout(MODEL, bound).linear


def test_no_pullback_where_logits_are_capped():
    model = small_models.model("gemma2")
    readout = Readout(model, RefusalMetric(model, "w7").bind(TOKENS))
    assert not readout.linear
    final = 9 * torch.randn(2, TOKENS.n_pairs, 32)
    assert readout.logits(final).abs().max() <= 3.0


def test_a_probability_of_nearly_one_keeps_its_log_odds():
    logits = torch.zeros(1, TOKENS.n_pairs, 84)
    logits[..., VOCAB["w7"]] = 60.0
    found = LogOdds(MODEL, "w7").bind(TOKENS)(logits)
    assert torch.allclose(found, 60 - torch.tensor(83.0).log(), atol=1e-4)


# --- tokens that are none -------------------------------------------------------------------------------------------------


def test_more_tokens_than_one_are_shown_in_pieces():
    with pytest.raises(TokenError, match=r"'w1 w2' is 2 tokens of this model: ‹w1\|w2›"):
        RefusalMetric(MODEL, "w1 w2")
    with pytest.raises(TokenError, match="'bomb'"):
        LogOdds(MODEL, "w1", "bomb")
    with pytest.raises(TokenError, match="0 tokens"):
        RefusalMetric(MODEL, "")


def test_a_difference_of_one_token_with_itself():
    with pytest.raises(TokenError, match="'w1' and 'w1' are the same token"):
        LogitDifference(MODEL, "w1", "w1")
    pairs = PairSet.from_pairs([("w1 w2", "w1 w3", "w4", "w5"), ("w1 w2", "w1 w3", "w4", "w4")]).tokenize(MODEL)
    with pytest.raises(TokenError, match="pair 1: answer 'w4' and wrong 'w4' are the same token"):
        LogitDifference(MODEL).bind(pairs)


def test_one_token_of_two():
    with pytest.raises(TokenError, match="two tokens, or none"):
        LogitDifference(MODEL, "w1")


def test_a_pair_without_its_answer_is_named():
    pairs = PairSet.from_pairs([("w1 w2", "w1 w3", "w4", "w5"), ("w1 w2", "w1 w3")]).tokenize(MODEL)
    with pytest.raises(TokenError, match="pair 1 has no answer and wrong"):
        LogitDifference(MODEL).bind(pairs)
    pairs = PairSet.from_pairs([("w1 w2", "w1 w3", "w4 w9", "w5")]).tokenize(MODEL)
    with pytest.raises(TokenError, match=r"pair 0: .*‹w4\|w9›"):
        LogitDifference(MODEL).bind(pairs)


def test_no_tokens_at_all():
    with pytest.raises(TokenError, match="at least one"):
        LogOdds(MODEL)


# --- as typed on the command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("refusal:w7", 'logit["w7"] − mean(others)'),
        ("diff:w7,w8", 'logit["w7"] − logit["w8"]'),
        ("diff", "logit[answer] − logit[wrong]"),
        ("log-odds:w7", 'log-odds of "w7"'),
        ("log-odds:w7,w8", 'log-odds of "w7", "w8"'),
    ],
)
def test_forms(text: str, name: str):
    assert parse_metric(MODEL, text).name == name


@pytest.mark.parametrize("text", ["", "refusal", "refusal:w1,w2", "diff:w1", "diff:w1,w2,w3", "log-odds", "kl:w1"])
def test_other_forms_are_told_which_there_are(text: str):
    with pytest.raises(TokenError, match="refusal:TOKEN, diff:ANSWER,WRONG"):
        parse_metric(MODEL, text)


def test_a_parsed_token_that_is_none_is_shown():
    with pytest.raises(TokenError, match="'bomb'"):
        parse_metric(MODEL, "refusal:bomb")
