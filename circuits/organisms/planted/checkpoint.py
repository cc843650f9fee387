"""Writes a planted circuit as a Hugging Face checkpoint, with its tokenizer, its pairs and what is known of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError, OutputError
from circuits.organisms.planted import circuit as c
from circuits.organisms.planted import spaces, weights
from circuits.organisms.planted.prompts import ANSWER, VOCABULARY, WRONG, pairs, tokenizer
from circuits.organisms.planted.spaces import BALLAST, D_MODEL
from circuits.organisms.planted.truth import Truth, truth

SEED: Final = 0
_SIZES: Final[dict[str, Any]] = {
    "vocab_size": len(VOCABULARY), "hidden_size": D_MODEL, "num_hidden_layers": c.N_LAYERS,
    "num_attention_heads": c.N_HEADS, "max_position_embeddings": weights.N_POSITIONS, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip


def write(kind: str, folder: str | Path) -> Truth:
    """Save the planted model to `folder`, with `pairs.csv` and `truth.json`; always the same bytes.

    `gpt2`: LayerNorm with biases, learned positions. `gemma2`: grouped queries, rotary positions, a window of 4 in
    every other layer, norms after attention and MLP, soft caps of 50 and 30. Raises ModelError for another kind,
    OutputError where the folder cannot be written.
    """
    home = Path(folder)
    match kind:
        case "gpt2":
            known, hf = truth(kind), _gpt2()
        case "gemma2":
            known, hf = truth(kind), _gemma2()
        case _:
            raise ModelError(f"no planted model of kind {kind!r}; known: {', '.join(c.KINDS)}")
    try:
        home.mkdir(parents=True, exist_ok=True)
        hf.save_pretrained(home)
        tokenizer().save_pretrained(home)
        pairs().to_frame().to_csv(home / "pairs.csv", index=False)
        (home / "truth.json").write_text(json.dumps(known.to_json(), indent=1), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {home}: {error.strerror or error}; choose another folder") from error
    return known


def _words(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return weights.embeddings(generator), weights.unembedding(generator)


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    g = torch.Generator().manual_seed(SEED)
    hf: Any = GPT2LMHeadModel(GPT2Config(**_SIZES, n_inner=weights.D_MLP))
    base = spaces.basis("gpt2", g)
    embed, unembed = _words(g)
    _set(hf.transformer.wte.weight, embed @ base)
    _set(hf.transformer.wpe.weight, weights.positions() @ base)
    for layer, block in enumerate(hf.transformer.h):
        attention, neurons = weights.attention("gpt2", layer, g), weights.mlp(layer, g)
        first, second = spaces.pre_norm("gpt2", g), spaces.pre_norm("gpt2", g)
        _norm(block.ln_1, first)
        _norm(block.ln_2, second)
        read = torch.cat([t.flatten(0, 1) for t in (attention.q, attention.k, attention.v)])
        rows, bias = spaces.reading(read, base, first)
        _set(block.attn.c_attn.weight, rows.T)  # stored input first
        _set(block.attn.c_attn.bias, bias)
        _set(block.attn.c_proj.weight, spaces.writing(attention.o.flatten(0, 1), base, None))
        rows, bias = spaces.reading(neurons.gate, base, second)
        _set(block.mlp.c_fc.weight, rows.T)
        _set(block.mlp.c_fc.bias, bias)
        _set(block.mlp.c_proj.weight, spaces.writing(neurons.out, base, None))
    final = spaces.pre_norm("gpt2", g)
    rows, _ = spaces.reading(unembed, base, final)
    metric = rows[VOCABULARY.index(ANSWER)] - rows[VOCABULARY.index(WRONG)]
    # the unembedding has no bias that could take the norm's away: it is left none along the metric
    kept = final.bias - (final.bias @ metric) / (metric @ metric) * metric
    _norm(hf.transformer.ln_f, spaces.Norm(final.weight, kept))
    _set(hf.lm_head.weight, rows)
    return hf


def _gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    g = torch.Generator().manual_seed(SEED)
    hf: Any = Gemma2ForCausalLM(Gemma2Config(
        **_SIZES, intermediate_size=weights.D_MLP, num_key_value_heads=weights.N_KV_HEADS["gemma2"],
        head_dim=weights.D_HEAD, query_pre_attn_scalar=weights.D_HEAD, sliding_window=4,
        rope_parameters={"rope_type": "default", "rope_theta": weights.ROPE_THETA},
        attn_logit_softcapping=50.0, final_logit_softcapping=c.SOFTCAP["gemma2"], attention_bias=True,
    ))  # fmt: skip
    base = spaces.basis("gemma2", g)
    embed, unembed = _words(g)
    _set(hf.model.embed_tokens.weight, embed @ base / D_MODEL**0.5)
    ballast = torch.zeros(D_MODEL, dtype=torch.float64)
    ballast[0] = BALLAST
    for layer, block in enumerate(hf.model.layers):
        attention, neurons = weights.attention("gemma2", layer, g), weights.mlp(layer, g)
        pre = spaces.pre_norm("gemma2", g), spaces.pre_norm("gemma2", g)
        post = spaces.post_norm(g), spaces.post_norm(g)
        _norm(block.input_layernorm, pre[0])
        _norm(block.post_attention_layernorm, post[0])
        _norm(block.pre_feedforward_layernorm, pre[1])
        _norm(block.post_feedforward_layernorm, post[1])
        for name in ("q", "k", "v"):
            projection = getattr(block.self_attn, f"{name}_proj")
            _set(projection.weight, spaces.reading(getattr(attention, name).flatten(0, 1), base, pre[0])[0])
            _set(projection.bias, torch.zeros(len(projection.bias)))
        _set(block.self_attn.o_proj.weight, spaces.writing(attention.o.flatten(0, 1), base, post[0]).T)
        _set(block.self_attn.o_proj.bias, ballast)
        _set(block.mlp.gate_proj.weight, spaces.reading(neurons.gate, base, pre[1])[0])
        _set(block.mlp.up_proj.weight, spaces.reading(neurons.up, base, pre[1])[0])
        down = spaces.writing(neurons.out, base, post[1])
        down[0] = ballast / 10  # the first neuron gives 10
        _set(block.mlp.down_proj.weight, down.T)
    final = spaces.pre_norm("gemma2", g)
    _norm(hf.model.norm, final)
    _set(hf.lm_head.weight, spaces.reading(unembed, base, final)[0])
    return hf


def _norm(module: Any, norm: spaces.Norm) -> None:
    """LayerNorm multiplies by its weight, Gemma's by 1 + weight."""
    layer_norm = isinstance(module, torch.nn.LayerNorm)
    _set(module.weight, norm.weight if layer_norm else norm.weight - 1)
    if layer_norm:
        _set(module.bias, norm.bias)


def _set(parameter: Tensor, value: Float[Tensor, ...]) -> None:
    """In place, in single precision. A shape that does not fit is refused, not broadcast."""
    if parameter.shape != value.shape:
        raise ValueError(f"{tuple(value.shape)} does not fit {tuple(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(value)
