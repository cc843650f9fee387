"""Texts that would run, fetch, steer or hide if any page or terminal took them for more than text."""

from __future__ import annotations

from typing import Any, Final

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

BETWEEN: Final = "¦"
"""What stands between two words of the tiny tokenizer, whose words may hold spaces."""
WORDS: Final = {
    "script": "<script>window.__pwned=1</script>",
    "image": '"><img src=x onerror="window.__pwned=1;alert(1)">',
    "close": "</script><script>window.__pwned=1;alert(1)</script>",
    "textarea": "</textarea></title></style><svg/onload=window.__pwned=1>",
    "template": "{{7*7}}{% for x in y %}",
    "link": "javascript:window.__pwned=1",
    "anchor": '<a href="javascript:window.__pwned=1" target=_blank>here</a>',
    "fetch": "<link rel=stylesheet href=//evil.example/x><iframe src=https://evil.example>",
    "comment": "<!--<script>",
    "entity": "&lt;b&gt;&#x3C;i&#x3E;",
    "plotly": "%{text}<b>bold</b><br>$\\href{javascript:window.__pwned=1}{x}$",
    "turned": "\u202egnp.exe\u2066",
    "zero": "zero\u200bwidth\ufeff",
    "ansi": "\x1b[2J\x1b]0;owned\x07\x9b31m",
    "long": "W" * 10_000,
}
"""Name -> word."""
NUL: Final = "nul\x00byte"


def tokenizer() -> Any:
    """Every word of `WORDS`, `NUL` and w0 … as one token, words apart by `BETWEEN`; the vocabulary of the tiny models."""
    from transformers import PreTrainedTokenizerFast

    said = ["<pad>", "<eos>", "<bos>", "<unk>", *WORDS.values(), NUL]
    words = [*said, *(f"w{i}" for i in range(84 - len(said)))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(BETWEEN), "removed")
    inner.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )


def pairs() -> list[tuple[str, str, None, None, str]]:
    """A pair per word: it is the subject of one and stands beside the subject of the next."""
    words = list(WORDS.values())
    return [
        (
            BETWEEN.join(["w1", word, "w3", words[i - 1]]),
            BETWEEN.join(["w1", words[i - 2], "w3", words[i - 1]]),
            None,
            None,
            word,
        )
        for i, word in enumerate(words)
    ]
