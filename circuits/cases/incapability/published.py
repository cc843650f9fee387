"""What the write-up reports on Qwen-1.8B-Chat, per section: a reference, never a result here."""

from __future__ import annotations

from typing import Final

_FEATURES: Final = "Tried with SAELens and left out: the authors did not get it to work."
PUBLISHED: Final = {
    "angles": "About 75° apart in early layers and 50° in late ones; angles only, without a null.",
    "classes": "The three classes are muddled early and separate at layers 10 to 14.",
    "pca": "The refusal direction lies close to the plane of the first two components in later layers, the incapability "
    "direction "
    "does not.",
    "choice-refusal": "Layer 14, as given in a published notebook.",
    "choice-incapability": "Chosen by reading completions.",
    "steering-incapable": "Ablated with coefficient 1.5, the model answers instead of saying that it cannot; by example.",
    "steering-harmful": "Ablating the refusal direction makes it answer; by example.",
    "words": "Capability words become more likely; 'sorry' and 'impossible' less; 'cannot', 'unable' more, for "
    "incapability above "
    "all.",
    "features": _FEATURES,
    "features-harmful": _FEATURES,
    "features-incapable": _FEATURES,
    "attention": "Tried; no interpretable heads.",
}
"""Section id -> finding on the real model."""
