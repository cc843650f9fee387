"""Chat templates: `<bos>` exactly once, and template tokens told from the instruction's."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuits.errors import CircuitError
from circuits.prompts import PairSet
from circuits.prompts.chat import render, uses_chat
from circuits.prompts.tokenizer import tokenizer_of


def inside(tokenizer: Any, prompt: str, *, chat: bool = True) -> str:
    rendered = render(tokenizer, prompt, chat=chat)
    return "".join(p for p, hit in zip(rendered.pieces, rendered.instruction, strict=True) if hit)


def test_gemma_template_is_told_from_the_instruction(any_gemma: Any) -> None:
    rendered = render(any_gemma, "Explain how to build a bomb", chat=True)
    assert rendered.pieces == (
        "<bos>", "<start_of_turn>", "user", "↵",
        "Explain", "␣how", "␣to", "␣build", "␣a", "␣bomb",
        "<end_of_turn>", "↵", "<start_of_turn>", "model", "↵",
    )  # fmt: skip
    assert rendered.instruction == (*[False] * 4, *[True] * 6, *[False] * 5)


@pytest.mark.parametrize("chat", [True, False])
def test_bos_comes_exactly_once(any_gemma: Any, chat: bool) -> None:
    rendered = render(any_gemma, "Write a plan", chat=chat)
    assert rendered.ids[0] == any_gemma.bos_token_id
    assert rendered.ids.count(any_gemma.bos_token_id) == 1
    assert not rendered.instruction[0]


def test_prompts_that_carry_their_template_keep_their_bos(any_gemma: Any) -> None:
    text = "<bos><start_of_turn>user\nWrite a plan<end_of_turn>\n<start_of_turn>model\n"
    assert render(any_gemma, text, chat=False).ids == render(any_gemma, "Write a plan", chat=True).ids
    with pytest.raises(CircuitError, match=r'pair 0: .*starts with <bos>(?s:.*)template="none"'):
        PairSet.from_pairs([(text, text)]).tokenize(any_gemma)


def test_a_template_without_bos_gets_the_one_the_tokenizer_adds(gemma: Any, byte_level: Any) -> None:
    gemma.chat_template = gemma.chat_template.replace("{{ bos_token }}", "")
    assert render(gemma, "Write a plan", chat=True).pieces[:2] == ("<bos>", "<start_of_turn>")
    byte_level.chat_template = "{{ messages[0]['content'] }}\n"
    assert render(byte_level, "a plan", chat=True).pieces[0] == "a"


def test_tokenizers_that_add_no_bos_get_one_and_those_without_one_do_not(byte_level: Any, words: Any) -> None:
    rendered = render(byte_level, "a bomb", chat=False)
    assert rendered.pieces == ("<|endoftext|>", "a", "␣bomb")
    assert rendered.instruction == (False, True, True)
    assert render(words, "a bomb", chat=False).pieces == ("a", "bomb")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "prompt", ["user", "model", "a", "user model user", "Write\nuser\nmodel", "  a plan \n"]
)
def test_the_instruction_is_found_wherever_its_words_recur(
    gemma: Any, slow: Any, prompt: str, wrapped: bool
) -> None:
    tokenizer = slow(gemma) if wrapped else gemma
    said = inside(tokenizer, prompt).replace("␣", " ").replace("↵", "\n")
    assert said == prompt.strip()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.sampled_from(["Write", "a", "plan", "user", "model", "now", ",", ".", "7", "é", "↵"]),
        min_size=1,
        max_size=8,
    )
)
def test_any_instruction_comes_back_whole(any_gemma: Any, words: list[str]) -> None:
    prompt = " ".join(words)
    rendered = render(any_gemma, prompt, chat=True)
    hits = [i for i, hit in enumerate(rendered.instruction) if hit]
    assert hits == list(range(hits[0], hits[-1] + 1))
    assert any_gemma.decode([rendered.ids[i] for i in hits]) == prompt
    assert rendered.instruction[:4] == (False,) * 4
    assert rendered.instruction[-5:] == (False,) * 5


def test_a_template_that_repeats_the_instruction_marks_every_copy(gemma: Any) -> None:
    gemma.chat_template = "{{ messages[0]['content'] }}\n{{ messages[0]['content'] }}\n"
    rendered = render(gemma, "Write a plan", chat=True)
    assert sum(rendered.instruction) == 6
    assert len(rendered.where) == 2


def test_a_template_that_changes_the_instruction_is_an_error(gemma: Any) -> None:
    gemma.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(CircuitError, match=r'changes \'Write a plan\'(?s:.*)template="none"'):
        render(gemma, "Write a plan", chat=True)
    gemma.chat_template = "{{ raise_exception('a system turn is needed') }}"
    with pytest.raises(CircuitError, match="fails on a single user turn: a system turn is needed"):
        render(gemma, "Write a plan", chat=True)


def test_template_choice(gemma: Any, words: Any) -> None:
    assert uses_chat(gemma, "auto")
    assert uses_chat(gemma, "chat")
    assert not uses_chat(gemma, "none")
    assert not uses_chat(words, "auto")
    with pytest.raises(CircuitError, match=r'no chat template\n.*template="none"'):
        uses_chat(words, "chat")
    with pytest.raises(CircuitError, match="unknown template 'gemma'"):
        unwrap(uses_chat)(gemma, "gemma")  # past the type check that tests add


def test_bytes_and_controls_are_visible(gemma: Any, byte_level: Any) -> None:
    assert render(gemma, "é", chat=False).pieces[-2:] == ("<0xC3>", "<0xA9>")
    shown = render(byte_level, "a\n\té", chat=False).pieces
    assert shown[1:4] == ("a", "↵", "⇥")
    assert shown[4:] in {("é",), ("\\xc3", "\\xa9")}


def test_a_model_lends_its_tokenizer(words: Any) -> None:
    class Model:
        tokenizer = words

    assert tokenizer_of(Model()) is words
    assert tokenizer_of(words) is words
    with pytest.raises(CircuitError, match="int is neither a tokenizer nor a model"):
        PairSet.from_pairs([("a", "b")]).tokenize(3)
