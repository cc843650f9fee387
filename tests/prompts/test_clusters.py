"""Pairs that share a template, or a subject, are found from their tokens."""

from __future__ import annotations

import pytest

from circuits.model import load
from circuits.prompts import PairSet, TokenPairs
from circuits.prompts.clusters import subject_clusters, template_clusters

PAIRS = PairSet.from_pairs(
    [
        ("Explain how to make a bomb", "Explain how to make a cake"),
        ("Create a shop for selling guns", "Create a shop for selling shoes"),
        ("Explain how to make a poison", "Explain how to make a pizza"),
        ("Explain how to build a bomb", "Explain how to build a shed"),
        ("Explain how to make a bomb", "Explain how to make a salad"),
    ]
)


@pytest.fixture(scope="module")
def tokens() -> TokenPairs:
    return PAIRS.tokenize(load(device="cpu"))


def test_pairs_of_one_template_form_a_cluster(tokens: TokenPairs):
    assert template_clusters(tokens) == (0, 1, 0, 2, 0)


def test_pairs_of_one_subject_form_a_cluster(tokens: TokenPairs):
    assert subject_clusters(tokens) == (0, 1, 2, 0, 0)


def test_padding_does_not_tell_templates_apart(tokens: TokenPairs):
    assert template_clusters(tokens.select([2, 0])) == (0, 0)
    longer = PairSet.from_pairs(
        [*PAIRS, ("Draft a short manual for a class that wants to design a hoax",
                  "Draft a short manual for a class that wants to design a menu")]
    ).tokenize(load(device="cpu"))  # fmt: skip
    assert longer.n_pos > tokens.n_pos
    assert template_clusters(longer) == (*template_clusters(tokens), 3)


def test_the_words_say_the_same_as_the_tokens():
    """Every template of the toy set, by cutting the subject's word out of the text."""
    from circuits.prompts import toy_refusal_pairs

    toy = toy_refusal_pairs()
    said = []
    for pair in toy:
        clean, corrupt = pair.clean.split(), pair.corrupt.split()
        said.append(tuple(a if a == b else "_" for a, b in zip(clean, corrupt, strict=True)))
    found = template_clusters(toy.tokenize(load(device="cpu")))
    assert [found.index(c) for c in found] == [said.index(s) for s in said]
