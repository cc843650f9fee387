"""The norms of the Hugging Face classes, written out as their formulas: nothing here calls them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NORMED_AFTER = ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Olmo2ForCausalLM")


def apply(norm: Any, x: Tensor, at: Tensor | None = None, *, bias: bool = True) -> Tensor:
    """norm(x) in double precision, at the scale of `at` where that is given; without the bias on request."""
    x, at, weight = x.double(), (x if at is None else at).double(), norm.weight.detach().double()
    if type(norm).__name__ == "LayerNorm":
        scale = torch.sqrt(at.var(unbiased=False) + norm.eps)
        return (x - x.mean()) / scale * weight + (norm.bias.detach().double() if bias else 0)
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    gain = weight + ("Gemma" in type(norm).__name__)
    return x / torch.sqrt((at * at).mean() + eps) * gain


def final(hf: Any) -> Any:
    """The norm before the unembedding."""
    inner = hf.base_model
    return next(getattr(inner, name) for name in ("norm", "ln_f", "final_layer_norm") if hasattr(inner, name))


def after_attention(hf: Any, layer: int) -> Any | None:
    """The norm between an attention's output and the residual stream, where there is one."""
    return hf.base_model.layers[layer].post_attention_layernorm if type(hf).__name__ in _NORMED_AFTER else None


def pulled(hf: Any, target: int, other: int | None = None) -> Tensor:
    """A logit difference's direction, or a logit's against the mean of all others."""
    w = hf.get_output_embeddings().weight.detach().double()
    others = torch.arange(len(w)) != target
    return w[target] - (w[others].mean(0) if other is None else w[other])
