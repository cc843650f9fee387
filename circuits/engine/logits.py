"""Logits at every position under a cell, and what the unedited model says next: for questions about whole texts.

    text = continued(model, prompts, max_new_tokens=32)        # InstructionTokens: each prompt and its greedy continuation
    logits_under(model, text.beside_themselves(), cell, rows=slice(0, 8))

A sweep reads the last position alone, which is what makes it cheap; nothing here is resumed.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.batches import free_memory
from circuits.engine.edits import Bound, bind, check
from circuits.engine.generate import reply, until_end
from circuits.engine.oracle import full_hooks
from circuits.engine.sound import require_one_device
from circuits.engine.transform import of_pair, parameters
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Cell
from circuits.model import Model
from circuits.model.hooks import hooked, require_fired
from circuits.prompts.align import TokenPairs
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.tokenizer import pieces

_COPIES: Final = 6
"""Tensors of the logits' size that live at once: the model's own, fp32, an unedited one beside it, its log-softmax."""


def room_for_logits(model: Model) -> int:
    """Bytes that logits may take: a quarter of what is free, and on a CPU at most 1 GiB."""
    free = free_memory(model.device) // 4
    return free if model.device.type == "cuda" else min(free, 2**30)


def rows_with_logits(model: Model, n_pos: int, max_memory: int | None = None) -> int:
    """Prompts whose logits at all positions fit into `max_memory` bytes, or else into the room there is; at least one."""
    return max(1, (max_memory or room_for_logits(model)) // (_COPIES * 4 * n_pos * model.shape.d_vocab))


def logits_under(
    model: Model, tokens: TokenPairs, cell: Cell = (), *, rows: slice | None = None, max_memory: int | None = None
) -> Float[Tensor, "pair pos d_vocab"]:
    """Logits of the clean prompts at every position under a cell's edits, fp32, on the model's device.

    `rows` are run and given, all where None. What stands at padding has no meaning. For edits that bring their own values:
    there is no other run to patch from. Raises SiteError before anything is run, UndefinedError where logits overflow.
    """
    check(model, tokens, cell)
    bound = bind(model, tokens, cell, None)
    require_one_device(model)
    first, stop, _ = (rows or slice(None)).indices(tokens.n_pairs)
    if first >= stop:
        raise SiteError(f"no pair between {first} and {stop}; there are {tokens.n_pairs}")
    step = rows_with_logits(model, tokens.n_pos, max_memory)
    parts: list[Tensor] = []
    for start in range(first, stop, step):
        here = slice(start, min(stop, start + step))
        hooks = full_hooks(tuple(_of_rows(b, here) for b in bound), tokens.n_pos)
        with hooked(model.parts, hooks) as fired:
            logits = model.logits(tokens.clean[here], tokens.mask[here]).float()
        require_fired(hooks, fired, model.name)
        if not logits[tokens.mask[here].to(logits.device)].isfinite().all():
            what = ", ".join(i.site.label for i in cell) or "no edits"
            raise UndefinedError(
                f"{model.name}: logits under {what} are not finite; use a smaller edit or a wider dtype"
            )
        parts.append(logits)
    return torch.cat(parts)


def _of_rows(b: Bound, rows: slice) -> Bound:
    """A bound edit for some of the pairs: whatever is one per pair is cut to theirs."""
    of_one = parameters(of_pair(b.intervention, 0))
    edit = copy(b.intervention)
    for name, t in parameters(b.intervention).items():
        if t.ndim > of_one[name].ndim:
            object.__setattr__(edit, name, t[rows])
    keys, value = (None if t is None else t[rows] for t in (b.keys, b.value))
    return replace(b, intervention=edit, mask=b.mask[rows], keys=keys, value=value)


def continued(model: Model, prompts: InstructionTokens, *, max_new_tokens: int) -> InstructionTokens:
    """Each prompt with the unedited model's greedy continuation, as one text; left-padded again.

    The token that ends a continuation is part of it. `instruction` stays true on the instruction's tokens alone.
    """
    said = reply(model, prompts.ids, prompts.mask, max_new_tokens=max_new_tokens).cpu()
    real = until_end(model, said)
    return _joined(model, prompts, said, real)


def _joined(
    model: Model, prompts: InstructionTokens, said: Tensor, real: Bool[Tensor, "prompt pos"]
) -> InstructionTokens:
    """Prompts and continuations side by side, every row moved to the right until its last real token is the last."""
    ids, mask = torch.cat([prompts.ids, said], 1), torch.cat([prompts.mask, real], 1)
    instruction = torch.cat([prompts.instruction, torch.zeros_like(real)], 1)
    order = mask.long().argsort(dim=1, stable=True)  # padding first, the rest as it stands
    keep = int(mask.sum(1).max())
    ids, mask, instruction = (t.gather(1, order)[:, -keep:] for t in (ids, mask, instruction))
    ids = ids * mask  # masked: any id the embedding has will do
    rows = zip(ids.tolist(), mask.sum(1).tolist(), strict=True)
    text = tuple(("",) * (keep - n) + pieces(model.tokenizer, row[keep - n :]) for row, n in rows)
    return InstructionTokens(prompts.instructions, ids, mask, instruction, text)
