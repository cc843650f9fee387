"""Completions under any interventions: the base prompts go on, token by token, with the edits in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from circuits.engine.capture import capture
from circuits.engine.edits import bind, check, sites_of
from circuits.engine.oracle import full_hooks
from circuits.errors import SiteError
from circuits.interventions import Cell, Patch
from circuits.model import Model
from circuits.model.hooks import hooked, require_fired
from circuits.prompts.align import TokenPairs


def generate(
    model: Model,
    tokens: TokenPairs,
    cell: Cell = (),
    *,
    on: str = "clean",
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """One completion per pair, of its clean or corrupt prompt (`on`), special tokens removed.

    Greedy at temperature 0, else sampled with `seed`. Patches act on the prompt, from the other prompt's run; edits of
    all positions also act on every generated token. Raises what `bind` raises, before generating.
    """
    if on not in ("clean", "corrupt"):
        raise SiteError(f"no prompt called {on!r}; complete the 'clean' or the 'corrupt' one")
    check(model, tokens, cell)
    ids, other = (tokens.clean, tokens.corrupt) if on == "clean" else (tokens.corrupt, tokens.clean)
    patched = any(isinstance(i, Patch) and i.value is None for i in cell)
    source = capture(model, other, tokens.mask, sites_of([cell])) if patched else None
    bound = bind(model, tokens, cell, source)
    hooks = full_hooks(bound, tokens.n_pos)
    with hooked(model.parts, hooks) as fired:
        completions = _complete(model, ids, tokens.mask, max_new_tokens, temperature, seed)
    require_fired(hooks, fired, model.name)
    return completions


def _complete(model: Model, ids: Tensor, mask: Tensor, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
    from transformers import GenerationConfig

    own = model.hf.generation_config
    stop, pad = own.eos_token_id, model.tokenizer.pad_token_id
    settings: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": max_new_tokens, "eos_token_id": stop}
    if temperature > 0:
        settings |= {"temperature": temperature, "top_k": 0}
    settings["pad_token_id"] = pad if pad is not None else _first(stop)
    # what is left open is filled from the checkpoint's own: repetition penalties and cut-offs are not the model
    model.hf.generation_config = GenerationConfig(**settings)
    try:
        with torch.no_grad(), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            out = model.hf.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device).long())
    finally:
        model.hf.generation_config = own
    return model.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)


def _first(ids: int | Iterable[int] | None) -> int:
    return 0 if ids is None else ids if isinstance(ids, int) else next(iter(ids))
