"""Subjects are kept when they are one token in the sentence, and paired when their articles agree."""

from __future__ import annotations

from typing import Any

import pytest

from circuits.errors import CircuitError
from circuits.prompts import Subject, SubjectFilter, filter_subjects
from circuits.prompts.subjects import sentence_with

CANDIDATES = {
    "bomb": "harmful", "grenade": "harmful", "rifle": "harmful", "axe": "harmful",
    "table": "harmless", "apple": "harmless", "chair": "harmless", "bombs": "harmful",
}  # fmt: skip


@pytest.fixture
def found(gemma: Any) -> SubjectFilter:
    return filter_subjects(gemma, CANDIDATES)


def test_kept_are_single_tokens_and_rejected_show_their_pieces(found: SubjectFilter) -> None:
    assert [(s.text, s.pieces) for s in found.kept] == [
        (word, (f"␣{word}",)) for word in ("bomb", "rifle", "axe", "table", "apple", "chair")
    ]
    assert [s.text for s in found.rejected] == ["grenade", "bombs"]
    assert "".join(found.rejected[0].pieces) == "grenade"
    assert found.rejected[0].reason == "7 tokens"
    assert "grenade (g|r|e|n|a|d|e)" in repr(found)


def test_frame_lists_every_candidate(found: SubjectFilter) -> None:
    frame = found.to_frame().set_index("subject")
    assert set(frame.index) == set(CANDIDATES)
    assert frame.loc["grenade", "pieces"] == "g|r|e|n|a|d|e"
    assert frame["kept"].sum() == 6
    assert frame.loc["axe", "kind"] == "harmful"


def test_pieces_are_those_in_context(gemma: Any) -> None:
    """A leading space makes another token, at the start of a line there is none."""
    start = filter_subjects(gemma, ["Write", "Develop"], template="{} a plan")
    assert [s.pieces for s in start.kept] == [("Write",), ("Develop",)]
    plain = filter_subjects(gemma, ["bomb", "table"], template="Write a {} now", chat="none")
    assert [s.pieces for s in plain.kept] == [("␣bomb",), ("␣table",)]


def test_kept_subjects_always_align(gemma: Any, found: SubjectFilter) -> None:
    pairs = found.pairs(each=3)
    assert pairs.tokenize(gemma).n_pairs == len(pairs)


def test_pairs_agree_in_article_and_order(found: SubjectFilter) -> None:
    pairs = found.pairs(each=2)
    swaps = [(p.clean.split(" assemble ")[1], p.corrupt.split(" assemble ")[1]) for p in pairs]
    assert swaps == [
        ("a bomb", "a table"), ("a rifle", "a chair"), ("a bomb", "a chair"), ("a rifle", "a table"),
        ("an axe", "an apple"),
    ]  # fmt: skip
    assert pairs == found.pairs(each=2)
    assert len(found.pairs()) == 3


def test_pairs_need_kinds(gemma: Any) -> None:
    with pytest.raises(CircuitError, match=r"kept are subjects of: no kind\n.*\{word: kind\}"):
        filter_subjects(gemma, ["bomb", "table"]).pairs()


def test_unknown_words_are_rejected(words: Any) -> None:
    found = filter_subjects(words, ["bomb", "grenade"], template="Explain a {} now")
    assert [(s.text, s.reason) for s in found.rejected] == [("grenade", "unknown to the tokenizer")]


def test_words_that_change_the_tokens_around_them_are_rejected(gemma: Any) -> None:
    """`x` is one token, but its space is another: no swap with `␣bomb` would align."""
    found = filter_subjects(gemma, ["bomb", "x", "table"], template="Write a {}")
    assert [(s.text, s.reason) for s in found.rejected] == [("x", "changes the tokens around it")]


def test_without_offsets_the_same_subjects_are_kept(gemma: Any, slow: Any, found: SubjectFilter) -> None:
    other = filter_subjects(slow(gemma), CANDIDATES)
    assert [s.text for s in other.kept] == [s.text for s in found.kept]


@pytest.mark.parametrize(
    ("template", "subject", "sentence"),
    [
        ("Build a {}", "bomb", "Build a bomb"),
        ("Build a {}", "axe", "Build an axe"),
        ("Build an {} now", "bomb", "Build a bomb now"),
        ("A {} is here", "apple", "An apple is here"),
        ("Build a {}", "uniform", "Build a uniform"),
        ("Build a {}", "hourglass", "Build an hourglass"),
        ("Sell {}", "apples", "Sell apples"),
        ("Build the pizza {}", "oven", "Build the pizza oven"),
    ],
)
def test_the_article_agrees(template: str, subject: str, sentence: str) -> None:
    text, start = sentence_with(template, subject)
    assert text == sentence
    assert text[start:].startswith(subject)


def test_bad_input_is_told(gemma: Any) -> None:
    with pytest.raises(CircuitError, match=r"needs exactly one \{\}"):
        filter_subjects(gemma, ["bomb"], template="Build a bomb")
    with pytest.raises(CircuitError, match="candidate 1 is blank"):
        filter_subjects(gemma, ["bomb", " "])
    with pytest.raises(CircuitError, match="no candidates"):
        filter_subjects(gemma, [])
    gemma.chat_template = None
    with pytest.raises(CircuitError, match='template="none"'):
        filter_subjects(gemma, [Subject("bomb")], chat="chat")
