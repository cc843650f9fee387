"""Filters reject what a person would reject, the lowest score wins, and an empty choice says what to relax."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import UndefinedError
from circuits.selection import Filter, published_filters, select

AXES = {"layer": (0, 1), "position": (-3, -2, -1)}
SCORE = np.array([[5.0, 1.0, 2.0], [0.0, 2.0, 1.0]])
KL = np.array([[0.0, 0.05, 0.2], [0.5, 0.1, np.nan]])
STEER = np.array([[1.0, 1.0, -1.0], [1.0, 0.0, 1.0]])


def _filters(max_kl: float = 0.1, least: float = 0.0) -> list[Filter]:
    return [Filter("kl", KL, "at most", max_kl, "max_kl"), Filter("steering", STEER, "at least", least)]


def test_counts_alone_and_in_order():
    found = select(SCORE, _filters(), axes=AXES)
    counts = [(r.filter, r.alone, r.in_order) for r in found.rejected]
    # position (0, -1) fails both: the second filter alone rejects it, in order the first has it already
    assert counts == [("finite", 1, 1), ("kl", 2, 2), ("steering", 1, 0)]
    assert found.survivors == ((0, 1), (1, 1), (0, 0))
    assert found.index == (0, 1)
    assert found.at == {"layer": 0, "position": -2}
    assert found.ties == ()
    assert "layer 0, position -2" in found.line
    assert "3 of 6 survive" in found.line
    strict = Filter("steering", STEER, "more than", 0.0)
    assert select(SCORE, [*_filters()[:1], strict], axes=AXES).survivors == ((0, 1), (0, 0))


def test_ties_are_named():
    found = select(np.array([[3.0, 1.0, 1.0], [1.0, 2.0, 1.0]]), [_filters()[1]], axes=AXES)
    assert found.index == (0, 1)
    assert found.ties == ((1, 0), (1, 2))
    assert "tied with layer 1, position -3; layer 1, position -1" in found.line


def test_one_filter_to_relax_is_named_with_a_bound_that_works():
    with pytest.raises(UndefinedError) as caught:
        select(SCORE, _filters(max_kl=-1.0), axes=AXES)
    text = str(caught.value)
    assert "none of 5 candidates passes: 5 have kl above -1.0 (nearest 0), 1 have steering below 0.0" in text
    assert "1 more are not finite" in text
    advice = re.search(r"max_kl to (\S+) \(keeps layer 0, position -3\)", text)
    assert advice
    assert select(SCORE, _filters(max_kl=float(advice[1])), axes=AXES).index == (0, 0)


def test_filters_that_only_together_are_the_reason():
    with pytest.raises(UndefinedError, match="no filter alone is the reason") as caught:
        select(SCORE, _filters(max_kl=-1.0, least=2.0), axes=AXES)
    advice = re.search(r"relax max_kl to (\S+) and relax steering to (\S+) together", str(caught.value))
    assert advice
    bounds = float(advice[1]), float(advice[2])
    assert select(SCORE, _filters(*bounds), axes=AXES).passed.any()


def test_nothing_finite_and_wrong_shapes():
    with pytest.raises(UndefinedError, match="none of 6 candidates has finite scores"):
        select(SCORE * np.nan, _filters(), axes=AXES)
    with pytest.raises(UndefinedError, match=r"shape \(2, 3\), but kl \(2, 2\)"):
        select(SCORE, [Filter("kl", KL[:, :2], "at most", 1.0)], axes=AXES)
    with pytest.raises(UndefinedError, match=r"axes \(1, 3\)"):
        select(SCORE, [], axes={"layer": (0,), "position": (-3, -2, -1)})


def test_the_published_filters_cut_the_depth_to_whole_layers():
    layer = np.arange(24.0)
    found = published_filters(np.zeros(24), np.full(24, 0.1), layer, n_layers=24)
    # 0.8 · 24 = 19.2: layer 19 is out; values at the other two bounds pass
    kept = found[0].passes & found[1].passes & found[2].passes
    assert kept.tolist() == [i < 19 for i in range(24)]


@given(st.integers(0, 10_000), st.sampled_from(["at least", "more than", "at most", "less than"]))
def test_any_advice_keeps_at_least_one(seed: int, rule: str):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 4)) * 10.0 ** rng.integers(-4, 4)
    hopeless = np.inf if rule in ("at least", "more than") else -np.inf
    filters = [
        Filter("one", values, rule, hopeless),  # type: ignore[arg-type]
        Filter("two", rng.normal(size=(2, 4)), "less than", float(rng.normal())),
    ]
    axes = {"layer": range(2), "position": range(4)}
    with pytest.raises(UndefinedError) as caught:
        select(rng.normal(size=(2, 4)), filters, axes=axes)
    advice = re.search(r"one to (\S+)(?: and relax two to (\S+) together)? ?\(keeps", str(caught.value))
    assert advice, caught.value
    relaxed = [Filter("one", values, rule, float(advice[1]))]  # type: ignore[arg-type]
    relaxed.append(Filter("two", filters[1].values, "less than", float(advice[2] or filters[1].bound)))
    assert select(np.zeros((2, 4)), relaxed, axes=axes).passed.any()
