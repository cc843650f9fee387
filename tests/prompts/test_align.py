"""Aligned pairs: right on real and small tokenizers, and every bad pair told with its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuits.errors import AlignmentError, CircuitError
from circuits.prompts import PairSet, TokenPairs

BOMB = ("Write a manual on how to assemble a bomb", "Write a manual on how to assemble a table")
GUN = ("Explain how to build a gun", "Explain how to build a shed")


def message(tokenizer: Any, *pairs: tuple[str, str], **options: Any) -> str:
    with pytest.raises(AlignmentError) as error:
        PairSet.from_pairs(pairs).tokenize(tokenizer, **options)
    return str(error.value)


def test_ids_equal_the_published_reference(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "TinyStories-656K")
    pairs = PairSet.from_json(shared / "reference" / "tinystories656k_name_pronoun_pairs.json")
    tokens = pairs.tokenize(tokenizer)
    with np.load(shared / "reference" / "tinystories656k_name_pronoun_patching.npz") as reference:
        assert np.array_equal(tokens.clean.numpy(), reference["clean_ids"])
        assert np.array_equal(tokens.corrupt.numpy(), reference["corrupt_ids"])
        assert np.array_equal(tokens.subject.numpy(), reference["diff_pos"])
    assert tokens.pairs.pairs == pairs.pairs
    assert tokens.mask.all()
    assert tokens.clean_text[0] == ("<|start_story|>", "␣", "One␣day,␣", "Lily␣", "was␣very␣happy")


def test_a_prompt_that_goes_on_beyond_its_partner_is_shown(shared: Path) -> None:
    """Where the partner has nothing, at its very end, there is no token to look at."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "TinyStories-656K")
    said = message(tokenizer, ("One day, Lily was happy and", "One day, Lily was"))
    assert "‹" in said
    assert "happy" in said


def test_left_padding_puts_the_last_token_into_one_column(any_gemma: Any) -> None:
    tokens = PairSet.from_pairs([BOMB, GUN]).tokenize(any_gemma)
    assert (tokens.n_pairs, tokens.n_pos, tokens.last) == (2, 18, 17)
    assert tokens.mask.sum(1).tolist() == [18, 15]
    assert tokens.subject.tolist() == [12, 12]
    assert tokens.first_difference == 12
    assert (tokens.clean[:, -1] == any_gemma.convert_tokens_to_ids("\n")).all()
    assert tokens.clean_text[1][:4] == ("", "", "", "<bos>")
    assert [row[12] for row in tokens.corrupt_text] == ["␣table", "␣shed"]
    assert ((tokens.clean != tokens.corrupt) == tokens.position_mask("subject")).all()
    assert tokens.instruction[1].nonzero().flatten().tolist() == list(range(7, 13))


def test_padding_never_enters_a_prompt(gemma: Any, words: Any) -> None:
    """Every row equals the prompt tokenized alone, whether or not there is a pad token."""
    words.chat_template = None
    for tokenizer, pad in ((gemma, gemma.pad_token_id), (words, 0)):
        both = PairSet.from_pairs([BOMB, GUN]).tokenize(tokenizer)
        for i, pair in enumerate((BOMB, GUN)):
            alone = PairSet.from_pairs([pair]).tokenize(tokenizer)
            assert both.clean[i][both.mask[i]].tolist() == alone.clean[0].tolist()
            assert (both.clean[i][~both.mask[i]] == pad).all()


def test_subject_may_be_last(words: Any) -> None:
    tokens = PairSet.from_pairs([BOMB, GUN]).tokenize(words)
    assert tokens.subject.tolist() == [tokens.last] * 2
    assert tokens.instruction.equal(tokens.mask)


def test_every_bad_pair_is_listed_with_its_tokens(gemma: Any) -> None:
    told = message(
        gemma,
        BOMB,
        ("Write a manual on how to assemble a grenade", BOMB[1]),
        (BOMB[1], BOMB[1]),
        ("Develop a plan now", "Write a gang now"),
        ("Write a plan now", "Write a now"),
    )
    assert told == (
        "4 of 5 pairs do not align\n"
        "  pair 1    clean  … how to assemble a‹␣|g|r|e|n|a|d|e›      "
        "corrupt  … how to assemble a ‹table›\n"
        '            "grenade" is 8 tokens here; the swap must be one token\n'
        "  pair 2    clean and corrupt are equal: … how to assemble a table\n"
        "  pair 3    clean  ‹Develop› a ‹plan› now      corrupt  ‹Write› a ‹gang› now\n"
        '            they differ in 2 places ("Develop" / "Write", "plan" / "gang"); '
        "only one token may differ\n"
        "  pair 4    clean  Write a ‹plan› now      corrupt  Write a‹› now\n"
        '            only clean has "plan"; the swap must be one token for another\n'
        "fix or drop them (--drop-misaligned keeps the other 1)."
    )


def test_words_of_several_tokens_are_refused_even_when_one_token_differs(gemma: Any) -> None:
    told = message(gemma, ("Write a bombx now", "Write a bomby now"))
    assert '"bombx" and "bomby" are' in told
    assert "tokens each here; the swap must be one token" in told
    assert "|x› now" in told


def test_digits_and_punctuation_do_not_widen_the_swap(gemma: Any) -> None:
    pairs = PairSet.from_pairs([("Write a 15", "Write a 17"), ("Write a bomb, now", "Write a table, now")])
    tokens = pairs.tokenize(gemma)
    assert [row[int(i)] for row, i in zip(tokens.clean_text, tokens.subject, strict=True)] == ["5", "␣bomb"]


def test_bytes_of_one_character_are_one_word_of_several_tokens(gemma: Any, byte_level: Any) -> None:
    for tokenizer in (gemma, byte_level):
        told = message(tokenizer, ("a \U0001f600 now", "a \U0001f601 now"))
        assert "tokens each here; the swap must be one token" in told


def test_merges_across_the_swap_are_told(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "TinyStories-656K")
    told = message(
        tokenizer, ("One day, Lily was sad", "One day, Zeb was sad"), ("Lily was sad", "Lily is sad")
    )
    assert "pair 0    clean  One day, ‹Lily› was sad" in told
    assert "‹Z|e|b› was sad" in told
    assert '"Zeb" is 3 tokens here' in told
    assert "pair 1" in told


def test_unknown_words_are_no_subjects(words: Any) -> None:
    told = message(words, BOMB, ("Explain a grenade now", "Explain a table now"), ("a grenade", "a cannon"))
    assert "2 of 3 pairs do not align" in told
    assert '"grenade" is unknown to this tokenizer' in told
    assert "clean  Explain a ‹<unk>› now      corrupt  Explain a ‹table› now" in told
    assert "pair 2    clean and corrupt are different texts, but the same tokens: a <unk>" in told


def test_unequal_lengths_with_several_differences(gemma: Any) -> None:
    told = message(gemma, ("Develop a plan on how to build a gun", "Write a plan on how to build a grenade"))
    assert "they differ in 2 places" in told
    assert "and have 18 and 25 tokens" in told


def test_dropping_keeps_the_rest_and_tells(gemma: Any) -> None:
    pairs = PairSet.from_pairs([("a plan", "a plan"), BOMB, ("a grenade", "a table"), GUN], name="mixed")
    tokens = pairs.tokenize(gemma, drop_misaligned=True)
    assert tokens.pairs.pairs == (pairs[1], pairs[3])
    assert tokens.pairs.name == "mixed"
    assert [d.index for d in tokens.dropped] == [0, 2]
    assert tokens.dropped[1].pair == pairs[2]
    assert '"grenade" is 8 tokens' in tokens.dropped[1].reason
    assert tokens.clean.equal(PairSet.from_pairs([BOMB, GUN]).tokenize(gemma).clean)


def test_nothing_left_is_an_error(gemma: Any) -> None:
    told = message(gemma, ("a plan", "a plan"), drop_misaligned=True)
    assert "1 of 1 pair does not align" in told
    assert "no pair is left" in told
    with pytest.raises(CircuitError, match="holds no pairs"):
        PairSet(()).tokenize(gemma)


def test_without_offsets_the_result_is_the_same(gemma: Any, slow: Any) -> None:
    pairs = PairSet.from_pairs([BOMB, GUN, ("Write a plan at home", "Write a table at home")])
    fast, other = pairs.tokenize(gemma), pairs.tokenize(slow(gemma))
    assert fast.hash == other.hash
    assert fast.instruction.equal(other.instruction)
    assert fast.clean_text == other.clean_text


NOUNS = ("bomb", "table", "gun", "shed", "gang", "plan")
sentences = st.lists(
    st.sampled_from(("Write", "a", "plan", "on", "how", "to", "build", ",")), min_size=1, max_size=6
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(sentences, sentences, st.permutations(NOUNS)), min_size=1, max_size=4))
def test_any_swap_is_found_where_it_is(any_gemma: Any, drawn: list[Any]) -> None:
    pairs = [(" ".join([*l, n[0], *r]), " ".join([*l, n[1], *r])) for l, r, n in drawn]  # noqa: E741
    tokens: TokenPairs = PairSet.from_pairs(pairs).tokenize(any_gemma)
    assert tokens.position_mask("subject").equal(tokens.clean != tokens.corrupt)
    assert [row[int(i)] for row, i in zip(tokens.clean_text, tokens.subject, strict=True)] == [
        f"␣{n[0]}" for _, _, n in drawn
    ]
    assert (tokens.mask.sum(1) + (~tokens.mask).sum(1) == tokens.n_pos).all()
    assert not (tokens.instruction & ~tokens.mask).any()
    # Padding stands on the left only.
    assert (tokens.mask.int().diff(dim=1) >= 0).all()


def test_hash_depends_on_tokens_alone(gemma: Any) -> None:
    one = PairSet.from_pairs([BOMB, GUN], name="x").tokenize(gemma)
    same = PairSet.from_pairs([(*BOMB, "I", "Sure"), GUN], name="y").tokenize(gemma)
    assert one.hash == same.hash
    assert one.hash != PairSet.from_pairs([GUN, BOMB]).tokenize(gemma).hash
    assert one.hash != PairSet.from_pairs([BOMB, GUN]).tokenize(gemma, template="none").hash
    assert json.dumps(one.hash)
    assert one.clean.dtype == torch.int64
