"""Positions have names, and a position that is not there is an error that says where."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import numpy as np
import pytest
import torch

from circuits.errors import SiteError
from circuits.prompts import PairSet, TokenPairs
from circuits.prompts.columns import Column

PAIRS = [
    ("Write a manual on how to assemble a bomb", "Write a manual on how to assemble a table"),
    ("Explain how to build a gun at home", "Explain how to build a shed at home"),
]


@pytest.fixture
def tokens(gemma: Any) -> TokenPairs:
    return PairSet.from_pairs(PAIRS).tokenize(gemma)


def columns(mask: torch.Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in mask]


def test_named_positions(tokens: TokenPairs) -> None:
    assert columns(tokens.position_mask("subject")) == [[12], [10]]
    assert columns(tokens.position_mask("post_subject")) == [[13, 14, 15, 16], [11, 12, 13, 14, 15, 16]]
    assert columns(tokens.position_mask("last")) == [[17], [17]]
    assert columns(tokens.position_mask("all")) == [list(range(18)), list(range(1, 18))]


def test_integers_count_from_the_end_or_from_the_first_real_token(tokens: TokenPairs) -> None:
    assert columns(tokens.position_mask(-1)) == [[17], [17]]
    assert columns(tokens.position_mask(0)) == [[0], [1]]
    assert columns(tokens.position_mask((0, 2, -2))) == [[0, 2, 16], [1, 3, 16]]
    assert columns(tokens.position_mask(-17)) == [[1], [1]]
    assert columns(tokens.position_mask(16)) == [[16], [17]]
    assert not tokens.position_mask(()).any()


@pytest.mark.parametrize("position", [17, -18, 99, (-1, 17)])
def test_a_position_that_a_prompt_is_too_short_for_names_the_pair(tokens: TokenPairs, position: Any) -> None:
    with pytest.raises(SiteError, match=r"does not exist in pair \d, which has 1[78] tokens\nuse -17 to 16"):
        tokens.position_mask(position)


def test_pair_1_is_the_short_one(tokens: TokenPairs) -> None:
    with pytest.raises(SiteError, match="position 17 does not exist in pair 1, which has 17 tokens"):
        tokens.position_mask(17)


@pytest.mark.parametrize("position", ["subjct", ""])
def test_unknown_names_list_the_known_ones(tokens: TokenPairs, position: Any) -> None:
    with pytest.raises(SiteError, match="subject, post_subject, last, all, or integers"):
        unwrap(TokenPairs.position_mask)(tokens, position)  # past the type check that tests add


def test_true_is_not_position_one(tokens: TokenPairs) -> None:
    with pytest.raises(SiteError, match="True is not a position"):
        tokens.position_mask(True)


def test_roles_agree_with_the_masks(tokens: TokenPairs) -> None:
    masks = {name: tokens.position_mask(name) for name in ("subject", "post_subject", "last")}
    for pair in range(tokens.n_pairs):
        for pos in range(tokens.n_pos):
            role = tokens.role(pair, pos)
            assert role == tokens.role(pair, pos - tokens.n_pos)
            assert {name for name, mask in masks.items() if mask[pair, pos]} == (
                {role} if role in masks else set()
            )
            assert (role == "padding") == (not tokens.mask[pair, pos])
    with pytest.raises(SiteError, match="no pair 2, column 0"):
        tokens.role(2, 0)


def test_subject_before_last_leaves_no_post_subject(words: Any) -> None:
    tokens = PairSet.from_pairs([("a bomb", "a table"), ("a gun now", "a shed now")]).tokenize(words)
    assert not tokens.position_mask("post_subject").any()
    assert (tokens.role(0, -1), tokens.role(1, -1), tokens.role(0, 0)) == ("subject", "last", "padding")


def test_axis_says_what_is_true_of_all_pairs(gemma: Any, tokens: TokenPairs) -> None:
    axis = PairSet.from_pairs(PAIRS[:1]).tokenize(gemma).axis()
    assert [column.label for column in axis[-7:]] == [
        "␣a", "‹subject›", "<end_of_turn>", "↵", "<start_of_turn>", "model", "↵",
    ]  # fmt: skip
    assert axis[12] == Column(pos=12, relative=-6, label="‹subject›", is_template=False, is_subject=True)
    assert axis[12].tick == "-6 ‹subject›"
    assert [column.is_template for column in axis] == [True] * 4 + [False] * 9 + [True] * 5
    mixed = tokens.axis()
    # Columns 10 and 12 are the subject of one pair only.
    assert [column.label.startswith("·") for column in mixed[9:13]] == [True] * 4
    assert [column.is_subject for column in mixed[9:13]] == [False, True, False, True]
    assert [column.label for column in mixed[13:]] == ["<end_of_turn>", "↵", "<start_of_turn>", "model", "↵"]
    assert len({column.tick for column in mixed}) == tokens.n_pos


def test_axis_names_what_most_prompts_share(words: Any) -> None:
    swaps = [("a bomb now", "a table now"), ("a gun now", "a shed now"), ("a bomb home", "a table home")]
    axis = PairSet.from_pairs(swaps).tokenize(words).axis()
    assert [column.label for column in axis] == ["a", "‹subject›", "·now"]


@pytest.mark.parametrize(
    "indices", [[1], (-1,), torch.tensor([1]), np.array([1]), torch.tensor([False, True])]
)
def test_select_keeps_the_columns(tokens: TokenPairs, indices: Any) -> None:
    chosen = tokens.select(indices)
    assert chosen.pairs.pairs == tokens.pairs.pairs[1:]
    assert chosen.clean.equal(tokens.clean[1:])
    assert chosen.mask.equal(tokens.mask[1:])
    assert chosen.subject.tolist() == [10]
    assert chosen.corrupt_text == tokens.corrupt_text[1:]


def test_select_names_what_is_not_there(tokens: TokenPairs) -> None:
    assert tokens.select([1, 0, 1]).pairs.pairs[0] == tokens.pairs.pairs[1]
    with pytest.raises(SiteError, match="no pair 2; there are 2"):
        tokens.select([0, 2])
    with pytest.raises(SiteError, match="no pair selected"):
        tokens.select([])
    with pytest.raises(SiteError, match="a mask of 1 entries for 2 pairs"):
        tokens.select([True])


def test_frame_has_one_row_per_real_token(tokens: TokenPairs) -> None:
    frame = tokens.to_frame()
    assert len(frame) == 18 + 17
    subject = frame[frame["role"] == "subject"]
    assert subject["clean"].tolist() == ["␣bomb", "␣gun"]
    assert subject["corrupt"].tolist() == ["␣table", "␣shed"]
    assert subject["relative"].tolist() == [-6, -8]
    same = frame[frame["role"] != "subject"]
    assert (same["clean_id"] == same["corrupt_id"]).all()
    assert frame.groupby("pair")["is_template"].sum().tolist() == [9, 9]
