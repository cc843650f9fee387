"""Where the Hugging Face classes keep each activation: module names written down by hand, and views of their tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

KINDS = (
    "embed", "resid_pre", "q", "k", "v", "pattern", "z", "result", "attn_out", "resid_mid", "post", "mlp_out",
    "resid_post",
)  # fmt: skip
"""Every kind of activation, in the order in which a forward pass comes to them."""
INPUTS = ("resid_pre", "z", "post")
"""Kinds that enter their module; all others leave it."""

_USUAL = {
    "embed": "model.embed_tokens", "blocks": "model.layers", "resid_pre": "", "resid_post": "",
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "z": "self_attn.o_proj",
    "attn_out": "self_attn", "post": "mlp.down_proj", "mlp_out": "mlp",
}  # fmt: skip
_NORMED_AFTER = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
_NORMED_HEADS = {"q": "self_attn.q_norm", "k": "self_attn.k_norm"}
_NAMES: dict[str, dict[str, str]] = {
    "GemmaForCausalLM": _USUAL,
    "Gemma2ForCausalLM": _USUAL | _NORMED_AFTER,
    "Gemma3ForCausalLM": _USUAL | _NORMED_AFTER | _NORMED_HEADS,
    "LlamaForCausalLM": _USUAL,
    "MistralForCausalLM": _USUAL,
    "Qwen2ForCausalLM": _USUAL,
    "Qwen3ForCausalLM": _USUAL | _NORMED_HEADS,
    "Phi3ForCausalLM": _USUAL | dict.fromkeys("qkv", "self_attn.qkv_proj"),
    "GPT2LMHeadModel": dict.fromkeys("qkv", "attn.c_attn") | {
        "embed": "transformer.wte", "blocks": "transformer.h", "resid_pre": "", "resid_post": "",
        "z": "attn.c_proj", "attn_out": "attn", "post": "mlp.c_proj", "mlp_out": "mlp",
    },
    "GPTNeoXForCausalLM": dict.fromkeys("qkv", "attention.query_key_value") | {
        "embed": "gpt_neox.embed_in", "blocks": "gpt_neox.layers", "resid_pre": "", "resid_post": "",
        "z": "attention.dense", "attn_out": "attention", "post": "mlp.dense_4h_to_h", "mlp_out": "mlp",
    },
    "Olmo2ForCausalLM": _USUAL | _NORMED_AFTER | _NORMED_HEADS,
}  # fmt: skip


def parallel(hf: Any) -> bool:
    """Whether attention and MLP read the same residual, so that there is no resid_mid."""
    return bool(getattr(hf.config, "use_parallel_residual", False))


def module(hf: Any, kind: str, layer: int) -> Any:
    """The module that `kind` enters or leaves."""
    names = _NAMES[type(hf).__name__]
    if kind == "embed":
        return hf.get_submodule(names["embed"])
    return hf.get_submodule(names["blocks"])[layer].get_submodule(names[kind])


def view(hf: Any, kind: str, given: Tensor) -> Tensor:
    """The activation [pos, …] within the batch of one that its module takes or gives; writing to it writes there."""
    heads, x = hf.config.num_attention_heads, given[0]
    match kind:
        case "q" | "k" | "v":
            return _projected(hf, kind, x, heads, getattr(hf.config, "num_key_value_heads", heads))
        case "pattern":
            return x.transpose(0, 1)  # from [head, query, key]
        case "z":
            return x.unflatten(-1, (heads, -1))
        case _:
            return x


def _projected(hf: Any, kind: str, x: Tensor, heads: int, kv_heads: int) -> Tensor:
    """Queries, keys or values [pos, head, d_head], which each architecture lays out in its own way."""
    which = "qkv".index(kind)
    sizes = (heads, kv_heads, kv_heads)
    match type(hf).__name__:
        case "GPTNeoXForCausalLM":  # [q|k|v] of the first head, then of the second, …
            return x.unflatten(-1, (heads, 3, -1))[:, :, which]
        case "Phi3ForCausalLM" | "GPT2LMHeadModel":  # all queries, all keys, all values
            return x.unflatten(-1, (sum(sizes), -1))[:, sum(sizes[:which]) : sum(sizes[: which + 1])]
        case "Gemma3ForCausalLM" if kind != "v":  # the norm is given [head, pos, d_head]
            return x.transpose(0, 1)
        case "Qwen3ForCausalLM" if kind != "v":
            return x
        case _:
            return x.unflatten(-1, (sizes[which], -1))


def w_o(hf: Any, layer: int) -> Tensor:
    """The output projection by head [head, d_head, d_model]; GPT-2 alone stores it input first."""
    weight = module(hf, "z", layer).weight
    inputs_first = weight if type(hf).__name__ == "GPT2LMHeadModel" else weight.T
    return inputs_first.unflatten(0, (hf.config.num_attention_heads, -1))


@contextmanager
def weights_through(hf: Any, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Attention weights [1, head, query, key] of some layers pass through a function before they mix the values.

    No hook reaches them: for a while the file that defines the model has another `eager_attention_forward`, which asks
    the one it stands for for its weights and mixes the values of each head's group itself.
    """
    file: Any = sys.modules[type(hf).__module__]
    own = file.eager_attention_forward

    def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **kwargs: Any) -> Any:
        mixed, weights = own(attention, query, key, value, *rest, **kwargs)
        if attention.layer_idx not in changes:
            return mixed, weights
        weights = changes[attention.layer_idx](weights)
        return (weights @ value.repeat_interleave(weights.shape[1] // value.shape[1], 1)).transpose(1, 2), weights

    file.eager_attention_forward = attend
    try:
        yield
    finally:
        file.eager_attention_forward = own
