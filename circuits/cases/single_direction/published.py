"""What the write-up reports on Qwen-1.8B-Chat, per section: a reference, never a result here."""

from __future__ import annotations

from typing import Final

PUBLISHED: Final = {
    "padding": "Directions from batched and from sequential extraction have cosines of .69 to .99: lowest in layers 7 to 10, "
    "above .99 from layer 15. Padding and batching were not told apart.",
    "separation": "Cohen's d shows little separation in layers 1 to 10 and strong separation in mid-late layers; in sample.",
    "consistency": "Directions of mid-late layers form one block of high cosines.",
    "sets": "Randomised pairing lowers compliance and coherence a little: .896 / .948 at layer 14. (Shuffling the pairs of the "
    "same two sets cannot change a difference of means: their harmless prompts were others.)",
    "sweep": "Best: layer 15, α .75 (compliance .912, coherence .956); layers 14 to 16, α .75 to 1 throughout; a sharp drop "
    "beyond α 1.5.",
    "weights": "Attention and MLP output matrices orthogonalised, the model saved and evaluated; equality with the run-time "
    "edit not shown.",
    "cost": "Average of seven benchmarks: .518 before, .504 to .515 after.",
    "tasks": "Average of seven benchmarks: .518 before, .504 to .515 after.",
}
"""Section id -> finding on the real model."""
