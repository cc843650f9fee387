"""Shares add up to the metric of the Hugging Face logits, and each is what its formula gives from the oracle's run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import norms
import numpy as np
import oracle
import oracle_modules
import pytest
import small_models
import tiny
import torch

from circuits.errors import UndefinedError
from circuits.linalg import random_directions
from circuits.measure import attribution as module
from circuits.measure.attribution import OTHERS, LogitAttribution, attribute_logits
from circuits.metrics import LogitDifference, LogOdds, RefusalMetric
from circuits.model import load

TOKENS = small_models.uneven()
SIDES = (TOKENS.clean, TOKENS.corrupt)
POSTNORMS = ("gemma2", "gemma3", "olmo2")


@cache
def shares(architecture: str) -> LogitAttribution:
    model = small_models.model(architecture)
    return attribute_logits(model, TOKENS, RefusalMetric(model, "w60"), null_draws=7, seed=3)


@cache
def seen(architecture: str, side: int, pair: int) -> tuple[torch.Tensor, dict[oracle.Key, torch.Tensor]]:
    hf = small_models.raw(architecture)
    logits, kept = oracle.run(hf, SIDES[side][pair][TOKENS.mask[pair]], keep=oracle.keys(hf))
    return logits[-1], {key: x[-1] for key, x in kept.items()}


def direction(architecture: str) -> torch.Tensor:
    token = small_models.model(architecture).tokenizer.get_vocab()["w60"]
    return norms.pulled(small_models.raw(architecture), token)


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_terms_add_up_to_the_metric_of_hugging_face_logits(architecture: str):
    found = shares(architecture)
    token = small_models.model(architecture).tokenizer.get_vocab()["w60"]
    totals = found.to_frame().groupby(["side", "pair"])["value"].sum()
    for s, side in enumerate(("clean", "corrupt")):
        for pair in range(5):
            expected = oracle.against_mean(seen(architecture, s, pair)[0], token)
            assert totals[side, pair] == pytest.approx(expected, rel=1e-5, abs=5e-6)
    assert (found.residual.abs() <= 1e-5 * found.metric.abs().clamp(min=0.05)).all()
    assert found.written.abs().min() > 0


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_each_pairs_own_tokens_add_up_too(architecture: str):
    model, hf = small_models.model(architecture), small_models.raw(architecture)
    found, ids = attribute_logits(model, TOKENS, LogitDifference(model), null_draws=1), model.tokenizer.get_vocab()
    named = found.written.sum((2, 3)) + sum(getattr(found, name) for name in OTHERS if name != "residual")
    for s in (0, 1):
        for i, pair in enumerate(TOKENS.pairs):
            logits = oracle.run(hf, SIDES[s][i][TOKENS.mask[i]])[0][-1]
            expected = oracle.difference(logits, ids[str(pair.answer)], ids[str(pair.wrong)])
            assert named[s, i].item() == pytest.approx(expected, rel=1e-5, abs=5e-6)


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_heads_add_up_to_the_attention_output(architecture: str):
    found = shares(architecture)
    total = found.heads.sum(-1) + found.attention_bias + found.head_residual
    assert torch.allclose(total, found.written[:, :, 0], atol=1e-6)
    assert found.head_residual.abs().max() < 2e-6
    assert (found.attention_bias.abs().min() > 0) == (architecture in {"gpt2", "gpt_neox"})


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_every_share_is_its_formula(architecture: str):
    found, hf, g = shares(architecture), small_models.raw(architecture), direction(architecture)
    for s, pair in ((0, 2), (1, 4)):
        _, x = seen(architecture, s, pair)
        final = x["resid_post", 3]

        def share(c: torch.Tensor, final: torch.Tensor = final) -> float:
            return float(norms.apply(norms.final(hf), c, final, bias=False) @ g)

        for layer in range(4):
            for k, kind in enumerate(("attn_out", "mlp_out")):
                value = found.written[s, pair, k, layer].item()
                assert value == pytest.approx(share(x[kind, layer]), abs=2e-6)
            w_o, z = oracle_modules.w_o(hf, layer).detach(), x["z", layer]
            by_head = torch.stack([z[h] @ w_o[h] for h in range(4)])
            after = norms.after_attention(hf, layer)
            assert (after is None) == (architecture not in POSTNORMS)
            if after is not None:
                by_head = torch.stack([norms.apply(after, one, by_head.sum(0)) for one in by_head])
            for h in range(4):
                assert found.heads[s, pair, layer, h].item() == pytest.approx(share(by_head[h]), abs=2e-6)
        added = x["resid_pre", 0].double() - x["embed", 0].double()
        scaled = "gemma" in architecture
        assert found.positional[s, pair].item() == pytest.approx(0 if scaled else share(added), abs=2e-6)
        whole = x["resid_pre", 0] if scaled else x["embed", 0]
        assert found.embedding[s, pair].item() == pytest.approx(share(whole), abs=2e-6)
        bias = getattr(norms.final(hf), "bias", None)
        expected = 0.0 if bias is None else float(bias.detach().double() @ g)
        assert found.norm_bias[s, pair].item() == pytest.approx(expected, abs=2e-6)
    assert (found.positional.abs().max() > 0.01) == (architecture == "gpt2")


def test_the_soft_cap_is_a_term_of_its_own():
    found, cap = shares("gemma2"), small_models.model("gemma2").softcap
    assert cap == 3.0 == found.softcap
    token = small_models.model("gemma2").tokenizer.get_vocab()["w60"]
    for s, pair in ((0, 0), (1, 3)):
        logits = seen("gemma2", s, pair)[0].double()
        before = oracle.against_mean(cap * torch.atanh(logits / cap), token)
        after = oracle.against_mean(logits, token)
        assert found.soft_cap[s, pair].item() == pytest.approx(after - before, abs=1e-5)
    assert found.soft_cap.abs().max() > 0.1
    for other in set(small_models.ARCHITECTURES) - {"gemma2"}:
        assert not shares(other).soft_cap.any()


def test_centring_is_what_a_layernorm_removes():
    hf, g = small_models.raw("gpt2"), direction("gpt2")
    for s, pair in ((0, 1), (1, 2)):
        final = seen("gpt2", s, pair)[1]["resid_post", 3].double()
        norm = norms.final(hf)
        kept = final / torch.sqrt(final.var(unbiased=False) + norm.eps) * norm.weight.detach().double()
        removed = float((kept - norms.apply(norm, final, bias=False)) @ g)
        assert shares("gpt2").centring[s, pair].item() == pytest.approx(removed, abs=2e-6)
    assert shares("gpt2").centring.abs().max() > 0.01
    assert not shares("llama").centring.any()


def test_a_bias_of_the_unembedding_is_a_term(tmp_path: Path):
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 84, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    raw: Any = transformers.PhiForCausalLM(transformers.PhiConfig(**sizes, pad_token_id=0, initializer_range=0.25))
    torch.nn.init.normal_(raw.lm_head.bias, 0.0, 2.0)
    raw.eval().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    model = load(str(tmp_path), device="cpu", tokenizer=tiny.tokenizer())
    found = attribute_logits(model, TOKENS, RefusalMetric(model, "w60"), null_draws=1)
    token = model.tokenizer.get_vocab()["w60"]
    expected = oracle.against_mean(raw.lm_head.bias.detach(), token)
    assert found.unembed_bias.flatten().tolist() == pytest.approx([expected] * 10, abs=1e-5)
    assert abs(expected) > 0.1
    with torch.no_grad():
        logits = raw(input_ids=TOKENS.clean[2][TOKENS.mask[2]][None]).logits[0, -1]
    totals = found.to_frame().groupby(["side", "pair"])["value"].sum()
    assert totals["clean", 2] == pytest.approx(oracle.against_mean(logits, token), rel=1e-5)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
def test_the_null_is_the_difference_along_random_directions(architecture: str):
    found, hf = shares(architecture), small_models.raw(architecture)
    size, r = direction(architecture).norm(), random_directions(7, 32, seed=3)[5].double()
    gap = head_gap = 0.0
    for s, sign in ((0, 1), (1, -1)):
        for pair in range(5):
            _, x = seen(architecture, s, pair)
            final, w_o = x["resid_post", 3], oracle_modules.w_o(hf, 2).detach()
            by_head = torch.stack([x["z", 2][h] @ w_o[h] for h in range(4)])
            after = norms.after_attention(hf, 2)
            head = by_head[1] if after is None else norms.apply(after, by_head[1], by_head.sum(0))
            read = [norms.apply(norms.final(hf), c, final, bias=False) @ r for c in (x["mlp_out", 2], head)]
            gap, head_gap = gap + sign * size * read[0] / 5, head_gap + sign * size * read[1] / 5
    assert found.null_written[5, 1, 2].item() == pytest.approx(float(gap), abs=2e-6)
    assert found.null_heads[5, 2, 1].item() == pytest.approx(float(head_gap), abs=2e-6)


def test_frames_and_figures(says: Callable[..., None], tmp_path: Path):
    found, model = shares("llama"), small_models.model("llama")
    table = found.to_summary().set_index("component")
    gap = found.written[0] - found.written[1]
    assert table.loc["L2.MLP", "mean"] == pytest.approx(gap[:, 1, 2].mean().item(), abs=1e-6)
    assert table.loc["L1.ATTN", "mean"] == pytest.approx(gap[:, 0, 1].mean().item(), abs=1e-6)
    assert table.loc["L1.ATTN", "low"] < table.loc["L1.ATTN", "mean"] < table.loc["L1.ATTN", "high"]
    null = np.quantile(found.null_written[:, 1, 2].double().numpy(), [0.025, 0.975])
    assert table.loc["L2.MLP", ["null_low", "null_high"]].tolist() == pytest.approx(null.tolist())
    total = (found.metric[0] - found.metric[1]).mean().item()
    assert table["mean"].sum() == pytest.approx(total, abs=1e-5)
    assert table["p"].drop("residual").between(0, 1).all()
    assert np.isnan(table.loc["residual", "p"])
    heads = found.heads_summary().set_index("component")
    expected = (found.heads[0] - found.heads[1])[:, 3, 2].mean().item()
    assert heads.loc["L3.H2", "mean"] == pytest.approx(expected, abs=1e-6)
    says(found.figure(), model.name)
    says(found.heads_figure(), model.name)
    assert found.save(tmp_path).exists()


def test_a_steady_effect_survives_the_sweep_wide_test():
    found = shares("llama")
    written = 0.01 * found.written
    written[0, :, 1, 3] += torch.linspace(3.0, 3.2, 5)
    from dataclasses import replace

    table = replace(found, written=written).to_summary().set_index("component")
    assert table.loc["L3.MLP", "p"] == table["p"].min() == pytest.approx(2 / 2**5)


def test_a_metric_without_a_direction_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "capture", None)
    model = small_models.model("llama")
    with pytest.raises(UndefinedError, match="not linear in the logits"):
        attribute_logits(model, TOKENS, LogOdds(model, "w60"))
