"""Where the Hugging Face classes keep each activation, by module names written down by hand, and how it is reached."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]

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


def heads(hf: Any, kind: str) -> int:
    """How many heads an activation has: key and value heads for those; 0 for one without heads."""
    if kind not in ("q", "k", "v", "pattern", "z", "result"):
        return 0
    n = hf.config.num_attention_heads
    return getattr(hf.config, "num_key_value_heads", n) if kind in ("k", "v") else n


def view(hf: Any, kind: str, given: Tensor) -> Tensor:
    """The activation [row, pos, …] within what its module takes or gives; writing to it writes there."""
    match kind:
        case "q" | "k" | "v":
            return _projected(hf, kind, given)
        case "pattern":
            return given.transpose(1, 2)  # from [row, head, query, key]
        case "z":
            return given.unflatten(-1, (heads(hf, kind), -1))
        case _:
            return given


def _projected(hf: Any, kind: str, given: Tensor) -> Tensor:
    """Queries, keys or values [row, pos, head, d_head], which each architecture lays out in its own way."""
    which, sizes = "qkv".index(kind), [heads(hf, kind) for kind in "qkv"]
    match type(hf).__name__:
        case "GPTNeoXForCausalLM":  # [q|k|v] of the first head, then of the second, …
            return given.unflatten(-1, (sizes[0], 3, -1))[:, :, :, which]
        case "Phi3ForCausalLM" | "GPT2LMHeadModel":  # all queries, all keys, all values
            return given.unflatten(-1, (sum(sizes), -1))[:, :, sum(sizes[:which]) : sum(sizes[: which + 1])]
        case "Gemma3ForCausalLM" if kind != "v":  # the norm is given [row, head, pos, d_head]
            return given.transpose(1, 2)
        case "Qwen3ForCausalLM" if kind != "v":
            return given
        case _:
            return given.unflatten(-1, (sizes[which], -1))


def w_o(hf: Any, layer: int) -> Tensor:
    """The output projection by head [head, d_head, d_model]; GPT-2 alone stores it input first."""
    weight = module(hf, "z", layer).weight
    inputs_first = weight if type(hf).__name__ == "GPT2LMHeadModel" else weight.T
    return inputs_first.unflatten(0, (heads(hf, "z"), -1))


def hooks(hf: Any, kind: str, layer: int, act: Change) -> list[Any]:
    """Install what shows an activation [row, pos, …] to `act` and puts what it returns in its place."""
    match kind:
        case "pattern":
            return []  # not reached by hooks
        case "result":
            return [_result(hf, layer, act)]
        case "resid_mid":
            return _resid_mid(hf, layer, act)
        case _ if kind in INPUTS:
            return [_on_input(module(hf, kind, layer), viewed(hf, kind, act))]
        case _:
            return [_on_output(module(hf, kind, layer), viewed(hf, kind, act))]


def viewed(hf: Any, kind: str, act: Change) -> Change:
    """A module's tensor with the activation in it replaced, and whatever else it holds left as it is."""

    def change(given: Tensor) -> Tensor:
        new = given.clone()
        activation = view(hf, kind, new)
        activation.copy_(act(activation))
        return new

    return change


def _on_input(entered: Any, change: Change) -> Any:
    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return entered.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(left: Any, change: Change) -> Any:
    def hook(_: Any, __: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return left.register_forward_hook(hook)


def _result(hf: Any, layer: int, act: Change) -> Any:
    """Head h writes z_h W_O^h; what changes in it is added to what the projection gives."""
    matrices = w_o(hf, layer)

    def hook(_: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
        z = view(hf, "z", args[0])
        written = torch.stack([z[:, :, h] @ matrix for h, matrix in enumerate(matrices)], 2)
        return output + (act(written) - written).sum(2)

    return module(hf, "z", layer).register_forward_hook(hook)


def _resid_mid(hf: Any, layer: int, act: Change) -> list[Any]:
    """mid = pre + attn_out has no module of its own: attention adds what makes it the one wanted."""
    if parallel(hf):
        raise ValueError("attention and MLP are parallel: there is no resid_mid")
    pre: list[Tensor] = []

    def remember(x: Tensor) -> Tensor:
        pre[:] = [x]
        return x

    def add(attn_out: Tensor) -> Tensor:
        return act(pre[0] + attn_out) - pre[0]

    return [
        _on_input(module(hf, "resid_pre", layer), remember),
        _on_output(module(hf, "attn_out", layer), add),
    ]


@contextmanager
def weights_through(hf: Any, changes: Mapping[int, Change]) -> Iterator[None]:
    """Attention weights [row, head, query, key] of some layers pass through a function before they mix the values.

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
