"""What the write-up reports on google/gemma-2b-it, per section: shown in grey as a reference, never as a result here."""

from __future__ import annotations

from typing import Final

PUBLISHED: Final = {
    "behaviour": "gemma-2b-it refuses all three harmful instructions and accepts the harmless ones; with the direction "
    "ablated it accepts both. Metric: about 25 on harmful, about 18 on harmless instructions.",
    "direction": "One direction, ablated at all layers and positions, removes refusal.",
    "component": "Equal for harmful and harmless up to layer 3; the gap grows from layer 3 to 12 and then stays.",
    "written": "MLPs of layers 6–12 write most of it; the attention of layers 8, 11 and 12 takes some away.",
    "residual": "Up to about layer 6 only the subject position matters, after layer 12 only the last; the hand-over lies "
    "between.",
    "groups": "Necessary (≥ 50 % under noising): early MLPs at the subject; middle attention and MLPs at the last position; "
    "late MLPs at the last position. Early and late attention are not.",
    "blocks": "Single blocks have little effect: refusal is computed densely and repairs itself.",
    "attention": "Of the 48 heads of layers 6–12, 8 are direct and 5 diagonal at a threshold of 0.2; many attend to <bos>.",
    "head-sets": "Direct heads: noising them recovers 90 % of the corrupt metric, denoising them 70 %; denoising direct and "
    "diagonal heads together has little effect.",
}
"""Section id -> finding on the real model."""
