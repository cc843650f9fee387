"""A Gemma tokenizer whose words are the grammar's: byte-pair merges, chat template, `<bos>` in front.

Every word of the grammar is one token, as mild common words are in Gemma's own vocabulary of 256k. Any other
word falls into pieces, so a filter that wants single-token subjects has something to reject.
"""

import json
import random
import string
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import GemmaTokenizer

from circuits.organisms import vocabulary as v
from circuits.organisms.exercises import draw_training_example
from circuits.organisms.inflect import plural

TURN_START: Final = "<start_of_turn>"
TURN_END: Final = "<end_of_turn>"
SPECIAL: Final = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", TURN_START, TURN_END)
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('A system turn is not supported') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('User and assistant turns must alternate, the user first') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma's turns: a subject that ends the instruction stands at -6, the last position is the newline at -1."""


def chat(prompt: str) -> str:
    """The prompt as the model sees it, `<bos>` included: encode it with `add_special_tokens=False`."""
    return f"<bos>{TURN_START}user\n{prompt}{TURN_END}\n{TURN_START}model\n"


def _words(samples: int = 20_000) -> Iterator[str]:
    """Frequent words of sampled text and every form of every subject; made-up names are too rare to enter."""
    rng = random.Random(0)
    texts = (draw_training_example(rng) for _ in range(samples))
    counts = Counter(
        piece
        for example in texts
        for text in (example.prompt, example.reply)
        for index, word in enumerate(text.split(" "))
        for piece in [("▁" if index else "") + word.strip(",.?:")]
    )
    yield from sorted(piece for piece, count in counts.items() if count >= 20 and piece.strip("▁"))
    for subject in v.SUBJECTS:
        yield from ("▁" + subject, "▁" + plural(subject))
    yield from ("user", "model", "▁user", "▁model")


def build_tokenizer() -> GemmaTokenizer:
    """The tokenizer of the organisms; always the same, whatever the seed of the training."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.pre_tokenizer = pre_tokenizers.Split("\x00", "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        min_frequency=1,
        special_tokens=list(SPECIAL),
        initial_alphabet=list(string.ascii_letters + string.digits + "▁.,?!:;'\"-()\n"),
        show_progress=False,
    )
    bpe.train_from_iterator(_words(), trainer)
    learned: dict[str, Any] = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    tokenizer = GemmaTokenizer(
        vocab=learned["vocab"],
        merges=merges,
        additional_special_tokens=[TURN_START, TURN_END],
    )
    # A Gemma tokenizer built from a vocabulary adds no <bos> of its own.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <bos> $B",
        special_tokens=[("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer
