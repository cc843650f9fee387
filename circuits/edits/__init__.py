"""Edits that stay: a cell kept as a small folder, and the same edits in the weights of a model in memory.

    save_edits("no-refusal", ablate_everywhere(v, range(n_layers)), model=model)
    edits = load_edits("no-refusal", model)
    sweep(model, tokens, metric, [edits.cell]); generate(model, tokens, edits.cell)      # at run time
    load("refusal-gemma", edits="no-refusal"); orthogonalised(model, v)                 # in the weights, in memory

A folder holds directions and what to do with them, never weights: no edited checkpoint is ever written.
"""

from __future__ import annotations

from circuits.edits.load import Edits, load_edits
from circuits.edits.save import save_edits
from circuits.model.orthogonal import orthogonalised

__all__ = ["Edits", "load_edits", "orthogonalised", "save_edits"]
