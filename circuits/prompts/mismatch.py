"""Why a pair is no one-token swap, said so that a person can mend it.

    pair 7   clean  … how to assemble a ‹gren|ade›      corrupt  … how to assemble a ‹table›
             "grenade" is 2 tokens here; the swap must be one token

Two prompts are compared token by token. Where they differ in one place, that place is widened to whole words:
"gren|ade" against "block|ade" differ in one token, and are still words of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final, final

from circuits.prompts.chat import Rendered
from circuits.prompts.tokenizer import SPACE

Places = list[tuple[int, int]]

_BEFORE: Final = 4
_AFTER: Final = 3
_WIDTH: Final = 110


@final
@dataclass(frozen=True)
class Mismatch:
    """What is wrong with one pair: `reason` in one line, both prompts with the difference marked."""

    index: int
    reason: str
    clean: str = ""
    corrupt: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """The paragraph of the error message for this pair."""
        head = f"  pair {self.index:<4}"
        if not self.clean:
            return (f"{head} {self.reason}",)
        indent = " " * len(head)
        joined = f"{head} clean  {self.clean}      corrupt  {self.corrupt}"
        if len(joined) <= _WIDTH:
            return (joined, f"{indent} {self.reason}")
        return (
            f"{head} clean    {self.clean}",
            f"{indent} corrupt  {self.corrupt}",
            f"{indent} {self.reason}",
        )


def find_subject(index: int, clean: Rendered, corrupt: Rendered, unknown: int | None) -> int | Mismatch:
    """The index of the one token that differs, the same in both prompts, or what is wrong."""
    left, right = _places(clean.ids, corrupt.ids)
    if not left:
        why = "equal" if clean.text == corrupt.text else "different texts, but the same tokens"
        return Mismatch(index, f"clean and corrupt are {why}: {_excerpt(clean, [])}")
    if len(left) > 1:
        return Mismatch(
            index, _scattered(clean, corrupt, left, right), _excerpt(clean, left), _excerpt(corrupt, right)
        )
    left, right = [_widened(clean, left[0])], [_widened(corrupt, right[0])]
    words = _word(clean, left[0]), _word(corrupt, right[0])
    counts = left[0][1] - left[0][0], right[0][1] - right[0][0]
    if counts != (1, 1):
        return Mismatch(index, _too_long(words, counts), _excerpt(clean, left), _excerpt(corrupt, right))
    subject = left[0][0]
    for rendered in (clean, corrupt):
        if unknown is not None and rendered.ids[subject] == unknown:
            a, b = rendered.offsets[subject] if rendered.offsets is not None else (0, 0)
            word = rendered.text[a:b].strip() or rendered.pieces[subject]
            reason = f'"{word}" is unknown to this tokenizer; the swap must be between words it knows'
            return Mismatch(index, reason, _excerpt(clean, left), _excerpt(corrupt, right))
    return subject


def report(bad: Sequence[Mismatch], total: int) -> str:
    """The message of the AlignmentError: what, where, what to do."""
    n, rest = len(bad), total - len(bad)
    what = f"{n} of {total} pair{'s' * (total > 1)} {'does' if n == 1 else 'do'} not align"
    them = "it" if n == 1 else "them"
    todo = f"fix or drop {them} (--drop-misaligned keeps the other {rest})."
    if not rest:
        todo = f"fix {them}: no pair is left (filter_subjects shows which words are one token)."
    return "\n".join([what, *(line for mismatch in bad for line in mismatch.lines), todo])


def _places(clean: Sequence[int], corrupt: Sequence[int]) -> tuple[Places, Places]:
    """Where the two differ, as half-open token ranges of each."""
    if len(clean) == len(corrupt):
        # Same length: position by position, because a realignment would hide that positions differ.
        differ = [a != b for a, b in zip(clean, corrupt, strict=True)]
        starts = [i for i, d in enumerate(differ) if d and not (i and differ[i - 1])]
        places = [(i, next((j for j in range(i, len(differ)) if not differ[j]), len(differ))) for i in starts]
        return places, places
    changes = [
        op for op in SequenceMatcher(None, clean, corrupt, autojunk=False).get_opcodes() if op[0] != "equal"
    ]
    return [(a, b) for _, a, b, _, _ in changes], [(a, b) for _, _, _, a, b in changes]


def _widened(rendered: Rendered, place: tuple[int, int]) -> tuple[int, int]:
    """The place with the tokens that continue its word: letters only, as digits and CJK come one by one."""
    start, end = place
    if start == end:
        return place
    while start > 0 and _continues(rendered, start):
        start -= 1
    while end < len(rendered.ids) and _continues(rendered, end):
        end += 1
    return start, end


def _continues(rendered: Rendered, token: int) -> bool:
    """Whether the token goes on with the word, or with the character, of the one before it."""
    if rendered.offsets is None or not all(rendered.instruction[token - 1 : token + 1]):
        return False
    span, before = rendered.offsets[token], rendered.offsets[token - 1]
    if span == before:
        # Bytes of one character, unless it is the space that some tokenizers put before the first word.
        return bool(rendered.pieces[token - 1].strip(SPACE))
    around = rendered.text[span[0] - 1 : span[0] + 1] if span[0] else ""
    return len(around) == 2 and all(char.lower() != char.upper() for char in around)


def _too_long(words: tuple[str, str], counts: tuple[int, int]) -> str:
    if 0 in counts:
        side, word = ("corrupt", words[1]) if counts[0] == 0 else ("clean", words[0])
        return f"only {side} has {word}; the swap must be one token for another"
    told = [f"{word} is {count} tokens" for word, count in zip(words, counts, strict=True) if count != 1]
    if counts[0] == counts[1]:
        told = [f"{words[0]} and {words[1]} are {counts[0]} tokens each"]
    return f"{' and '.join(told)} here; the swap must be one token"


def _scattered(clean: Rendered, corrupt: Rendered, left: Places, right: Places) -> str:
    swaps = ", ".join(f"{_word(clean, a)} / {_word(corrupt, b)}" for a, b in zip(left, right, strict=True))
    lengths = len(clean.ids), len(corrupt.ids)
    longer = "" if lengths[0] == lengths[1] else f" and have {lengths[0]} and {lengths[1]} tokens"
    return f"they differ in {len(left)} places ({swaps}){longer}; only one token may differ"


def _word(rendered: Rendered, place: tuple[int, int]) -> str:
    text = "".join(rendered.pieces[place[0] : place[1]])
    return f'"{text.strip(SPACE).replace(SPACE, " ") or text}"'


def _excerpt(rendered: Rendered, places: Places) -> str:
    """The instruction around the places, each marked as ‹tok|ens›; cut ends are shown as `…`."""
    inside = [i for i, hit in enumerate(rendered.instruction) if hit]
    first, last = min([*inside, *(a for a, _ in places)]), max([*inside, *(b - 1 for _, b in places)])
    start = max(first, (places[0][0] if places else last) - _BEFORE)
    stop = min(last + 1, (places[-1][1] if places else last) + _AFTER)
    # Vocabularies without any mark for spaces hold whole words.
    glue = "" if any(SPACE in piece for piece in rendered.pieces) else " "
    parts = ["… " if start > first else ""]
    ends = dict(places)
    i = start
    while i < stop or i in ends:
        end = ends.get(i)
        parts.append(glue if i > start else "")
        if end is None:
            parts.append(rendered.pieces[i].replace(SPACE, " "))
            i += 1
            continue
        marked = "|".join(rendered.pieces[i:end])
        # The space of a word stands outside the mark; a space that is a token of its own stands inside.
        lead = len(marked) - len(marked.lstrip(SPACE)) if end > i and rendered.pieces[i].strip(SPACE) else 0
        tail = len(marked) - len(marked.rstrip(SPACE)) if end > i and rendered.pieces[end - 1].strip(SPACE) else 0
        parts.append(f"{' ' * lead}‹{marked[lead : len(marked) - tail]}›{' ' * tail}")
        if end == i:
            # Nothing stands here; the token at this index is still to come.
            del ends[i]
        i = end
    parts.append(" …" if stop <= last else "")
    return "".join(parts).strip().replace("…  ", "… ")
