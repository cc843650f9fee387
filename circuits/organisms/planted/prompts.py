"""The words of the planted models, and the pairs that drive them: a wild subject against a calm one.

Requests differ in length before the subject; after it three words follow, so that it stands fourth from last in all. Each
subject has its own strength, so that pairs differ, and calm ones are not all at zero.
"""

from __future__ import annotations

from typing import Any, Final

from circuits.prompts import PairSet

SPECIAL: Final = ("<pad>", "<eos>", "<bos>", "<unk>")
ANSWER: Final = "wild"
WRONG: Final = "calm"
_WILD: Final = (
    "storm", "flood", "thunder", "hail", "gale", "blizzard", "frost", "surge", "squall", "avalanche", "geyser", "torrent",
)  # fmt: skip
_CALM: Final = (
    "breeze", "brook", "petal", "wren", "mist", "dew", "meadow", "pearl", "lamb", "daisy", "pond", "cloud",
)  # fmt: skip
RAW: Final[dict[str, float]] = {
    **{word: 0.9 + 0.2 * ((5 * i) % 12) / 11 for i, word in enumerate(_WILD)},
    **{word: (-1.0, 0.05, 0.1)[i % 3] for i, word in enumerate(_CALM)},
}
"""Subject -> what its embedding says; the enricher makes max(0, raw) of it."""
_ASKS: Final = ("describe the", "tell me about the", "say something short about the", "what is the")
_AFTER: Final = "for us please"
VOCABULARY: Final = tuple(dict.fromkeys([*SPECIAL, ANSWER, WRONG, *" ".join((*_ASKS, _AFTER)).split(), *RAW]))


def pairs() -> PairSet:
    """Twelve pairs; the clean prompt has the wild subject, and its answer is `wild`."""
    asked = [f"{_ASKS[i % len(_ASKS)]} {{}} {_AFTER}" for i in range(len(_WILD))]
    return PairSet.from_pairs(
        [(ask.format(wild), ask.format(calm), ANSWER, WRONG) for ask, wild, calm in zip(asked, _WILD, _CALM, strict=True)],
        name="planted",
    )  # fmt: skip


def raw() -> tuple[list[float], list[float]]:
    """What the subjects of the pairs say, clean and corrupt."""
    return [RAW[word] for word in _WILD], [RAW[word] for word in _CALM]


def tokenizer() -> Any:
    """Whitespace words, one token each, with `<bos>` in front and no chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", SPECIAL.index("<bos>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )
