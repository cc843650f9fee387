"""Small tokenizers of every kind that alignment meets, built here so that no model is needed."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

GEMMA_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
WORDS = [
    "Write",
    "a",
    "manual",
    "on",
    "how",
    "to",
    "assemble",
    "bomb",
    "table",
    "Develop",
    "plan",
    "start",
    "gang",
    "business",
    "Create",
    "website",
    "for",
    "selling",
    "drugs",
    "clothes",
    "Explain",
    "build",
    "gun",
    "shed",
    "now",
    "user",
    "model",
    "apple",
    "axe",
    "an",
    "at",
    "home",
    "chair",
    "rifle",
]
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]


def _gemma(*, adds_bos: bool) -> Any:
    from transformers import GemmaTokenizer

    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # One text per word: merges stay within it.
    bpe.pre_tokenizer = pre_tokenizers.Split("\x00", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        show_progress=False,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=list(string.ascii_letters + string.digits + "▁.,?\n"),
    )
    bpe.train_from_iterator(["▁" + word for word in WORDS] + WORDS, trainer)
    learned = json.loads(bpe.to_str())["model"]
    tokenizer = GemmaTokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
    )
    if adds_bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
        )
    tokenizer.chat_template = GEMMA_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session", params=[True, False], ids=["adds-bos", "adds-no-bos"])
def any_gemma(request: pytest.FixtureRequest) -> Any:
    """Gemma's kind of vocabulary and its chat template, with and without a `<bos>` of its own."""
    return _gemma(adds_bos=request.param)


@pytest.fixture
def gemma() -> Any:
    """The one that adds `<bos>`; fresh, so that a test may change its template."""
    return _gemma(adds_bos=True)


@pytest.fixture
def words() -> Any:
    """Whitespace words with `<unk>`; no bos, no pad, no chat template."""
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", *WORDS])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.fixture
def byte_level() -> Any:
    """GPT-2's kind: byte-level merges, `<|endoftext|>` as bos that it does not add."""
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=1,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator([" " + word for word in WORDS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


class WithoutOffsets:
    """A tokenizer as slow ones are: the same ids, and no offsets to ask for."""

    is_fast = False

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, text: str, **options: Any) -> Any:
        assert "return_offsets_mapping" not in options
        return self._inner(text, **options)


@pytest.fixture
def slow() -> type[WithoutOffsets]:
    """Wraps a fast tokenizer into one without offsets."""
    return WithoutOffsets
