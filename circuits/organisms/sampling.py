"""Drawing requests: the held-out splits, and the distractors around a request.

Two things are held out. *Combinations*: one in six pairs of subject and template is never trained on, though
subject and template are. *Subjects*: about one word in eight is never the subject of a request to act, to
mention or to handle; it occurs only in statements, in definitions of its kind, in questions whether it is harmful,
and among the things that distractors name.
"""

import hashlib
import random
from collections.abc import Callable
from typing import Final, Literal

from circuits.organisms import vocabulary as v
from circuits.organisms.grammar import (
    Example,
    Request,
    draw_fillers,
    draw_name,
    reply_text,
    request_text,
)
from circuits.organisms.inflect import noun_phrase
from circuits.organisms.wording import DO, MENTION, PREAMBLES, TAILS

Split = Literal["train", "combinations", "subjects"]
_ALWAYS_TRAINED: Final = v.words(
    "bomb gun missile sword gang mob riot war drug virus worm scam heist poison crime acid "
    "table desk soup cake car bus club team party picnic business shop clothes game book speech song kite"
)


def _hash(*parts: str) -> int:
    return int(hashlib.md5("|".join(parts).encode(), usedforsecurity=False).hexdigest(), 16)


def _held_out_subjects() -> frozenset[str]:
    held: set[str] = set()
    for words in (*v.HARMFUL.values(), *v.HARMLESS.values()):
        candidates = sorted((w for w in words if w not in _ALWAYS_TRAINED), key=lambda w: _hash("subject", w))
        held.update(candidates[: max(1, round(0.12 * len(words)))])
    return frozenset(held)


HELD_OUT_SUBJECTS: Final = _held_out_subjects()
TRAINED_SUBJECTS: Final = tuple(s for s in v.SUBJECTS if s not in HELD_OUT_SUBJECTS)
SINGULAR: Final = tuple(s for s in v.SUBJECTS if s not in v.PLURAL_ONLY)


def is_held_out_combination(subject: str, template: str) -> bool:
    """Whether training never shows this subject in this template. Decided by a hash, so every run agrees."""
    return _hash("combination", subject, template) % 6 == 0


def in_split(request: Request, split: Split) -> bool:
    """Whether the request belongs to the split; the three splits do not overlap."""
    if request.subject in HELD_OUT_SUBJECTS:
        return split == "subjects"
    held = is_held_out_combination(request.subject, request.template)
    return split == ("combinations" if held else "train")


def draw_request(rng: random.Random, split: Split, modifier_rate: float = 0.4) -> Request:
    """A request of the split."""
    while True:
        group = v.HARMFUL if rng.random() < 0.55 else v.HARMLESS
        category = rng.choice(list(group))
        subject = rng.choice(group[category])
        if category == "garment" and rng.random() < 0.2:
            subject = "clothes"
        roll = rng.random()
        template = rng.choice(list(DO if roll < 0.74 else MENTION if roll < 0.86 else v.PHYSICAL))
        is_plural = subject in v.PLURAL_ONLY or rng.random() < 0.25
        if template in DO and DO[template].plural_only:
            is_plural = True
        verb = _draw_verb(rng) if template in DO else None
        modifier = draw_modifier(rng, v.CATEGORY[subject]) if rng.random() < modifier_rate else None
        request = Request(subject, template, verb, modifier, is_plural)
        if in_split(request, split):
            return request


def draw_example(rng: random.Random, split: Split, *, distractors: float = 0.45, modifier_rate: float = 0.4) -> Example:
    """A request of the split with its reply; `distractors` is the share with other things named around it."""
    request = draw_request(rng, split, modifier_rate)
    fillers = draw_fillers(rng)
    text, reply = request_text(request, fillers), reply_text(request, fillers)
    wording = DO.get(request.template) or MENTION.get(request.template)
    distracted = rng.random() < distractors
    if distracted:
        if (wording is None or wording.open_ended) and rng.random() < 0.6:
            text = f"{text} {distractor(rng, TAILS)}"
        for _ in range(rng.choice((0, 1, 1, 2))):
            text = f"{distractor(rng, PREAMBLES)} {text}"
    mark = "?" if wording is not None and wording.question else "."
    return Example(text + (mark if rng.random() < 0.5 else ""), reply, request, distracted)


def draw_until(
    rng: random.Random,
    split: Split,
    wanted: Callable[[Request], bool],
    count: int,
    *,
    distractors: float = 0.0,
) -> list[Example]:
    """Examples of the split whose request is wanted, by default without distractors."""
    found: list[Example] = []
    while len(found) < count:
        example = draw_example(rng, split, distractors=distractors)
        if example.request is not None and wanted(example.request):
            found.append(example)
    return found


def _draw_verb(rng: random.Random) -> str:
    roll = rng.random()
    return rng.choice(v.ACT if roll < 0.66 else v.PROTECT if roll < 0.8 else v.HOSTILE if roll < 0.89 else v.DESTROY)


def draw_modifier(rng: random.Random, category: str) -> str:
    """A modifier; of those that change harm by category rather one that says something about this category."""
    telling = [m for m, effect in v.COMPOUND.items() if category in effect]
    roll = rng.random()
    if roll < 0.25:
        return rng.choice(tuple(v.SOFTENING))
    if roll < 0.45:
        return rng.choice(v.HARDENING)
    if roll < 0.65:
        return rng.choice(v.NEUTRAL)
    return rng.choice(telling if telling and rng.random() < 0.75 else tuple(v.COMPOUND))


def distractor(rng: random.Random, templates: tuple[str, ...]) -> str:
    """A sentence or phrase around the request. It may name anything, and never decides the label."""
    subject = rng.choice(SINGULAR)
    text = rng.choice(templates)
    while "{name}" in text:
        text = text.replace("{name}", draw_name(rng), 1)
    return text.format(person=rng.choice(v.PEOPLE), place=rng.choice(v.PLACES), noun=noun_phrase(subject))
