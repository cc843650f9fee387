"""Verdicts on the direct heads follow their rules by the numbers alone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from case_rows import N, cell

from circuits.case.condition import Rows
from circuits.cases.gemma_refusal.rules import upstream as rules
from circuits.stats import rate

RANGE = {"value": 0.3, "matched": 0.1}
SPREAD = np.linspace(-0.1, 0.1, N)
"""Over pairs, of what direct heads write beyond others."""


def said(rates: dict[str, float], random: tuple[float, ...]) -> Rows:
    """Completions of N prompts: so large a share refused per cell, and under each random set."""
    drawn = {f"null of direct #{i}": share for i, share in enumerate(random)}
    frames = [
        pd.DataFrame({"pair": range(N), "refused": np.arange(N) < round(share * N)}).assign(
            cell=name, null_of="direct" if name in drawn else ""
        )
        for name, share in (rates | drawn).items()
    ]
    return Rows(pd.concat(frames, ignore_index=True))


def noised(direct: float, random: tuple[float, ...] = (1.0, 0.9), baseline: float = 1.0, source: float = 0.0) -> Rows:
    return said({"baseline": baseline, "source": source, "direct": direct}, random)


@pytest.mark.parametrize(
    ("direct", "random", "ruling"),
    [
        (0.0, (1.0, 0.9), "supported"), (1.0, (1.0, 1.0), "contradicted"), (0.5, (1.0, 1.0), "undecided"),
        (0.0, (1.0, 0.1, 1.0), "contradicted"), (0.0, (1.0, 0.5), "undecided"), (0.0, (), "undecided"),
    ],
)  # fmt: skip
def test_noising_must_take_refusals_that_random_heads_leave(direct: float, random: tuple[float, ...], ruling: str):
    found = rules.noised_says(noised(direct, random))
    assert found.verdict == ruling
    assert found.hypothesis == "patching the direct heads changes what is said"
    assert ("too few other heads" in found.numbers) == (not random)


@pytest.mark.parametrize(
    ("direct", "random", "ruling"),
    [
        (1.0, (0.0, 0.1), "supported"), (0.35, (0.0, 0.0), "undecided"), (0.0, (0.0, 0.0), "contradicted"),
        (1.0, (0.0, 0.9), "contradicted"), (1.0, (), "undecided"),
    ],
)  # fmt: skip
def test_denoising_must_bring_refusals_that_random_heads_do_not(direct: float, random: tuple[float, ...], ruling: str):
    found = rules.denoised_says(noised(direct, random, baseline=0.0, source=1.0))
    assert found.verdict == ruling


@pytest.mark.parametrize(("baseline", "source"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.0)])
def test_prompts_that_are_said_alike_decide_nothing(baseline: float, source: float):
    found = rules.noised_says(noised(0.0, baseline=baseline, source=source))
    assert found.verdict == "undecided"
    assert "not told apart" in found.numbers
    assert f"{baseline:.2f}" in found.numbers
    assert rules.denoised_says(noised(1.0, baseline=baseline, source=source)).verdict == "undecided"


def test_the_random_set_that_is_asked_is_the_one_that_changes_most():
    found = rules.noised_says(noised(0.0, (1.0, 0.8, 0.95)))
    assert "the random set of 3 that changes most 0.80" in found.numbers


def test_rates_have_their_interval_by_clusters_where_there_are_some():
    plain = noised(0.2)
    clusters = np.repeat(range(10), 2).tolist()
    together = rules.noised_says(Rows(plain.frame, clusters))
    refused = np.arange(N) < 4
    for verdict, of in ((rules.noised_says(plain), None), (together, clusters)):
        wilson = rate(refused, of)
        assert f"0.20 [{wilson.low:.2f}, {wilson.high:.2f}]" in verdict.numbers
    assert rate(refused, clusters).high > rate(refused).high + 0.1


def writes(value: float, matched: float | None, *, direct: int = 2, others: int = 3) -> Rows:
    """Direct heads write `value` (and `matched`) more than others, which write .2 on average."""
    frames = [
        cell(0.1 * i, "value", label=f"L0.H{i}", chosen=False, matched=0.05 * i).assign(layer=0)
        for i in range(1, others + 1)
    ]
    for i in range(direct):
        high = np.nan if matched is None else 0.1 + matched
        one = cell(0.2 + value, "value", label=f"L1.H{i}", chosen=True, matched=high).assign(layer=1)
        frames.append(one.assign(value=one["value"] + SPREAD))
    return Rows(pd.concat(frames, ignore_index=True))


@pytest.mark.parametrize(
    ("value", "matched", "ruling"),
    [
        (1.0, 0.4, "supported"), (0.1, 0.4, "contradicted"), (1.0, 0.05, "contradicted"), (-1.0, -0.4, "contradicted"),
        (1.0, None, "undecided"),
    ],
)  # fmt: skip
def test_direct_heads_must_write_beyond_random_directions(value: float, matched: float | None, ruling: str):
    found = rules.writes_direction(writes(value, matched), RANGE)
    assert found.verdict == ruling
    assert f"{value:.2f}".replace("-", "−") in found.numbers
    assert "random directions" in found.rule
    assert "at least 0.3" in found.rule


def test_a_difference_across_the_range_is_undecided():
    assert rules.writes_direction(writes(0.3, 0.4), RANGE).verdict == "undecided"


def test_a_difference_is_that_of_means_over_heads_that_are_defined_everywhere():
    rows = writes(1.0, 0.4)
    rows.frame.loc[rows.frame["label"].eq("L0.H3") & rows.frame["pair"].eq(4), "matched"] = np.nan
    value, clusters = rules.beyond_others(rows, "value")
    assert clusters is None
    assert value == pytest.approx(1.0 + SPREAD)
    matched, _ = rules.beyond_others(rows, "matched")
    assert matched == pytest.approx(np.full(N, 0.5 - 0.075)), "L0.H3 is left out, so that others write .075 on average"
    nobody, _ = rules.beyond_others(writes(1.0, 0.4, others=0), "value")
    assert len(nobody) == 0


PROMPTS = 40


def diverse(
    metric: float,
    refused: float,
    *,
    random: tuple[float, float] | None = (0.0, 0.0),
    gap: float = 10.0,
    rates: tuple[float, float] = (1.0, 0.0),
) -> Rows:
    """Harmful prompts at 20, harmless ones `gap` below; the direct heads move them by these shares of the gaps."""
    spread = np.linspace(-0.5, 0.5, PROMPTS)
    frames: list[pd.DataFrame] = []

    def add(label: str, cell_: str, value: float, share: float, null_of: str = "") -> None:
        start = 0 if label == "harmful" else PROMPTS
        frames.append(pd.DataFrame({
            "pair": range(start, start + PROMPTS), "metric": value + spread,
            "refused": np.arange(PROMPTS) < round(share * PROMPTS),
        }).assign(origin="diverse", label=label, cell=cell_, null_of=null_of))  # fmt: skip

    high, low = rates
    add("harmful", "baseline", 20.0, high)
    add("harmless", "baseline", 20.0 - gap, low)
    add("harmful", "direct", 20.0 - metric * gap, high - refused * (high - low))
    add("harmless", "direct", 20.0 - gap, low)
    if random is not None:
        for i, scale in enumerate((0.5, 1.0)):
            moved = random[0] * scale, random[1] * scale
            add("harmful", f"null of direct #{i}", 20.0 - moved[0] * gap, high - moved[1] * (high - low), "direct")
    return Rows(pd.concat(frames, ignore_index=True))


@pytest.mark.parametrize(
    ("given", "ruling"),
    [
        ({"metric": 0.9, "refused": 0.9}, "supported"),
        ({"metric": 0.9, "refused": 0.0}, "contradicted"),
        ({"metric": 0.1, "refused": 0.9}, "contradicted"),
        ({"metric": 0.9, "refused": 0.5}, "undecided"),
        ({"metric": 0.9, "refused": 0.9, "random": None}, "undecided"),
        ({"metric": 0.8, "refused": 0.8, "random": (0.95, 0.0)}, "contradicted"),
        ({"metric": 0.9, "refused": 0.9, "rates": (0.0, 0.0)}, "undecided"),
        ({"metric": 0.9, "refused": 0.9, "rates": (1.0, 1.0)}, "undecided"),
        ({"metric": 0.9, "refused": 0.9, "gap": 0.05}, "undecided"),
        ({"metric": 0.9, "refused": 0.9, "gap": -10.0}, "undecided"),
    ],
)
def test_other_prompts_need_both_the_metric_and_the_refusals(given: dict[str, Any], ruling: str):
    found = rules.matters_elsewhere(diverse(**given))
    assert found.verdict == ruling
    assert found.figure == "transfer"
    apart = "rates" in given or given.get("gap", 10.0) < 1
    assert ("not told apart" in found.numbers) == apart


def test_shares_of_the_gap_are_its_numbers():
    found = rules.matters_elsewhere(diverse(0.9, 0.75))
    assert [float(x) for x in re.findall(r"moves? (\d\.\d\d) \[", found.numbers)] == [0.9, 0.75]


def test_random_heads_that_move_more_than_half_raise_the_bound():
    found = rules.matters_elsewhere(diverse(0.9, 0.9, random=(0.7, 0.8)))
    assert [float(x) for x in re.findall(r"at least (0\.\d+)", found.rule)] == [0.7, 0.8]
    assert found.verdict == "undecided", "0.9 of 40 prompts does not exclude 0.8"


def test_what_was_not_measured_is_undecided_and_says_why():
    for section, hypotheses in rules.HYPOTHESES.items():
        found = rules.unmeasured(section, "no head scores as direct at threshold 0.2")
        assert [v.hypothesis for v in found] == list(hypotheses)
        for verdict in found:
            assert verdict.verdict == "undecided"
            assert "no head scores as direct" in verdict.numbers
            assert verdict.figure == section
