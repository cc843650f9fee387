"""Verdicts on repair and on components together: each ruling is reached, and only by the numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from case_rows import N, cell, rows

from circuits.case.condition import Rows, minus
from circuits.cases.gemma_refusal.rules import repair as rules
from circuits.cases.gemma_refusal.rules import together
from circuits.stats.interval import resampling


def share(mean: float) -> Rows:
    return rows(cell(mean, "repaired"))


@pytest.mark.parametrize(
    ("mean", "null", "ruling"),
    [
        (0.6, (0.1, 0.3), "supported"), (-0.6, (-0.9, -0.8), "contradicted"), (0.2, (0.1, 0.5), "contradicted"),
        (0.3, (0.1, 0.3), "undecided"), (0.0, (), "undecided"), (0.6, (), "undecided"), (-0.6, (), "contradicted"),
    ],
)  # fmt: skip
def test_a_direction_is_repaired_beyond_nothing_and_beyond_random_ones(
    mean: float, null: tuple[float, ...], ruling: str
):
    found = rules.repairs_direction(share(mean), share(0.25), null)
    assert found.verdict == ruling
    assert minus(f"{mean:.2f} [") in found.numbers
    assert "ablated at all positions 0.25 [" in found.numbers
    assert (
        (minus(f"random directions {max(null):.2f}") in found.numbers)
        if null
        else ("no random direction" in found.numbers)
    )


def test_what_rounding_leaves_of_zero_is_no_repair():
    nothing = pd.DataFrame({"pair": range(N), "repaired": np.linspace(1e-7, 2e-6, N)})
    assert rules.repairs_direction(Rows(nothing), Rows(nothing), (-0.1,)).verdict == "contradicted"


def test_a_share_that_does_not_exist_decides_nothing():
    none = pd.DataFrame({"pair": range(N), "repaired": np.nan})
    found = rules.repairs_direction(Rows(none), Rows(none), (0.1,))
    assert (found.verdict, "too little" in found.numbers) == ("undecided", True)
    one = rules.repairs_direction(Rows(share(0.9).frame.iloc[:1]), share(0.9), (0.1,))
    assert (one.verdict, "without an interval" in one.numbers) == ("undecided", True)
    together = rules.repairs_direction(Rows(share(0.9).frame, [0] * N), share(0.9), (0.1,))
    assert together.verdict == "undecided"
    assert "nan" not in one.numbers + together.numbers


def later(
    ratio: float, null: float, others: int = 3, direct: float = -1.0, half: float = 0.1
) -> tuple[Rows, dict[str, Any]]:
    sums = rows(cell(direct, "value", sum="direct"), cell(-ratio * direct, "value", sum="later"))
    return sums, {
        "ratio": ratio, "ratio_low": ratio - half, "ratio_high": ratio + half, "null_high": null if others else np.nan,
        "null_n": others,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "null", "others", "ruling"),
    [
        (0.7, 0.2, 3, "supported"), (-0.7, -2.0, 3, "contradicted"), (0.5, 0.9, 1, "contradicted"),
        (0.25, 0.2, 3, "undecided"), (0.7, 0.0, 0, "undecided"), (-0.7, 0.0, 0, "contradicted"),
    ],
)  # fmt: skip
def test_later_components_repair_beyond_what_they_do_for_other_heads(
    ratio: float, null: float, others: int, ruling: str
):
    found = rules.later_repairs(*later(ratio, null, others), "L2.H6")
    assert found.verdict == ruling
    assert minus(f"L2.H6 made up later {ratio:.2f} [{ratio - 0.1:.2f}, {ratio + 0.1:.2f}]") in found.numbers


def test_a_ratio_without_a_direct_effect_decides_nothing():
    found = rules.later_repairs(*later(float("nan"), 0.2), "L2.H6")
    assert (found.verdict, "next to nothing" in found.numbers) == ("undecided", True)


@pytest.mark.parametrize("direct", [-1.0, 1.0])
def test_the_share_of_resamples_is_that_of_the_ratio(direct: float):
    """Whatever the sign of the direct effect: as if the ratio were computed in every resample."""
    sums, row = later(0.2, 0.18, direct=direct)
    noise = np.random.default_rng(0).normal(0, 0.15, N)
    frame = sums.frame.copy()
    frame.loc[frame["sum"] == "later", "value"] += noise - noise.mean()
    a, b = (frame.loc[frame["sum"] == name, "value"].to_numpy() for name in ("direct", "later"))
    counts = resampling(N, 10_000, 0)
    expected = float(((counts @ b) / -(counts @ a) >= 0.18).mean())
    assert 0.1 < expected < 0.9
    row["ratio"] = 0.3  # on the holding side, so that the share printed is the one that holds
    numbers = rules.later_repairs(Rows(frame), row, "L2.H6").numbers
    assert float(re.findall(r"\((\d+) %\)", numbers)[0]) == pytest.approx(100 * expected, abs=0.51)


# --- components together --------------------------------------------------------------------------------------------------


def joint(**interactions: float) -> Rows:
    """Pairs of components by their two letters."""
    return rows(*(cell(mean, "interaction", a=pair[0], b=pair[1]) for pair, mean in interactions.items()))


@pytest.mark.parametrize(
    ("labels", "means", "ruling"),
    [
        (("OR", "independent"), (0.3, 0.0), "supported"), (("backup", "undecided"), (0.3, 0.2), "supported"),
        (("AND", "independent"), (-0.3, 0.0), "contradicted"), (("independent", "undecided"), (0.0, 0.3), "undecided"),
        (("backup", "independent"), (0.06, 0.0), "undecided"), (("OR", "backup"), (0.02, 0.5), "supported"),
    ],
)  # fmt: skip
def test_backing_up_needs_a_label_and_an_interval(labels: tuple[str, ...], means: tuple[float, ...], ruling: str):
    pairs = [("A", "B"), ("A", "C")]
    found = together.backs_up(joint(AB=means[0], AC=means[1]), dict(zip(pairs, labels, strict=True)), 0.05)
    assert found.verdict == ruling
    shown = [mean for label, mean in zip(labels, means, strict=True) if label in together.STANDS_IN] or means
    assert minus(f"beyond each alone, {max(shown):.2f} [") in found.numbers
    assert all(f"1 {label}" in found.numbers or labels[0] == labels[1] for label in labels)


def test_backing_up_says_how_often_the_pair_stays_beyond_the_threshold():
    values = cell(0.055, "interaction", a="A", b="B")
    found = together.backs_up(Rows(values), {("A", "B"): "OR"}, 0.05)
    means = resampling(N, 10_000, 0) @ values["interaction"].to_numpy() / N
    share = float(re.findall(r"\((\d+) %\)", found.numbers)[0])
    assert share == pytest.approx(100 * (means >= 0.05).mean(), abs=0.51)
    assert 50 < share < 90
    assert found.verdict == "undecided"


def test_prompts_that_are_one_template_decide_nothing():
    values = cell(0.3, "interaction", a="A", b="B")
    found = together.backs_up(Rows(values, [0] * N), {("A", "B"): "OR"}, 0.05)
    assert found.verdict == "undecided"
    assert "nan" not in found.numbers
