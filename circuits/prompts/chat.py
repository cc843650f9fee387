"""From an instruction to token ids: the chat template around it, `<bos>` once, template told from text.

The template is rendered once with a sentinel in place of the instruction. What stands around the sentinel is
template, whatever the instruction says and however often its words occur elsewhere. Ids come from encoding
the rendered text without special tokens, because templates spell their own; `<bos>` is put in front only if
missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from circuits.errors import CircuitError
from circuits.prompts.tokenizer import Tokenizer, pieces

Template = Literal["auto", "chat", "none"]
Span = tuple[int, int]

# Private-use characters: no template contains them, trims them or changes their case.
_SENTINEL: Final = "\ue000instruction\ue001"


@final
@dataclass(frozen=True)
class Rendered:
    """One prompt as the model reads it; every tuple but `where` has one entry per token."""

    text: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    """Tokens as people read them."""
    instruction: tuple[bool, ...]
    """True on tokens of the instruction, False on `<bos>` and template."""
    offsets: tuple[Span, ...] | None
    """Characters of `text` under each token; None for a tokenizer without offsets."""
    where: tuple[Span, ...]
    """Characters of `text` that are the instruction; more than one span if the template repeats it."""


def uses_chat(tokenizer: Tokenizer, template: Template) -> bool:
    """Whether to wrap prompts in the chat template. Raises CircuitError for "chat" without one."""
    if template not in ("auto", "chat", "none"):
        raise CircuitError(f'unknown template {template!r}\nwrite template="chat", "none" or "auto"')
    has = bool(getattr(tokenizer, "chat_template", None))
    if template == "chat" and not has:
        raise CircuitError(
            "this tokenizer has no chat template\n"
            'go on with template="none" (the prompts as they are), or set tokenizer.chat_template'
        )
    return has and template != "none"


def render(tokenizer: Tokenizer, prompt: str, *, chat: bool) -> Rendered:
    """The prompt as text, token ids and a mark on the instruction's tokens.

    With `chat` the prompt is the user's only turn and the generation prompt follows. Raises CircuitError if
    the template fails or changes the instruction, and if the prompt already carries the `<bos>` that the
    template adds.
    """
    text, where = _wrapped(tokenizer, prompt) if chat else (prompt, ((0, len(prompt)),))
    ids, offsets = _encode(tokenizer, text)
    inside = _inside(tokenizer, text, ids, offsets, where) if chat else (True,) * len(ids)
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] == (bos,):
        inside = (False, *inside[1:])
    elif bos is not None and (not chat or _adds_bos(tokenizer)):
        ids, inside = (bos, *ids), (False, *inside)
        # It stands before the text, so that no span of characters touches it.
        offsets = None if offsets is None else ((-1, -1), *offsets)
    if not ids:
        raise CircuitError(f"the prompt {prompt!r} becomes no tokens\ngive it some text")
    return Rendered(text, ids, pieces(tokenizer, ids), inside, offsets, where)


def tokens_in(tokenizer: Tokenizer, rendered: Rendered, span: Span) -> tuple[int, ...]:
    """Indices of the tokens that touch the characters `span` of the rendered text."""
    inside = _inside(tokenizer, rendered.text, rendered.ids, rendered.offsets, (span,))
    return tuple(i for i, hit in enumerate(inside) if hit)


def _wrapped(tokenizer: Tokenizer, prompt: str) -> tuple[str, tuple[Span, ...]]:
    if tokenizer.bos_token and prompt.lstrip().startswith(tokenizer.bos_token):
        raise CircuitError(
            f"the prompt {_short(prompt)} starts with {tokenizer.bos_token}, which the template adds\n"
            'give the bare instruction, or template="none" for prompts that carry their template'
        )
    text, frame = _apply(tokenizer, prompt), _apply(tokenizer, _SENTINEL)
    around = frame.split(_SENTINEL)
    for content in (prompt, prompt.strip()):
        if len(around) > 1 and content.join(around) == text:
            starts = [sum(map(len, around[:i])) + (i - 1) * len(content) for i in range(1, len(around))]
            return text, tuple((start, start + len(content)) for start in starts)
    raise CircuitError(
        f"the chat template changes {_short(prompt)}, so its tokens cannot be told apart\n"
        'apply the template yourself and go on with template="none"'
    )


def _apply(tokenizer: Tokenizer, prompt: str) -> str:
    from jinja2 import TemplateError

    turn = [{"role": "user", "content": prompt}]
    try:
        return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError) as error:
        raise CircuitError(
            f"the chat template fails on a single user turn: {error}\n"
            'mend tokenizer.chat_template, or go on with template="none"'
        ) from error


def _encode(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], tuple[Span, ...] | None]:
    if not getattr(tokenizer, "is_fast", False):
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), None
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return tuple(encoded["input_ids"]), tuple((int(a), int(b)) for a, b in encoded["offset_mapping"])


def _adds_bos(tokenizer: Tokenizer) -> bool:
    # A template may leave `<bos>` to the tokenizer; one that would add it to plain text adds it here too.
    return list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]


def _inside(
    tokenizer: Tokenizer, text: str, ids: Sequence[int], offsets: Sequence[Span] | None, spans: Sequence[Span]
) -> tuple[bool, ...]:
    """Which tokens touch one of the spans; a token across the border counts as inside."""
    if offsets is not None:
        return tuple(any(a < end and start < max(b, a + 1) for start, end in spans) for a, b in offsets)
    # Without offsets, the text before and after is encoded alone; what agrees from either end is outside.
    start, end = spans[0][0], spans[-1][1]
    before = tokenizer(text[:start], add_special_tokens=False)["input_ids"] if start else []
    after = tokenizer(text[end:], add_special_tokens=False)["input_ids"] if end < len(text) else []
    # `ids` may carry a `<bos>` that the text does not.
    offset = int(ids[:1] == (tokenizer.bos_token_id,) and before[:1] != [tokenizer.bos_token_id])
    left = offset + _agree(before, ids[offset:])
    right = _agree(after[::-1], ids[left:][::-1])
    return tuple(left <= i < len(ids) - right for i in range(len(ids)))


def _agree(some: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    while count < min(len(some), len(other)) and some[count] == other[count]:
        count += 1
    return count


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else prompt[:57] + "…")
