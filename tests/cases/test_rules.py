"""Verdicts follow their rules: supported, contradicted and undecided are each reached, and only by the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from case_rows import N, cell, rows

from circuits.case.condition import Condition, Rows, condition, minus, pick, verdict
from circuits.cases.gemma_refusal.rules import stages
from circuits.stats import bootstrap_mean, cluster_bootstrap_mean
from circuits.stats.interval import resampling


def groups(**means: float) -> Rows:
    """Noised groups; unnamed ones do nothing."""
    return rows(*(
        cell(means.get(f"{group}_{kind}_{position}", 0.0), group=group, kind=f"{kind}_out", position=position)
        for group in ("early", "middle", "late")
        for kind in ("attn", "mlp")
        for position in ("subject", "last")
    ))  # fmt: skip


def residual(*last: float) -> Rows:
    return rows(*(cell(mean, layer=layer, pos=-1) for layer, mean in enumerate(last)))


THIRDS = {"early": (0, 1), "middle": (2, 3), "late": (4, 5)}


def test_a_condition_has_the_interval_of_its_pairs_and_the_share_of_resamples_on_its_side():
    values = np.random.default_rng(0).normal(0.55, 0.3, 30)
    found = condition(values, "x", "at least", 0.5)
    interval = bootstrap_mean(values)
    assert (found.mean, found.low, found.high) == pytest.approx((interval.estimate, interval.low, interval.high))
    means = resampling(30, 10_000, 0) @ values / 30
    assert found.share == pytest.approx((means >= 0.5).mean())
    assert condition(values, "x", "below", 0.5).share == pytest.approx((means < 0.5).mean())


def test_the_sign_of_an_effect_counts():
    strongly_negative = condition(np.full(10, -0.9) + np.linspace(-0.01, 0.01, 10), "x", "below", 0.5)
    assert strongly_negative.share == 1.0
    assert strongly_negative.holds is True


def test_pairs_of_one_template_are_drawn_together():
    clusters = np.repeat(range(5), 4)
    values = np.repeat(np.random.default_rng(1).normal(0.6, 0.2, 5), 4) + np.tile([-0.01, 0, 0, 0.01], 5)
    frame = pd.DataFrame({"pair": range(20), "fraction": values, "set": "direct"})
    found = pick(Rows(frame, clusters.tolist()), "x", "at least", 0.5, set="direct")
    expected = cluster_bootstrap_mean(values, clusters)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    plain = pick(Rows(frame), "x", "at least", 0.5, set="direct")
    assert plain is not None
    assert found.high - found.low > 1.5 * (plain.high - plain.low)
    assert found.share != plain.share


def test_pairs_without_a_fraction_are_left_out_with_their_clusters():
    frame = cell(0.7, set="direct")
    frame.loc[3, "fraction"] = np.nan
    values, clusters = Rows(frame, list(range(N))).per_pair("fraction", set="direct")
    assert len(values) == N - 1
    assert clusters == [0, 1, 2, *range(4, N)]


def test_a_rule_that_names_several_cells_is_a_mistake():
    with pytest.raises(ValueError, match="several cells"):
        pick(rows(cell(0.1, layer=0), cell(0.2, layer=1)), "x", "at least", 0.5)


def test_one_pair_decides_nothing():
    found = condition(np.array([0.9]), "x", "at least", 0.5)
    assert found.holds is None
    assert found.share is None
    assert found.text == "x 0.90 (no interval)"
    assert verdict("h", "s", [found]).verdict == "undecided"


def test_shares_are_rounded_to_all_or_none_only_where_they_are():
    def text(share: float, mean: float = 0.6) -> str:
        return Condition("x", mean, 0.5, 0.7, "at least", 0.5, share).text.rpartition("] ")[2]

    assert text(1.0) == "(100 %)"
    assert text(0.9996) == "(> 99 %)"
    assert text(0.91) == "(91 %)"
    assert text(0.2, mean=0.4) == "(80 %)", "of a number that fails: how often it fails"


@pytest.mark.parametrize(
    ("mlp", "attention", "ruling"),
    [(0.9, 0.0, "supported"), (0.2, 0.0, "contradicted"), (0.9, 0.8, "contradicted"), (0.51, 0.0, "undecided")],
)
def test_early_enrichment(mlp: float, attention: float, ruling: str):
    found = stages.early_enrichment(groups(early_mlp_subject=mlp, early_attn_last=attention))
    assert found.verdict == ruling
    assert f"{mlp:.2f}" in found.numbers


@pytest.mark.parametrize(
    ("last", "attention", "ruling"),
    [
        ((0, 0, 0.1, 0.5, 1.0, 1.0), 0.9, "supported"),
        ((0, 0, 0.8, 0.9, 1.0, 1.0), 0.9, "contradicted"),
        ((0, 0, 0.1, 0.5, 1.0, 1.0), 0.1, "contradicted"),
        ((0, 0, 0.1, 0.2, 0.5, 1.0), 0.9, "undecided"),
    ],
)
def test_middle_handover(last: tuple[float, ...], attention: float, ruling: str):
    found = stages.middle_handover(groups(middle_attn_last=attention), residual(*last), THIRDS)
    assert found.verdict == ruling


def test_without_a_middle_group_nothing_is_claimed():
    every = groups().frame
    without = Rows(every[every["group"] != "middle"])
    found = stages.middle_handover(without, residual(0, 1), {"early": (0,), "late": (1,)})
    assert found.verdict == "undecided"
    assert "no group called middle" in found.numbers


def component(*gaps: float) -> Rows:
    clean = [cell(gap, "value", side="clean", layer=layer) for layer, gap in enumerate(gaps)]
    corrupt = [cell(0.0, "value", side="corrupt", layer=layer).assign(value=0.0) for layer in range(len(gaps))]
    return rows(*clean, *corrupt)


@pytest.mark.parametrize(
    ("gaps", "ruling"),
    [
        ((0, 0, 0.5, 6, 9, 9, 10), "supported"), ((0, 5, 8, 9, 9, 9, 10), "contradicted"),
        ((0, 0, 0, 0, 0, 0, 0), "undecided"),
    ],
)  # fmt: skip
def test_middle_writes(gaps: tuple[float, ...], ruling: str):
    assert stages.middle_writes(component(*gaps), THIRDS).verdict == ruling


def test_middle_writes_needs_a_middle():
    assert stages.middle_writes(component(0, 5, 9), {"early": (0,), "late": (1,)}).verdict == "undecided"


def test_late_response():
    assert stages.late_response(groups(late_mlp_last=0.8)).verdict == "supported"
    assert stages.late_response(groups(late_mlp_last=0.8, late_attn_last=0.9)).verdict == "contradicted"


def test_no_single_block_names_the_largest_whatever_its_sign_and_how_often_it_is_the_largest():
    table = rows(cell(0.1, kind="attn_out", layer=0, pos=-1), cell(-0.3, kind="mlp_out", layer=2, pos=-6))
    found = stages.no_single_block(table)
    assert found.verdict == "supported"
    assert "L2.MLP at −6 (the largest in 100 % of resamples), −0.30" in found.numbers
    strong = rows(cell(0.9, kind="mlp_out", layer=2, pos=-6), cell(0.1, kind="mlp_out", layer=3, pos=-6))
    assert stages.no_single_block(strong).verdict == "contradicted"
    tied = rows(cell(0.3, kind="attn_out", layer=0, pos=-1), cell(0.301, kind="mlp_out", layer=2, pos=-6).iloc[::-1])
    tied.frame.loc[N:, "pair"] = range(N)  # the same means, in other pairs
    share = float(stages.no_single_block(tied).numbers.split("the largest in ")[1].split(" %")[0])
    assert 30 < share < 70


def sets(direct: float, both: float, null: float | None) -> Rows:
    drawn = [] if null is None else [
        cell(null - step, set=f"null of direct #{i}", null_of="direct") for i, step in enumerate((0.2, 0.0, 0.1))
    ]  # fmt: skip
    return rows(cell(direct, set="direct", null_of=""), cell(both, set="direct + diagonal", null_of=""), *drawn)


SCORES = rows(cell(0.5, "direct", label="L1.H0"), cell(0.21, "direct", label="L1.H1"))


@pytest.mark.parametrize(
    ("noised", "denoised", "null", "ruling"),
    [
        (0.9, 0.8, 0.1, "supported"), (0.9, 0.2, 0.1, "contradicted"),
        (0.6, 0.8, 0.9, "contradicted"), (0.9, 0.8, None, "undecided"),
    ],
)  # fmt: skip
def test_direct_heads_must_beat_random_sets(noised: float, denoised: float, null: float | None, ruling: str):
    found = stages.direct_heads(sets(noised, 0.0, null), sets(denoised, 0.0, null), SCORES, ("L1.H0",), 0.2)
    assert found.verdict == ruling
    assert "in at least 100 % of resamples" in found.numbers


def test_a_head_that_is_barely_direct_says_so():
    found = stages.direct_heads(sets(0.9, 0, 0.1), sets(0.9, 0, 0.1), SCORES, ("L1.H0", "L1.H1"), 0.2)
    share = float(found.numbers.split("in at least ")[1].split(" %")[0])
    assert 60 < share < 95


def test_without_direct_heads_nothing_is_claimed():
    found = stages.direct_heads(sets(0.9, 0, 0.1), sets(0.9, 0, 0.1), SCORES, (), 0.2)
    assert found.verdict == "undecided"


def test_diagonal_heads_work_against_direct_ones_only_if_together_they_do_less():
    assert stages.diagonal_antagonism(sets(0.8, 0.1, 0.0)).verdict == "supported"
    assert stages.diagonal_antagonism(sets(0.8, 0.8, 0.0)).verdict == "contradicted"
    assert stages.diagonal_antagonism(sets(0.0, 0.8, 0.0)).verdict == "undecided"
    alone = Rows(sets(0.8, 0.8, 0.0).frame.iloc[:N])
    assert stages.diagonal_antagonism(alone).verdict == "undecided"


def rates(baseline: float, intervened: float, control: float, gap: float = 5.0) -> Rows:
    found = {"baseline": baseline, "intervened": intervened, "control": control}
    clean = [
        cell(gap, "metric", setting=name, side="clean", refused=np.arange(N) < round(rate * N)) for name, rate in found.items()
    ]
    return rows(*clean, cell(0.0, "metric", setting="baseline", side="corrupt", refused=False).assign(metric=0.0))


@pytest.mark.parametrize(
    ("three", "ruling"),
    [((1, 0, 1), "supported"), ((1, 0.9, 1), "contradicted"), ((1, 0, 0), "contradicted"), ((0, 0, 0), "undecided")],
)
def test_direction_removes(three: tuple[float, float, float], ruling: str):
    assert stages.direction_removes(rates(*three)).verdict == ruling


def area(low: float, high: float):
    from circuits.stats import Interval

    return Interval((low + high) / 2, low, high, 0.95, 40, "")


def test_a_metric_that_does_not_separate_is_said_to_fail():
    assert stages.proxy_holds(rates(1, 0, 1), area(0.95, 1.0)).verdict == "supported"
    assert stages.proxy_holds(rates(1, 0, 1), None).verdict == "undecided"
    reversed_gap = stages.proxy_holds(rates(1, 0, 1, gap=-1), area(0.95, 1))
    for found in (reversed_gap, stages.proxy_holds(rates(1, 0, 1), area(0.4, 0.6))):
        assert found.verdict == "contradicted"
        assert "the proxy fails here" in found.numbers


def test_minus_signs_are_minus_signs_and_zero_has_none():
    assert minus("at -1, -0.30 [-0.00, 0.1], L9-12, 1e-06") == "at −1, −0.30 [0.00, 0.1], L9-12, 1e-06"
