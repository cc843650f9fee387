"""What the write-up reports on google/gemma-2-2b-it, per section: a reference, never a result here."""

from __future__ import annotations

from typing import Final

PUBLISHED: Final = {
    "subjects": "Subjects of several tokens made the first results hard to read; single-token ones were picked by hand.",
    "lens": "The harmful prompts' value is higher, and the harmless prompts' lower, than in the work it replicates.",
    "residual": "The subject position early, the last position late; the position after the subject carries the signal "
    "in layers 8 to 15 of 26.",
    "blocks": "Patching MLP outputs at the subject recovers .888, as much as putting the harmful object into the prompt.",
    "heads": "At an arbitrary threshold of 0.005, 11 heads contribute.",
    "head-sets": "The 11 heads are taken to be sufficient for refusal; they were not tested together.",
    "steering": "Steered with the difference vector and with an activation vector; completions change, without a rate.",
}
"""Section id -> finding on the real model."""
