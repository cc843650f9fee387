"""What no module's input or output shows: the attention weights, and each head's own product with W_O.

Hugging Face models look their attention function up by name. Under the name `ATTENTION` they find the eager function
of their own file; where an edit is installed, the weights it gives are edited and the values mixed once more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

ATTENTION: Final = "circuits_eager"
"""The attention implementation that a loaded model is set to."""
Edit = Callable[[Float[Tensor, "row pos ..."]], Float[Tensor, "row pos ..."] | None]

_EDITS: Final[dict[nn.Module, Edit]] = {}
"""Attention module -> what edits its weights now; filled by `edited`, emptied by what it returns."""


def edited(module: nn.Module, edit: Edit) -> Callable[[], None]:
    """Show the attention weights of a module to `edit`, as [row, pos, head, key], until the returned call."""
    outer = _EDITS.get(module)
    _EDITS[module] = edit if outer is None else _after(outer, edit)

    def remove() -> None:
        if outer is None:
            _EDITS.pop(module, None)
        else:
            _EDITS[module] = outer

    return remove


def _after(outer: Edit, inner: Edit) -> Edit:
    def both(pattern: Tensor) -> Tensor | None:
        first = outer(pattern)
        second = inner(pattern if first is None else first)
        return first if second is None else second

    return both


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    own = sys.modules[type(module).__module__].eager_attention_forward
    mixed, pattern = own(module, query, key, value, attention_mask, **kwargs)
    edit = _EDITS.get(module)
    new = None if edit is None else edit(pattern.transpose(1, 2))
    if new is None:
        return mixed, pattern
    pattern = new.transpose(1, 2)
    values = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return torch.matmul(pattern, values).transpose(1, 2).contiguous(), pattern


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)


def head_products(
    projection: nn.Module, z: Float[Tensor, "row pos head d_head"]
) -> Float[Tensor, "row pos head d_model"]:
    """z_h W_O^h of every head, without the bias: they add up to the projection's output."""
    weight: Any = projection.weight
    w_o = weight if type(projection).__name__ == "Conv1D" else weight.T  # GPT-2 keeps its matrices the other way round
    return torch.einsum("rphd,hdm->rphm", z, w_o.unflatten(0, (z.shape[2], -1)))
