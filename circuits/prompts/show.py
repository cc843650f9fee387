"""How pairs look in a notebook: tokens in a row, the swap marked, template in grey. Everything is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from circuits.prompts.pairs import Pair, PairSet
    from circuits.prompts.token_pairs import TokenPairs

_SHOWN: Final = 20
# Half-transparent colours read on light and dark pages alike. Isolated, no text turns round what stands beside it.
_CLEAN: Final = "background:rgba(230,120,20,.35);color:inherit;border-radius:3px;padding:0 2px;unicode-bidi:isolate"
_CORRUPT: Final = "background:rgba(40,120,220,.35);color:inherit;border-radius:3px;padding:0 2px;unicode-bidi:isolate"
_TEMPLATE: Final = "opacity:.45"
_TOKEN: Final = "border-left:1px solid rgba(128,128,128,.35);padding:0 1px;unicode-bidi:isolate"
_MONO: Final = "text-align:left;font-family:monospace;white-space:pre-wrap"


def token_table(tokens: TokenPairs) -> str:
    """One row per pair: the clean prompt's tokens, with clean and corrupt subject side by side."""
    instruction, subjects = tokens.instruction.tolist(), tokens.subject.tolist()
    rows: list[str] = []
    for pair in range(min(tokens.n_pairs, _SHOWN)):
        spans: list[str] = []
        for pos, (clean, corrupt) in enumerate(
            zip(tokens.clean_text[pair], tokens.corrupt_text[pair], strict=True)
        ):
            if pos == subjects[pair]:
                spans.append(
                    f'<span style="{_TOKEN}">{_mark(clean, _CLEAN)}{_mark(corrupt, _CORRUPT)}</span>'
                )
            elif clean:
                style = _TOKEN if instruction[pair][pos] else f"{_TOKEN};{_TEMPLATE}"
                spans.append(f'<span style="{style}">{escape(clean)}</span>')
        rows.append(_row(pair, "".join(spans)))
    dropped = "".join(f"<li>pair {d.index}: {escape(d.reason)}</li>" for d in tokens.dropped)
    notes = (
        f"<details><summary>{len(tokens.dropped)} dropped</summary><ul>{dropped}</ul></details>"
        if dropped
        else ""
    )
    return _table(repr(tokens), rows, tokens.n_pairs) + notes


def pair_table(pairs: PairSet) -> str:
    """One row per pair: the shared text once, with the texts that differ side by side."""
    return _table(
        repr(pairs), [_row(i, _swap(pair)) for i, pair in enumerate(pairs.pairs[:_SHOWN])], len(pairs)
    )


def _swap(pair: Pair) -> str:
    # Whole words, so that "bomb" against "boat" is not shown as "bo‹mb|at›".
    clean, corrupt = pair.clean.split(" "), pair.corrupt.split(" ")
    start = _agree(clean, corrupt)
    end = _agree(clean[start:][::-1], corrupt[start:][::-1])
    before, after = clean[:start], clean[len(clean) - end :]
    left, right = clean[start : len(clean) - end], corrupt[start : len(corrupt) - end]
    swap = _mark(" ".join(left), _CLEAN) + _mark(" ".join(right), _CORRUPT)
    return " ".join(part for part in (escape(" ".join(before)), swap, escape(" ".join(after))) if part)


def _agree(some: Sequence[str], other: Sequence[str]) -> int:
    pairs = enumerate(zip(some, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(some), len(other)))


def _mark(text: str, style: str) -> str:
    return f'<mark style="{style}">{escape(text)}</mark>' if text else ""


def _row(index: int, cell: str) -> str:
    return f'<tr><th style="text-align:right">{index}</th><td style="{_MONO}">{cell}</td></tr>'


def _table(caption: str, rows: Sequence[str], total: int) -> str:
    more = (
        f'<tr><td></td><td style="text-align:left">… {total - _SHOWN} more</td></tr>'
        if total > _SHOWN
        else ""
    )
    key = f"{_mark('clean', _CLEAN)} {_mark('corrupt', _CORRUPT)}"
    head = f'<caption style="text-align:left">{escape(caption)} &nbsp; {key}</caption>'
    return f"<table>{head}<tbody>{''.join(rows)}{more}</tbody></table>"
