"""Activations of an autoencoder's site, with its features and what they leave over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine import read
from circuits.engine.read import On
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.token_pairs import TokenPairs
from circuits.sae.handle import Sae

_BATCH = 64
"""Prompts per forward pass."""
Where = Literal["last", "all"]
"""The last column alone, or every column of the padded axis."""


@final
@dataclass(frozen=True, eq=False)
class Acts:
    """What a run had at the site, on the CPU; at padding, numbers without meaning."""

    act: Float[Tensor, "prompt pos ..."]
    features: Float[Tensor, "prompt pos feature"]
    error: Float[Tensor, "prompt pos ..."]


def site_acts(model: Model, tokens: TokenPairs, sae: Sae, *, on: On, positions: Where = "all") -> Acts:
    """The clean or the corrupt prompts' (`on`). One forward pass."""
    columns = [-1] if positions == "last" else None
    return _encoded(sae, read(model, tokens, (), [sae.site], on=on, columns=columns).seen[sae.site])


def prompt_batches(
    model: Model, prompts: InstructionTokens, sae: Sae, *, positions: Where = "all"
) -> Iterator[tuple[range, Acts]]:
    """Of prompts without partners, some at a time: which ones, and what they have."""
    n = len(prompts.ids)
    for start in range(0, n, _BATCH):
        rows = range(start, min(start + _BATCH, n))
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[list(rows)] = True
        tokens = prompts.only(chosen).beside_themselves()
        yield rows, site_acts(model, tokens, sae, on="clean", positions=positions)


def prompt_acts(model: Model, prompts: InstructionTokens, sae: Sae, *, positions: Where = "all") -> Acts:
    """Of prompts without partners, all together."""
    found = [acts for _, acts in prompt_batches(model, prompts, sae, positions=positions)]
    return Acts(*(torch.cat(parts) for parts in zip(*((a.act, a.features, a.error) for a in found), strict=True)))


def _encoded(sae: Sae, act: Float[Tensor, "prompt pos ..."]) -> Acts:
    features = sae.encode(act)
    return Acts(act=act, features=features, error=act - sae.decode(features, like=act))
