"""The residual stream at the last position of many prompts, entering every block: what directions are made of."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import capture
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens

_BATCH = 64
"""Prompts per forward pass: long enough to be efficient, short enough for any memory."""


def last_residuals(model: Model, prompts: InstructionTokens) -> Float[Tensor, "prompt layer d_model"]:
    """The residual entering every block at the last position, in fp32 on the CPU.

    Padding is masked and positions are counted from each prompt's first token, so neither the batch nor the length of
    other prompts matters.
    """
    found: list[Tensor] = []
    for start in range(0, len(prompts.ids), _BATCH):
        rows = slice(start, start + _BATCH)
        run = capture(model, prompts.ids[rows], prompts.mask[rows])
        found.append(torch.stack([resid[:, -1].float().cpu() for resid in run.resid[:-1]], dim=1))
    return torch.cat(found)
