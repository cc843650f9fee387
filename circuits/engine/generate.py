"""Completions under any interventions: the base prompts go on, token by token, with the edits in place.

Prompts are one left-padded batch with cached keys and values; several cells share the batch too, a block of rows each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.engine.capture import Run, capture
from circuits.engine.edits import bind, check, sites_of
from circuits.engine.kept import recall_text
from circuits.engine.oracle import full_hooks
from circuits.engine.stack import stacked
from circuits.errors import SiteError
from circuits.interventions import Cell, Patch
from circuits.model import Model
from circuits.model.hooks import hooked, require_fired
from circuits.prompts.align import TokenPairs

ROWS: Final = 512
"""Prompts, over all cells, that go on together."""


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
    return _generate(model, tokens, [cell], on, max_new_tokens, temperature, seed)[0]


def generate_cells(
    model: Model, tokens: TokenPairs, cells: Sequence[Cell], *, on: str = "clean", max_new_tokens: int = 32,
    rows: int = ROWS,
) -> list[list[str]]:  # fmt: skip
    """For every cell what `generate` gives, greedily; as many cells share a batch as `rows` prompts hold.

    Rounding differs with the batch, as in any batched model: two tokens that tie to the last digit may change places.
    """
    for cell in cells:
        check(model, tokens, cell)
    at_once = max(1, rows // tokens.n_pairs)
    return [
        completions
        for start in range(0, len(cells), at_once)
        for completions in _generate(model, tokens, cells[start : start + at_once], on, max_new_tokens, 0.0, 0)
    ]


def _generate(
    model: Model, tokens: TokenPairs, cells: Sequence[Cell], on: str, max_new_tokens: int, temperature: float, seed: int
) -> list[list[str]]:
    if on not in ("clean", "corrupt"):
        raise SiteError(f"no prompt called {on!r}; complete the 'clean' or the 'corrupt' one")
    for cell in cells:
        check(model, tokens, cell)
    asked = (model, ends(model), tokens, list(cells), on, max_new_tokens, temperature, seed)
    said = recall_text("completions", asked, lambda: _completed(model, tokens, cells, on, max_new_tokens, temperature, seed))
    n = tokens.n_pairs
    return [said[k * n : (k + 1) * n] for k in range(len(cells))]


def _completed(
    model: Model, tokens: TokenPairs, cells: Sequence[Cell], on: str, max_new_tokens: int, temperature: float, seed: int
) -> list[str]:
    """The completions of every cell, one cell after the other."""
    ids, other = (tokens.clean, tokens.corrupt) if on == "clean" else (tokens.corrupt, tokens.clean)
    source: Run | None = None
    if any(isinstance(i, Patch) and i.value is None for cell in cells for i in cell):
        source = capture(model, other, tokens.mask, sites_of(list(cells)))
    bound = [bind(model, tokens, cell, source) for cell in cells]
    hooks = full_hooks(bound[0] if len(cells) == 1 else stacked(bound, tokens.n_pairs), tokens.n_pos)
    rows, mask = ids.repeat(len(cells), 1), tokens.mask.repeat(len(cells), 1)
    with hooked(model.parts, hooks) as fired:
        said = reply(model, rows, mask, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    require_fired(hooks, fired, model.name)
    return model.tokenizer.batch_decode(said, skip_special_tokens=True)


def reply(
    model: Model, ids: Int[Tensor, "row pos"], mask: Bool[Tensor, "row pos"], *, max_new_tokens: int,
    temperature: float = 0.0, seed: int = 0,
) -> Int[Tensor, "row new"]:  # fmt: skip
    """The tokens that follow left-padded prompts, as the model is now; after a reply's end they mean nothing.

    As many as the longest reply has, at most `max_new_tokens`.
    """
    from transformers import GenerationConfig

    own = model.hf.generation_config
    pad = model.tokenizer.pad_token_id
    settings: dict[str, Any] = {
        "do_sample": temperature > 0, "max_new_tokens": max_new_tokens, "eos_token_id": own.eos_token_id,
        "pad_token_id": pad if pad is not None else (ends(model) or (0,))[0],
    }  # fmt: skip
    if temperature > 0:
        settings |= {"temperature": temperature, "top_k": 0}
    # what is left open is filled from the checkpoint's own: repetition penalties and cut-offs are not the model
    model.hf.generation_config = GenerationConfig(**settings)
    try:
        with torch.no_grad(), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            out = model.hf.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device).long())
    finally:
        model.hf.generation_config = own
    return out[:, ids.shape[1] :]


def ends(model: Model) -> tuple[int, ...]:
    """The tokens that end a reply."""
    found: int | Iterable[int] | None = model.hf.generation_config.eos_token_id
    return () if found is None else (found,) if isinstance(found, int) else tuple(found)


def until_end(model: Model, said: Int[Tensor, "row new"]) -> Bool[Tensor, "row new"]:
    """Which tokens of a reply belong to it: up to the one that ends it, included."""
    is_end = torch.isin(said, torch.tensor(ends(model), dtype=said.dtype, device=said.device)).long()
    return (is_end.cumsum(1) - is_end) == 0
