"""Notebook views show the swap and escape everything."""

from __future__ import annotations

from typing import Any

from circuits.prompts import PairSet


def test_tokens_show_both_sides_of_the_swap_and_escape(gemma: Any) -> None:
    pairs = PairSet.from_pairs([("Write a <b> bomb", "Write a <b> table"), ("a plan", "a plan")], name="<i>")
    html = pairs.tokenize(gemma, drop_misaligned=True)._repr_html_()
    assert ">␣bomb</mark><mark" in html
    assert ">␣table</mark>" in html
    assert "&lt;start_of_turn&gt;" in html
    assert "<start_of_turn>" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "pair 1: clean and corrupt are equal" in html


def test_pairs_show_whole_words_and_escape() -> None:
    html = PairSet.from_pairs([("a <b>bomb now", "a <b>boat now")])._repr_html_()
    assert "a <mark" in html
    assert ">&lt;b&gt;bomb</mark>" in html
    assert ">&lt;b&gt;boat</mark> now" in html


def test_long_sets_are_cut_and_say_so() -> None:
    html = PairSet.from_pairs([(f"a {i}", f"b {i}") for i in range(25)])._repr_html_()
    assert "… 5 more" in html
    assert html.count("<tr>") == 21


def test_one_line_representations(gemma: Any) -> None:
    pairs = PairSet.from_pairs([("a bomb", "a table"), ("a plan", "a plan")], name="mine")
    assert repr(pairs) == f"PairSet('mine', 2 pairs, {pairs.hash})"
    tokens = pairs.tokenize(gemma, drop_misaligned=True)
    assert repr(tokens) == f"TokenPairs('mine', 1 pairs, {tokens.n_pos} positions, 1 dropped, {tokens.hash})"
