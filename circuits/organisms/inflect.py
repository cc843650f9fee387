"""English inflection for the words of the grammar: articles, plurals, gerunds.

Regular rules with the exceptions that the vocabulary contains. A wrong article would be a cue of its own: a
model reads "a" before "opioid" as a mark of the generator, not of English.
"""

from typing import Final

_CONSONANT_SOUND: Final = frozenset({"ukulele", "used", "uniform", "university", "unicorn"})
_PLURALS: Final = {"shelf": "shelves", "clothes": "clothes", "scarf": "scarves"}
_GERUNDS: Final = {"get": "getting", "run": "running", "plan": "planning"}
_SIBILANT: Final = ("s", "x", "z", "ch", "sh")


def article(phrase: str) -> str:
    """The indefinite article that the phrase's first word takes."""
    first = phrase.split(maxsplit=1)[0]
    return "an" if first[0].lower() in "aeiou" and first not in _CONSONANT_SOUND else "a"


def plural(noun: str) -> str:
    """The plural of a noun of the vocabulary."""
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith(_SIBILANT):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def gerund(verb: str) -> str:
    """The -ing form of a verb of the vocabulary."""
    if verb in _GERUNDS:
        return _GERUNDS[verb]
    return verb.removesuffix("e") + "ing"


def noun_phrase(subject: str, modifier: str | None = None, *, is_plural: bool = False) -> str:
    """The subject with its modifier, and its article where it is singular: "an illegal bomb", "toy bombs"."""
    noun = plural(subject) if is_plural else subject
    phrase = f"{modifier} {noun}" if modifier else noun
    return phrase if is_plural else f"{article(phrase)} {phrase}"
