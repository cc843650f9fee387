"""The engine runs any list of interventions exactly, as cheaply as causality allows.

Reading order: capture (one run, kept), edits and transform (what an intervention does to an activation), readout (metric
at the last position), window and replay (resume that run at a layer and position), single and several (cells of one
patch, and all others), sweep (a list of cells), audit (the certificate of a sweep, against the slow oracle), donors
(means and other prompts' activations), read (activations under a cell), stack and generate (completions under
interventions, many cells in one batch), logits (at every position of a text), edges (what one component reads of another:
paths patched, edges cut), gradients (of the metric, for screens).

Of prompts without partners: collect (the residual stream at the last position), contrast and held_out (differences of class
means, and projections on those of other prompts), partners (harmless prompts, otherwise paired), padded (forward passes padded
with less care), divergence (how far an edit moves the next token).
"""

from __future__ import annotations

from circuits.engine.baseline import baseline
from circuits.engine.capture import Run, capture
from circuits.engine.certificate import Certificate
from circuits.engine.donors import mean_activations, resampled_activations
from circuits.engine.generate import generate, generate_cells
from circuits.engine.read import Reading, read
from circuits.engine.sweep import Swept, sweep

__all__ = [
    "Certificate", "Reading", "Run", "Swept", "baseline", "capture", "generate", "generate_cells", "mean_activations", "read",
    "resampled_activations", "sweep",
]  # fmt: skip
