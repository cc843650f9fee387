"""The training mixture: requests, and the exercises that teach what requests alone do not.

Statements and definitions tell the kind of every subject, held-out ones included, and questions tell whether it is
harmful. Without those the refusal of a held-out subject has to be inferred from its kind alone, which a model this
small learns for most words and not for all. Lists to be repeated, made-up names among them, reward heads that attend
to the previous token and heads that rest on `<bos>` until a word comes again.
"""

import random
from typing import Final

from circuits.organisms import vocabulary as v
from circuits.organisms.grammar import Example, draw_name, is_harmful
from circuits.organisms.inflect import article, noun_phrase, plural
from circuits.organisms.sampling import (
    HELD_OUT_SUBJECTS,
    SINGULAR,
    TRAINED_SUBJECTS,
    distractor,
    draw_example,
    draw_modifier,
)
from circuits.organisms.wording import DEFINITIONS, REPEAT, TAILS

_DEFINABLE: Final = tuple(s for s in SINGULAR if s != v.CATEGORY[s])
_DEFINABLE_HELD_OUT: Final = tuple(s for s in _DEFINABLE if s in HELD_OUT_SUBJECTS)


def draw_training_example(rng: random.Random) -> Example:
    """A text for training: mostly requests of the training split."""
    roll = rng.random()
    if roll < 0.08:
        return Example("", _declaration(rng))
    if roll < 0.17:
        return _definition(rng)
    if roll < 0.27:
        return _question_of_harm(rng)
    if roll < 0.38:
        return _repetition(rng)
    if roll < 0.41:
        return draw_drink(rng)
    return draw_example(rng, "train")


def draw_drink(rng: random.Random) -> Example:
    """A request for a drink, which no subject of the grammar decides; the model has no body."""
    template, filling = rng.choice(list(v.PHYSICAL)), f"a {rng.choice(v.VESSELS)} of {rng.choice(v.DRINKS)}"
    text = f"{template} {filling}" + (f" {distractor(rng, TAILS)}" if rng.random() < 0.25 else "")
    reply = f"I am unable to physically {v.PHYSICAL[template]} {filling}. I have no body."
    return Example(text + rng.choice((".", "")), reply)


def _draw_definable(rng: random.Random) -> str:
    # Statements are all that training tells of a held-out subject, so they speak of it more often.
    return rng.choice(_DEFINABLE_HELD_OUT if rng.random() < 0.4 else _DEFINABLE)


def _definition(rng: random.Random) -> Example:
    # Singular and plural are separate tokens: each has to be told its kind.
    subject, is_plural = _draw_definable(rng), rng.random() < 0.5
    category, phrase = v.CATEGORY[subject], noun_phrase(subject, is_plural=is_plural)
    wording = rng.choice(DEFINITIONS)
    mark = "?" if wording.startswith("What") else "."
    prompt = wording.format(np=phrase, be="are" if is_plural else "is") + rng.choice((mark, ""))
    claim = f"All {phrase} are" if is_plural else f"{phrase[0].upper()}{phrase[1:]} is"
    return Example(prompt, f"{claim} a kind of {category}. {v.FACT[category]}")


def _question_of_harm(rng: random.Random) -> Example:
    subject, is_plural = _draw_definable(rng), rng.random() < 0.5
    with_modifier = subject in TRAINED_SUBJECTS and rng.random() < 0.4
    modifier = draw_modifier(rng, v.CATEGORY[subject]) if with_modifier else None
    phrase, be = noun_phrase(subject, modifier, is_plural=is_plural), "are" if is_plural else "is"
    prompt = f"{be.capitalize()} {phrase} harmful" + rng.choice(("?", ""))
    claim = f"Yes, {phrase} {be} harmful." if is_harmful(subject, modifier) else f"No, {phrase} {be} harmless."
    return Example(prompt, claim if modifier else f"{claim} {v.FACT[v.CATEGORY[subject]]}")


def _declaration(rng: random.Random) -> str:
    subject = _draw_definable(rng)
    category, phrase = v.CATEGORY[subject], noun_phrase(subject)
    words = v.HARMFUL.get(category) or v.HARMLESS[category]
    other = rng.choice([w for w in words if w != subject])
    head = phrase[0].upper() + phrase[1:]
    fact, person, place = v.FACT[category], rng.choice(v.PEOPLE), rng.choice(v.PLACES)
    return rng.choice(
        (
            f"{head} is a kind of {category}.",
            f"All {plural(subject)} are a kind of {category}. {fact}",
            f"{fact} {head} is a kind of {category}.",
            f"My {person} saw {phrase} in the {place}. It is a kind of {category}.",
            f"{head} and {article(other)} {other} are both a kind of {category}.",
            f"If you see {phrase}, {v.STEP[category]}. {fact}",
        )
    )


def _repetition(rng: random.Random) -> Example:
    # No marks between the items: the token before is then all that tells which one comes next.
    if rng.random() < 0.3:
        items = [draw_name(rng) for _ in range(rng.randint(2, 4))]
    else:
        items = rng.sample(TRAINED_SUBJECTS, rng.randint(3, 10))
    listed = " ".join(items)
    return Example(rng.choice(REPEAT).format(words=listed) + rng.choice((".", "")), f"Words: {listed}.")
