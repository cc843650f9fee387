"""Verdicts follow their rules: supported, contradicted and undecided are each reached, and only by the numbers."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from circuits.cases.gemma_refusal import rules


def row(mean: float, **where: object) -> dict[str, object]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, **where}


def groups(**means: float) -> pd.DataFrame:
    """Noised groups; unnamed ones do nothing."""
    rows = [
        row(means.get(f"{group}_{kind}_{position}", 0.0), group=group, kind=f"{kind}_out", position=position)
        for group in ("early", "middle", "late")
        for kind in ("attn", "mlp")
        for position in ("subject", "last")
    ]
    return pd.DataFrame(rows)


def residual(*last: float) -> pd.DataFrame:
    return pd.DataFrame([row(mean, layer=layer, pos=-1) for layer, mean in enumerate(last)])


THIRDS = {"early": (0, 1), "middle": (2, 3), "late": (4, 5)}


@pytest.mark.parametrize(
    ("mlp", "attention", "ruling"),
    [(0.9, 0.0, "supported"), (0.2, 0.0, "contradicted"), (0.9, 0.8, "contradicted"), (0.52, 0.0, "undecided")],
)
def test_early_enrichment(mlp: float, attention: float, ruling: str):
    found = rules.early_enrichment(groups(early_mlp_subject=mlp, early_attn_last=attention))
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
    found = rules.middle_handover(groups(middle_attn_last=attention), residual(*last), THIRDS)
    assert found.verdict == ruling


def test_without_a_middle_group_nothing_is_claimed():
    noised = groups()
    without = noised[noised["group"] != "middle"]
    found = rules.middle_handover(without, residual(0, 1), {"early": (0,), "late": (1,)})
    assert found.verdict == "undecided"
    assert "no group called middle" in found.numbers


@pytest.mark.parametrize(
    ("gaps", "ruling"),
    [((0, 0, 0.5, 6, 9, 9, 10), "supported"), ((0, 5, 8, 9, 9, 9, 10), "contradicted"), ((0, 0, 0, 0, 0, 0, 0), "undecided")],
)
def test_middle_writes(gaps: tuple[float, ...], ruling: str):
    table = pd.DataFrame([row(gap, layer=layer) for layer, gap in enumerate(gaps)])
    assert rules.middle_writes(table, THIRDS).verdict == ruling


def test_late_response():
    assert rules.late_response(groups(late_mlp_last=0.8)).verdict == "supported"
    assert rules.late_response(groups(late_mlp_last=0.8, late_attn_last=0.9)).verdict == "contradicted"


def test_no_single_block_names_the_largest_whatever_its_sign():
    table = pd.DataFrame([
        row(0.1, kind="attn_out", layer=0, pos=-1), row(-0.3, kind="mlp_out", layer=2, pos=-6),
    ])  # fmt: skip
    found = rules.no_single_block(table)
    assert found.verdict == "supported"
    assert "L2.MLP at −6, −0.30" in found.numbers
    assert rules.no_single_block(pd.DataFrame([row(0.9, kind="mlp_out", layer=2, pos=-6)])).verdict == "contradicted"


def sets(direct: float, both: float, null: float) -> pd.DataFrame:
    return pd.DataFrame([
        row(direct, set="direct", null_max=null), row(both, set="direct + diagonal", null_max=null),
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("noised", "denoised", "null", "ruling"),
    [
        (0.9, 0.8, 0.1, "supported"), (0.9, 0.2, 0.1, "contradicted"),
        (0.6, 0.8, 0.9, "contradicted"), (0.9, 0.8, math.nan, "undecided"),
    ],
)  # fmt: skip
def test_direct_heads_must_beat_random_sets(noised: float, denoised: float, null: float, ruling: str):
    assert rules.direct_heads(sets(noised, 0.0, null), sets(denoised, 0.0, null)).verdict == ruling


def test_diagonal_heads_work_against_direct_ones_only_if_together_they_do_less():
    assert rules.diagonal_antagonism(sets(0.8, 0.1, 0.0)).verdict == "supported"
    assert rules.diagonal_antagonism(sets(0.8, 0.8, 0.0)).verdict == "contradicted"
    alone = sets(0.8, 0.8, 0.0).iloc[:1]
    assert rules.diagonal_antagonism(alone).verdict == "undecided"


def rates(baseline: float, intervened: float, control: float) -> pd.DataFrame:
    found = {"baseline": baseline, "intervened": intervened, "control": control}
    return pd.DataFrame([
        {"setting": name, "side": "clean", "refusal_rate": r, "rate_low": r - 0.1, "rate_high": r + 0.1}
        for name, r in found.items()
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("three", "ruling"),
    [((1, 0, 1), "supported"), ((1, 0.9, 1), "contradicted"), ((1, 0, 0), "contradicted"), ((0, 0, 0), "undecided")],
)
def test_direction_removes(three: tuple[float, float, float], ruling: str):
    assert rules.direction_removes(rates(*three)).verdict == ruling


def test_minus_signs_are_minus_signs_and_zero_has_none():
    assert rules.minus("at -1, -0.30 [-0.00, 0.1], L9-12, 1e-06") == "at −1, −0.30 [0.00, 0.1], L9-12, 1e-06"
