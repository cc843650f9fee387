"""What heads read at the subject sums to what they write from there, part by part, on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle
import oracle_modules
import pytest
import small_models
import torch
from torch import Tensor

from circuits.errors import SiteError, UndefinedError
from circuits.linalg import random_directions
from circuits.measure.ov import OvCircuits, ov_circuits
from circuits.sites import Site, head

TOKENS = small_models.uneven()
V = 7 * torch.randn(32, generator=torch.Generator().manual_seed(1))
HEADS = [head(3, 1), head(1, 2), head(3, 0)]


def _found(architecture: str) -> OvCircuits:
    return ov_circuits(small_models.model(architecture), TOKENS, V, heads=HEADS, k=4)


def _after(raw: Any, layer: int, z: Tensor) -> Tensor:
    """V at norm 1, before the post-norm of the last position."""
    v, written = V / V.norm(), oracle_modules.module(raw, "attn_out", layer)
    if type(raw).__name__ not in ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Olmo2ForCausalLM"):
        return v
    gain = written.weight + ("Gemma" in type(raw).__name__)
    entered = torch.einsum("he,hed->d", z, oracle_modules.w_o(raw, layer))
    eps = getattr(written, "eps", None) or written.variance_epsilon
    return v * gain * torch.rsqrt(entered.pow(2).mean() + eps)


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_parts_sum_to_the_value_write_that_the_oracle_sees(architecture: str):
    raw, found = small_models.raw(architecture), _found(architecture)
    assert torch.allclose(found.parts.sum(-1), found.write, atol=2e-5)
    for side, ids in enumerate((TOKENS.clean, TOKENS.corrupt)):
        for pair in (0, 3):
            at = int(TOKENS.subject[pair] - TOKENS.n_pos)
            keep = [(kind, layer) for layer in (1, 3) for kind in ("v", "z", "pattern")]
            _, seen = oracle.run(raw, ids[pair][TOKENS.mask[pair]], keep=keep)
            for i, layer in enumerate((1, 3)):
                z, v = seen["z", layer][-1], seen["v", layer][at]
                v = v.repeat_interleave(len(z) // len(v), 0)
                weight, u = seen["pattern", layer][-1, :, at], _after(raw, layer, z)
                products = torch.einsum("he,hed,d->h", v, oracle_modules.w_o(raw, layer), u)
                assert torch.allclose(found.write[side, pair, i], weight * products, atol=3e-5)
                assert torch.allclose(found.attention[side, pair, i], weight, atol=1e-5)
                total = torch.einsum("he,hed,d->h", z, oracle_modules.w_o(raw, layer), u)
                assert torch.allclose(found.total[side, pair, i], total, atol=3e-5)
    assert found.parts.abs().max() > 1e-3


def _scaled(norm: Any, resid: Tensor, part: Tensor, *, plus_one: bool) -> Tensor:
    """What an RMSNorm makes of a part of `resid`, by the book."""
    eps = getattr(norm, "eps", None) or norm.variance_epsilon
    return part * torch.rsqrt(resid.pow(2).mean() + eps) * (norm.weight + plus_one)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "phi3", "gpt2"])
def test_each_part_is_its_formula(architecture: str):
    raw, found, layer, pair = small_models.raw(architecture), _found(architecture), 3, 2
    at = int(TOKENS.subject[pair] - TOKENS.n_pos)
    upstream = [(kind, below) for below in range(layer) for kind in ("attn_out", "mlp_out")]
    keep = [("resid_pre", 0), ("resid_pre", layer), ("z", layer), ("pattern", layer), *upstream]
    _, seen = oracle.run(raw, TOKENS.clean[pair][TOKENS.mask[pair]], keep=keep)
    block = raw.transformer.h[layer] if architecture == "gpt2" else raw.model.layers[layer]
    resid, z = seen["resid_pre", layer][at], seen["z", layer][-1]
    u, w_o = _after(raw, layer, z), oracle_modules.w_o(raw, layer)

    def along(v: Tensor) -> Tensor:
        v = v.unflatten(-1, (-1, z.shape[-1])).repeat_interleave(len(z) * z.shape[-1] // v.shape[-1], 0)
        return seen["pattern", layer][-1, :, at] * torch.einsum("he,hed,d->h", v, w_o, u)

    def values(x: Tensor) -> Tensor:
        if architecture == "gpt2":
            return x @ block.attn.c_attn.weight[:, 64:]
        if architecture == "phi3":
            return block.self_attn.qkv_proj.weight[48:] @ x
        return block.self_attn.v_proj.weight @ x

    for c, key in enumerate([("resid_pre", 0), *upstream]):
        part = seen[key][at]
        if architecture == "gpt2":
            norm = block.ln_1
            shaped = (part - part.mean()) * torch.rsqrt(resid.var(unbiased=False) + norm.eps) * norm.weight
        else:
            shaped = _scaled(block.input_layernorm, resid, part, plus_one=architecture == "gemma2")
        assert torch.allclose(found.parts[0, pair, 1, :, c], along(values(shaped)), atol=3e-5), key
    if architecture == "gpt2":
        assert torch.allclose(found.parts[0, pair, 1, :, -2], along(values(block.ln_1.bias)), atol=3e-5)
        assert torch.allclose(found.parts[0, pair, 1, :, -1], along(block.attn.c_attn.bias[64:]), atol=3e-5)
        assert found.parts[..., -2:].abs().min() > 0
    else:
        assert not found.parts[..., -2:].any()


def test_values_with_a_bias_but_no_bias_of_the_norm():
    parts = _found("qwen2").parts
    assert not parts[..., -2].any()
    assert parts[..., -1].abs().min() > 0


def test_only_what_is_upstream_is_listed():
    found = _found("llama")
    frame = found.to_frame()
    assert found.components[:3] == ("embed", "L0.ATTN", "L0.MLP")
    listed = frame.groupby("layer")["component"].nunique()
    assert listed.to_dict() == {1: 5, 3: 9}
    assert not found.parts[:, :, 0, :, 3:7].any()
    sums = frame.groupby(["pair", "layer", "head"])["value"].sum()
    assert torch.allclose(torch.tensor(sums.to_numpy()).view(5, 2, 4), (found.write[0] - found.write[1]).double(), atol=1e-5)


def test_the_summary_sets_chosen_heads_against_the_others_of_their_layer():
    found = _found("gemma2")
    frame, table = found.to_frame(), found.to_summary()
    assert set(table["label"]) == {"L3.H1", "L1.H2", "L3.H0"}
    assert len(table) == 9 + 9 + 5
    row = table[(table["label"] == "L3.H0") & (table["component"] == "L1.MLP")].iloc[0]
    means = frame[(frame["layer"] == 3) & (frame["component"] == "L1.MLP")].groupby("label")["value"].mean()
    others = means[["L3.H2", "L3.H3"]]
    assert row["mean"] == pytest.approx(means["L3.H0"])
    assert (row["null_low"], row["null_high"], row["null_n"]) == (pytest.approx(others.min()), pytest.approx(others.max()), 2)
    assert row["p_null"] == pytest.approx((1 + (others.abs() >= abs(row["mean"])).sum()) / 3)
    for _, one in table.groupby("label"):
        assert one["share"].sum() == pytest.approx(1)
    heads = found.heads_frame().set_index("label")
    assert heads.loc["L3.H0", "write"] == pytest.approx((found.write[0] - found.write[1]).mean(0)[1, 0].item(), abs=1e-6)


def test_tokens_are_those_whose_embeddings_align():
    model, found = small_models.model("llama"), _found("llama")
    frame = found.tokens_frame()
    assert len(frame) == 8 * 8
    weight = small_models.raw("llama").model.embed_tokens.weight
    cosine = torch.nn.functional.cosine_similarity(weight, found.reads[1, 0][None], dim=-1)
    mine = frame[(frame["label"] == "L3.H0")].set_index("rank")
    order = cosine.argsort(descending=True)
    for rank in (1, 4, -4, -1):
        token = int(order[rank - 1 if rank > 0 else rank])
        assert mine.loc[rank, "token"] == repr(model.tokenizer.convert_ids_to_tokens([token])[0])
        assert mine.loc[rank, "cosine"] == pytest.approx(cosine[token].item(), abs=1e-5)
    pair = torch.arange(5)
    clean, corrupt = ((weight @ found.reads[1, 0])[ids[pair, TOKENS.subject]] for ids in (TOKENS.clean, TOKENS.corrupt))
    wins = (clean[:, None] > corrupt).double().mean().item()
    assert found.separation["L3.H0"][0] == pytest.approx(wins)


def test_a_planted_reader_is_found():
    """A direction that is what a head makes of one MLP's output: that component is nearly all it reads."""
    model = small_models.model("llama")
    from circuits.engine import capture
    from circuits.model.value_path import value_path

    run = capture(model, TOKENS.clean, TOKENS.mask, [Site("mlp_out", 0)])
    pair = torch.arange(5)
    path, part = value_path(model, 1), run.seen[Site("mlp_out", 0)][pair, TOKENS.subject]
    shaped = path.frozen(run.resid[1][pair, TOKENS.subject]).linear(part)
    w_o = oracle_modules.w_o(small_models.raw("llama"), 1)[2].double().detach()
    planted = shaped @ path.w_v[2] @ w_o
    found = ov_circuits(model, TOKENS, planted, heads=[head(1, 2)])
    random = ov_circuits(model, TOKENS, random_directions(5, 32, seed=0), heads=[head(1, 2)])

    def per_attention(r: OvCircuits) -> Tensor:
        return (r.parts[0] / r.attention[0][..., None])[:, 0, 2, found.components.index("L0.MLP")]

    expected = (shaped @ path.w_v[2] @ w_o).norm(dim=-1)
    assert torch.allclose(per_attention(found).double(), expected, atol=1e-4)
    assert (per_attention(found) > 2 * per_attention(random).abs()).all()


def test_its_figure(says: Callable[..., None]):
    says(_found("llama").figure(), small_models.model("llama").name)


def test_what_cannot_be_asked():
    model = small_models.model("llama")
    with pytest.raises(UndefinedError, match="unit vector"):
        ov_circuits(model, TOKENS, torch.zeros(32), heads=HEADS)
    for heads in ([], [head(1, 7)], [Site("attn_out", 1)]):
        with pytest.raises(SiteError, match="give heads 0 to 3"):
            ov_circuits(model, TOKENS, V, heads=heads)
    with pytest.raises(SiteError, match="layer 9"):
        ov_circuits(model, TOKENS, V, heads=[head(9, 0)])
