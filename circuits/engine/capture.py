"""One forward pass, kept: the residual stream entering every block, the keys and values, and the sites asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from circuits.engine.sound import require_finite, require_one_device
from circuits.errors import ModelError
from circuits.model import Model
from circuits.model.hooks import Edit, hooked, recorded
from circuits.model.model import position_ids
from circuits.sites import Site

KeysValues = tuple[Float[Tensor, "pair kv_head pos d_head"], Float[Tensor, "pair kv_head pos d_head"]]


@final
@dataclass(frozen=True, eq=False)
class Run:
    """A run of the model on left-padded prompts; what a replay needs to resume it anywhere."""

    tokens: Int[Tensor, "pair pos"]
    mask: Bool[Tensor, "pair pos"]
    resid: tuple[Float[Tensor, "pair pos d_model"], ...]
    """Entering block 0, 1, …, and last the final residual (before the final norm): n_layers + 1 of them."""
    calls: tuple[dict[str, Any], ...]
    """The keyword arguments each block was called with: mask, positions, rotary embeddings."""
    kv: tuple[KeysValues, ...]
    """Keys (rotated) and values of every block, none cut to a sliding window; empty where only patched from."""
    seen: dict[Site, Float[Tensor, ...]]
    """Activations of the sites asked for, whole: [pair, pos, …], heads apart."""
    last_logits: Float[Tensor, "pair d_vocab"]
    """What the Hugging Face forward gives at the last position; of a run that is only patched from, empty as well."""


def capture(
    model: Model, tokens: Int[Tensor, "pair pos"], mask: Bool[Tensor, "pair pos"], sites: Iterable[Site] = ()
) -> Run:
    """Run the model once and keep what later steps resume from. Sites are kept whole (all heads)."""
    require_one_device(model)
    tokens, mask = tokens.to(model.device), mask.to(model.device)
    seen: dict[Site, Tensor] = {}

    def keep(site: Site) -> Edit:
        def read(activation: Tensor) -> None:
            seen[site] = activation.detach()

        return read

    wanted = {site.whole: keep(site.whole) for site in sites}
    cache = DynamicCache()  # without a config nothing is cut to a sliding window
    with (
        torch.no_grad(),
        recorded(model.parts) as calls,
        hooked(model.parts, wanted),
    ):
        logits = model.hf(
            input_ids=tokens, attention_mask=mask.long(), position_ids=position_ids(mask),
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        ).logits  # fmt: skip
    resid = tuple(call.pop("hidden_states") for call in calls)
    calls.pop()
    require_finite(model, resid, tokens, mask)
    for call in calls:
        if call.get("attention_mask") is None:
            raise ModelError(f"{model.name}: blocks are not given an attention mask; load it with eager attention")
        call.pop(model.parts.blocks[0].cache_name, None)
    return Run(
        tokens=tokens, mask=mask, resid=resid, calls=tuple(_shared(call) for call in calls),
        kv=tuple(_keys_values(layer) for layer in cache.layers), seen=seen, last_logits=logits[:, -1],
    )  # fmt: skip


def _keys_values(layer: Any) -> KeysValues:
    return layer.keys, layer.values


def embedded(
    model: Model, mask: Bool[Tensor, "row pos"], tokens: Int[Tensor, "row pos"], edit: Edit | None = None
) -> Float[Tensor, "row pos d_model"]:
    """The residual entering block 0, with the embedding edited or read: the model is left as soon as it is known."""
    edits = {} if edit is None else {Site("embed"): edit}
    with torch.no_grad(), hooked(model.parts, edits), recorded(model.parts, stop=True) as calls:
        model.hf(input_ids=tokens, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False)
    return calls[0]["hidden_states"]


def _shared(call: dict[str, Any]) -> dict[str, Any]:
    """Arguments that are the same for all pairs are kept once and broadcast."""

    def one(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(one(item) for item in value)  # type: ignore[reportUnknownVariableType]
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] > 1 and bool((value == value[:1]).all()):
            return value[:1]
        return value

    return {name: one(value) for name, value in call.items()}
