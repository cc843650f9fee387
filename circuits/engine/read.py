"""read(): what any activation is in a run under a cell's edits, by one whole forward pass.

    run = read(model, tokens, (Ablate(Site("resid_pre", 5), direction),), [Site("resid_pre", 9)], on="clean")
    run.seen[Site("resid_pre", 9)]        # [pair, pos, d_model], after the edit

A sweep answers with metrics alone; this is for questions about what happened on the way. The empty cell reads the
unedited run by the same computation, so that what an edit leaves alone is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import capture
from circuits.engine.edits import bind, check, sites_of
from circuits.engine.oracle import cell_logits
from circuits.engine.sound import require_one_device
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Cell, Patch
from circuits.model import Model
from circuits.model.hooks import Edit
from circuits.prompts.align import TokenPairs
from circuits.sites import Site

On = Literal["clean", "corrupt"]
"""Whose prompts are run."""


@final
@dataclass(frozen=True, eq=False)
class Reading:
    """A run under edits; fp32, on the CPU."""

    seen: dict[Site, Float[Tensor, "pair pos ..."]]
    """Whole sites (all heads), as the edits leave them, at the columns asked for; padding holds nothing of meaning."""
    logits: Float[Tensor, "pair d_vocab"]
    """What the Hugging Face forward gives at the last position, under the edits."""


def read(
    model: Model, tokens: TokenPairs, cell: Cell, sites: Iterable[Site], *,
    on: On = "clean", columns: Sequence[int] | None = None,
) -> Reading:  # fmt: skip
    """Run the clean or the corrupt prompts under a cell's edits and keep `sites`; a Patch takes the other prompts'.

    `columns` of the padded axis are kept, all of them where None (-1: the last token). Costs one forward pass, and one
    more where something is patched from the other run. Raises SiteError, before anything is run, for what does not
    exist; UndefinedError where the edits make the logits overflow.
    """
    check(model, tokens, cell)
    wanted = {site.whole for site in sites}
    for site in wanted:
        model.parts.locate(site)
    beyond = [c for c in columns or () if not -tokens.n_pos <= c < tokens.n_pos]
    if beyond:
        raise SiteError(f"column {beyond[0]} does not exist; these prompts have columns 0 to {tokens.n_pos - 1}")
    require_one_device(model)
    own, other = (tokens.clean, tokens.corrupt) if on == "clean" else (tokens.corrupt, tokens.clean)
    patched = any(isinstance(i, Patch) and i.value is None for i in cell)
    source = capture(model, other, tokens.mask, sites_of([cell])) if patched else None
    seen: dict[Site, Tensor] = {}
    chosen = slice(None) if columns is None else list(columns)

    def keep(site: Site) -> Edit:
        def look(activation: Tensor) -> None:
            seen[site] = activation[:, chosen].detach().float().cpu().clone()

        return look

    bound = bind(model, tokens, cell, source)
    ids, mask = own.to(model.device), tokens.mask.to(model.device)
    with torch.no_grad():
        logits = cell_logits(model, ids, mask, bound, {site: keep(site) for site in wanted}).float().cpu()
    if not logits.isfinite().all():
        what = ", ".join(i.site.label for i in cell) or "no edits"
        raise UndefinedError(f"{model.name}: the logits under {what} are not finite; use a smaller edit or a wider dtype")
    return Reading(seen, logits)
