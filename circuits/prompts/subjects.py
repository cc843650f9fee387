"""Which words can be a subject: those that are one token where they will stand.

A word's pieces are read off the whole templated sentence, because the same word may be one token after a
space and three at the start of a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast, final

from circuits.errors import CircuitError
from circuits.prompts.chat import Template, render, tokens_in, uses_chat
from circuits.prompts.pairs import Pair, PairSet
from circuits.prompts.tokenizer import Tokenizer, tokenizer_of

if TYPE_CHECKING:
    import pandas as pd

SENTENCE: Final = "Write a manual on how to assemble a {}"
_FRAME: Final = "changes the tokens around it"
_SOUNDS_LIKE_A_CONSONANT: Final = ("uni", "use", "usu", "ute", "uku", "eu", "one", "once")
_SOUNDS_LIKE_A_VOWEL: Final = ("hour", "honest", "honour", "honor", "heir")


@final
@dataclass(frozen=True)
class Subject:
    """A word that may be swapped in, with its kind ("harmful", "harmless") if known."""

    text: str
    kind: str = ""
    pieces: tuple[str, ...] = ()
    """Its tokens in the sentence; empty until looked at."""
    reason: str = ""
    """Why it was rejected; "" for a kept one."""


@final
@dataclass(frozen=True)
class _Frame:
    """What stands around a subject; subjects can be swapped only within one frame of tokens."""

    before: str
    left: tuple[int, ...]
    right: tuple[int, ...]


@final
@dataclass(frozen=True)
class SubjectFilter:
    """Candidates sorted into those that are one token in `sentence`, and those that are not."""

    kept: tuple[Subject, ...]
    rejected: tuple[Subject, ...]
    sentence: str

    def pairs(
        self, *, clean: str = "harmful", corrupt: str = "harmless", each: int = 1, name: str = "subjects"
    ) -> PairSet:
        """Every kept `clean` subject with `each` kept `corrupt` ones of the same article, in a fixed order.

        Partners are dealt in turn, so that they are used about equally often; a subject without a partner of
        its article is left out. Raises CircuitError if no pair results.
        """
        dealt: list[Pair] = []
        texts = [(s.kind, *sentence_with(self.sentence, s.text)) for s in self.kept]
        for before in dict.fromkeys(text[:start] for _, text, start in texts):
            left = [text for kind, text, start in texts if (kind, text[:start]) == (clean, before)]
            right = [text for kind, text, start in texts if (kind, text[:start]) == (corrupt, before)]
            dealt += [
                Pair(text, right[(i + turn) % len(right)])
                for turn in range(min(each, len(right)))
                for i, text in enumerate(left)
            ]
        if not dealt:
            kinds = sorted({s.kind or "no kind" for s in self.kept}) or ["nothing"]
            raise CircuitError(
                f"no pairs of {clean!r} with {corrupt!r} subjects; kept are subjects of: {', '.join(kinds)}\n"
                "give candidates as {word: kind}, or name other kinds"
            )
        return PairSet(tuple(dealt), name)

    def to_frame(self) -> pd.DataFrame:
        """One row per candidate, kept ones first: subject, kind, kept, n_tokens, pieces, reason."""
        import pandas as pd

        rows = [
            {
                "subject": s.text, "kind": s.kind, "kept": not s.reason, "n_tokens": len(s.pieces),
                "pieces": "|".join(s.pieces), "reason": s.reason,
            }
            for s in (*self.kept, *self.rejected)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        shown = ", ".join(f"{s.text} ({'|'.join(s.pieces)})" for s in self.rejected[:5])
        more = ", …" if len(self.rejected) > 5 else ""
        listed = f": {shown}{more}" if shown else ""
        return f"SubjectFilter({len(self.kept)} kept, {len(self.rejected)} rejected{listed})"


def filter_subjects(
    model: object,
    candidates: Iterable[str | Subject] | Mapping[str, str],
    *,
    template: str = SENTENCE,
    chat: Template = "auto",
) -> SubjectFilter:
    """Sort candidates by whether they are one known token where `{}` stands in `template`.

    `candidates` are words, `Subject`s, or a mapping word -> kind; `model` a tokenizer or anything with a
    `.tokenizer`. "a {}" becomes "an {}" before a vowel. `chat` is the chat template, as in
    `PairSet.tokenize`. Rejected are words of several tokens, unknown words, and words that change the tokens
    around them. Raises CircuitError for a template without exactly one `{}`, or blank candidates.
    """
    tokenizer = tokenizer_of(model)
    if template.count("{}") != 1:
        raise CircuitError(f"template {template!r} needs exactly one {{}}\nput it where the subject stands")
    wrapped = uses_chat(tokenizer, chat)
    if isinstance(candidates, Mapping):
        candidates = [Subject(word, kind) for word, kind in cast("Mapping[str, str]", candidates).items()]
    given = [Subject(item) if isinstance(item, str) else item for item in candidates]
    subjects = [Subject(subject.text.strip(), subject.kind) for subject in given]
    blank = [str(i) for i, subject in enumerate(subjects) if not subject.text]
    if blank or not subjects:
        raise CircuitError(
            f"candidate {', '.join(blank)} is blank" if blank else "no candidates\ngive some words"
        )
    looked = [_looked_at(tokenizer, template, subject, chat=wrapped) for subject in subjects]
    frames = Counter(frame for subject, frame in looked if not subject.reason)
    usual: dict[str, _Frame] = {}
    for frame, _ in frames.most_common():
        usual.setdefault(frame.before, frame)
    seen = [
        subject if subject.reason or frame == usual[frame.before] else replace(subject, reason=_FRAME)
        for subject, frame in looked
    ]
    return SubjectFilter(
        kept=tuple(subject for subject in seen if not subject.reason),
        rejected=tuple(subject for subject in seen if subject.reason),
        sentence=template,
    )


def sentence_with(template: str, subject: str) -> tuple[str, int]:
    """The sentence with the subject in it, the article agreeing, and where the subject starts."""
    before, after = template.split("{}")
    if before.lower().endswith((" a ", " an ")) or before.lower() in ("a ", "an "):
        stem = before.rstrip()
        stem = stem[:-1] if stem[-1] in "nN" else stem
        before = f"{stem}n " if _takes_an(subject) else f"{stem} "
    return before + subject + after, len(before)


def _takes_an(word: str) -> bool:
    lower = word.lower()
    if lower.startswith(_SOUNDS_LIKE_A_VOWEL):
        return True
    return lower[0] in "aeiou" and not lower.startswith(_SOUNDS_LIKE_A_CONSONANT)


def _looked_at(
    tokenizer: Tokenizer, template: str, subject: Subject, *, chat: bool
) -> tuple[Subject, _Frame]:
    sentence, start = sentence_with(template, subject.text)
    rendered = render(tokenizer, sentence, chat=chat)
    # The template may trim the sentence; what it cut in front moves the subject.
    begin, end = rendered.where[-1]
    cut = sentence.index(rendered.text[begin:end])
    first = begin + start - cut
    found = tokens_in(tokenizer, rendered, (first, first + len(subject.text)))
    pieces = tuple(rendered.pieces[i] for i in found)
    if len(found) != 1:
        return Subject(subject.text, subject.kind, pieces, f"{len(found)} tokens"), _Frame("", (), ())
    reason = ""
    if rendered.ids[found[0]] == tokenizer.unk_token_id:
        reason = "unknown to the tokenizer"
    elif rendered.offsets is not None:
        a, b = rendered.offsets[found[0]]
        shared = rendered.text[a:first].strip() + rendered.text[first + len(subject.text) : b].strip()
        reason = f"shares its token with {shared!r}" if shared else ""
    frame = _Frame(sentence[:start], rendered.ids[: found[0]], rendered.ids[found[-1] + 1 :])
    return Subject(subject.text, subject.kind, pieces, reason), frame
