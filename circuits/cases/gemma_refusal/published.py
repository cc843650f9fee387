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
    "spoken": "With the direct heads noised the model answers the harmful instructions; with them denoised it refuses one of "
    "the three harmless ones.",
    "head-writes": "Direct heads write significantly more along the direction than all other heads do; along a random "
    "direction there is no significant difference.",
    "ov": "Left open: which earlier components the direct heads read.",
    "transfer": "On a diverse set of instructions the direct heads move the metric as on the pairs, but the refusal rate does "
    "not change.",
    "lens": "The metric read off the residual stream is high from early on for both kinds of prompt, which misleads; the "
    "difference grows after layer 12.",
    "unembedding": "The largest cosine with any token's unembedding is about 0.06: the direction is not unembedded.",
    "null-space": "About 10 % of the direction's norm lies in the 20 smallest singular directions of the unembedding, as of a "
    "random direction's.",
    "attribution": "Attention writes much of the difference in the metric; the MLP of layer 14 takes some away.",
    "clamping": "Clamped at layer 10 from 0 to 12, the metric rises linearly; completions are clear refusals from about 6. "
    "Harmless instructions lie near 4, harmful ones near 11.",
    "self-repair": "Ablated earlier, more of the component is there again at later layers; ablated entering layer 5 it comes "
    "back almost fully.",
}
"""Section id -> finding on the real model."""
