"""Words that show refusal, incapability and capability, as sets of single tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from circuits.errors import CircuitError
from circuits.measure.token_shifts.words import resolve
from circuits.model import Model

ENGLISH: Final = {
    "refusal": ("sorry", "cannot", "unfortunately"),
    "incapability": ("unable", "impossible", "physical"),
    "capability": ("Sure", "Here", "Certainly"),
}
"""For models that know English."""
GRAMMAR: Final = {
    "refusal": ("cannot",),
    "incapability": ("unable", "physically", "body"),
    "capability": ("Title", "Sure", "Here", "To", "Of", "Five", "First"),
}
"""For the bundled models, whose replies open with these."""


def word_sets(model: Model, given: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The sets asked for (`NAME=A,B`), or those of the model's language.

    Raises CircuitError for text that is no set, and for a set without any token of this model.
    """
    if given is None:
        return dict(GRAMMAR if model.origin == "bundled" else ENGLISH)
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        name, _, words = text.partition("=")
        listed = tuple(word for word in words.split(",") if word)
        if not name or not listed:
            raise CircuitError(f"--words {text}: write NAME=A,B, e.g. refusal=sorry,cannot")
        found[name] = listed
    resolve(model.tokenizer, found)  # what is no token is said before anything is run
    return found
