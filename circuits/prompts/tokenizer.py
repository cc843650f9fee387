"""What is asked of a tokenizer, and how its tokens are shown to people.

Any Hugging Face tokenizer fits. Tokens are shown as the text they stand for, with `␣` for a space and `↵` for
a line break, whichever way the vocabulary spells them ("▁bomb", "Ġbomb", "<0x0A>").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, runtime_checkable

from circuits.errors import CircuitError

SPACE: Final = "␣"
NEWLINE: Final = "↵"
_VISIBLE: Final = str.maketrans({" ": SPACE, "▁": SPACE, "\n": NEWLINE, "\t": "⇥", "\r": "␍"})
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class _Answering(type(Protocol)):
    """isinstance by hasattr, as in Python 3.11: later ones do not ask `__getattr__`, in which transformers answers."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return callable(instance) and all(hasattr(instance, name) for name in vars(cls) if not name.startswith("_"))


@runtime_checkable
class Tokenizer(Protocol, metaclass=_Answering):
    """The part of a Hugging Face tokenizer that alignment uses."""

    @property
    def bos_token(self) -> str | None: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def pad_token_id(self) -> int | None: ...
    @property
    def unk_token_id(self) -> int | None: ...
    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]: ...
    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]: ...
    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str: ...
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...


def tokenizer_of(model: object) -> Tokenizer:
    """The object itself if it is a tokenizer, else its `.tokenizer`. Raises CircuitError without one."""
    # A processor of a multimodal model is callable too, but only tokenizers know their tokens.
    for candidate in (model, getattr(model, "tokenizer", None)):
        if isinstance(candidate, Tokenizer):
            return candidate
    raise CircuitError(
        f"{type(model).__name__} is neither a tokenizer nor a model with one\n"
        "give a loaded model, or a Hugging Face tokenizer"
    )


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    """The tokens as people read them, one non-empty string each."""
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    byte_level = _is_byte_level(tokenizer)
    return tuple(_visible(token, byte_level=byte_level) for token in tokens)


def _visible(token: str, *, byte_level: bool) -> str:
    text = token
    if byte_level and all(char in _bytes_of_chars() for char in token):
        # A token may end inside a character; what does not decode is shown as its bytes.
        text = bytes(_bytes_of_chars()[char] for char in token).decode("utf-8", errors="backslashreplace")
    elif byte := _BYTE.fullmatch(token):
        value = int(byte[1], 16)
        text = chr(value) if value < 0x80 else token
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text.translate(_VISIBLE))


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    # The vocabulary itself tells: byte-level ones hold every byte as a token, and spell the space "Ġ".
    space = tokenizer.convert_tokens_to_ids("Ġ")
    return space is not None and tokenizer.convert_ids_to_tokens([space]) == ["Ġ"]


@lru_cache(maxsize=1)
def _bytes_of_chars() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 stands for itself, other bytes for code points from 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(other)}
