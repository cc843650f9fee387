"""Residuals of prompts under any mask and any positions: what careless batching does, to be measured."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.sound import require_finite, require_one_device
from circuits.model import Model
from circuits.model.hooks import recorded


def residuals_at(
    model: Model,
    ids: Int[Tensor, "prompt pos"],
    attended: Bool[Tensor, "prompt pos"],
    positions: Int[Tensor, "prompt pos"],
    at: Int[Tensor, " prompt"],
    *,
    batch: int = 64,
) -> Float[Tensor, "prompt layer d_model"]:
    """The residual entering every block at column `at` of each prompt, in fp32 on the CPU.

    `attended` and `positions` go to the model as they are: this is no way to run prompts, but to see what a way does.
    """
    require_one_device(model)
    found: list[Tensor] = []
    for start in range(0, len(ids), batch):
        rows = slice(start, start + batch)
        tokens, mask = ids[rows].to(model.device), attended[rows].to(model.device)
        with torch.no_grad(), recorded(model.parts) as calls:
            model.hf(
                input_ids=tokens, attention_mask=mask.long(), position_ids=positions[rows].to(model.device),
                use_cache=False, logits_to_keep=1,
            )  # fmt: skip
        resid = tuple(call["hidden_states"] for call in calls)
        require_finite(model, resid, tokens, mask)
        row = torch.arange(len(tokens), device=model.device)
        column = at[rows].to(model.device)
        found.append(torch.stack([x[row, column].float().cpu() for x in resid[:-1]], dim=1))
    return torch.cat(found)
