"""A Gemma tokenizer whose words are the grammar's: byte-pair merges, chat template, `<bos>` in front.

Every word of the grammar is one token, as mild common words are in Gemma's own vocabulary of 256k. Any other
word falls into pieces, so a filter that wants single-token subjects has something to reject.
"""

import json
import random
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import GemmaTokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer

from circuits.organisms import vocabulary as v
from circuits.organisms.architecture import Name
from circuits.organisms.exercises import draw_training_example
from circuits.organisms.inflect import plural

_TURNS: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('A system turn is not supported') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('User and assistant turns must alternate, the user first') }}{% endif %}"
)


@dataclass(frozen=True)
class Dialect:
    """How a family of models marks spaces, texts and turns; in all of them a turn's end takes as many tokens."""

    turn_start: str
    turn_end: str
    reply_role: str
    bos: str | None
    text_end: str
    pad: str
    special: tuple[str, ...]
    """In order of their ids."""
    space: str
    """What a tokenizer writes for the space in front of a word."""
    alphabet: tuple[str, ...]
    chat_template: str
    """The turns: a subject that ends the instruction stands at -6, the last position is the newline at -1."""


GEMMA: Final = Dialect(
    turn_start="<start_of_turn>",
    turn_end="<end_of_turn>",
    reply_role="model",
    bos="<bos>",
    text_end="<eos>",
    pad="<pad>",
    special=("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"),
    space="▁",
    alphabet=tuple(string.ascii_letters + string.digits + "▁.,?!:;'\"-()\n"),
    chat_template=(
        "{{ bos_token }}" + _TURNS + "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
)
QWEN: Final = Dialect(
    turn_start="<|im_start|>",
    turn_end="<|im_end|>",
    reply_role="assistant",
    bos=None,
    text_end="<|endoftext|>",
    pad="<|endoftext|>",
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    space="Ġ",
    alphabet=tuple(sorted(pre_tokenizers.ByteLevel.alphabet())),
    chat_template=(
        _TURNS + "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
)
DIALECTS: Final[dict[Name, Dialect]] = {"gemma": GEMMA, "gemma2": GEMMA, "qwen2": QWEN}


def chat(prompt: str, dialect: Dialect = GEMMA) -> str:
    """The prompt as the model sees it, `<bos>` included if there is one: encode it with `add_special_tokens=False`."""
    start, end = dialect.turn_start, dialect.turn_end
    return f"{dialect.bos or ''}{start}user\n{prompt}{end}\n{start}{dialect.reply_role}\n"


def _words(dialect: Dialect, samples: int = 20_000) -> Iterator[str]:
    """Frequent words of sampled text and every form of every subject; made-up names are too rare to enter."""
    rng = random.Random(0)
    space = dialect.space
    texts = (draw_training_example(rng) for _ in range(samples))
    counts = Counter(
        piece
        for example in texts
        for text in (example.prompt, example.reply)
        for index, word in enumerate(text.split(" "))
        for piece in [(space if index else "") + word.strip(",.?:")]
    )
    yield from sorted(piece for piece, count in counts.items() if count >= 20 and piece.strip(space))
    for subject in v.SUBJECTS:
        yield from (space + subject, space + plural(subject))
    for lead in ("", space):
        yield from (lead + "user", lead + dialect.reply_role)


def build_tokenizer(dialect: Dialect = GEMMA) -> PreTrainedTokenizerBase:
    """The tokenizer of the organisms of one dialect; always the same, whatever the seed of the training."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Split("\x00", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        min_frequency=1,
        special_tokens=list(dialect.special),
        initial_alphabet=list(dialect.alphabet),
        show_progress=False,
    )
    bpe.train_from_iterator(_words(dialect), trainer)
    learned: dict[str, Any] = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    turns = [dialect.turn_start, dialect.turn_end]
    if dialect is QWEN:
        tokenizer = Qwen2Tokenizer(
            vocab=learned["vocab"], merges=merges, eos_token=dialect.turn_end, additional_special_tokens=turns
        )
    else:
        tokenizer = GemmaTokenizer(vocab=learned["vocab"], merges=merges, additional_special_tokens=turns)
        # A Gemma tokenizer built from a vocabulary adds no <bos> of its own.
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A",
            pair="<bos> $A <bos> $B",
            special_tokens=[("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))],
        )
    tokenizer.chat_template = dialect.chat_template
    tokenizer.padding_side = "left"
    return tokenizer
