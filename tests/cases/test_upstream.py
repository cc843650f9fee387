"""The chapter on the direct heads says what its tables hold, on the bundled model."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import case_upstream
import numpy as np
import pandas as pd
import pytest
import torch
from case_upstream import check

from circuits.case.condition import Rows
from circuits.cases.gemma_refusal.chapters import elsewhere, upstream
from circuits.cases.gemma_refusal.chapters import upstream_direction as along
from circuits.cases.gemma_refusal.rules import upstream as rules
from circuits.cases.gemma_refusal.setting import Chapter, Missing

NUMBER = r"(−?[\d.]+(?:e[−+]?\d+)?)"
INTERVAL = rf"{NUMBER} \[{NUMBER}, {NUMBER}\]"


@pytest.fixture(scope="module")
def case() -> Any:
    return case_upstream.measured()


@pytest.fixture(scope="module")
def told(case: Any) -> Chapter:
    return upstream.tell(case[0], case[3])


def numbers(text: str) -> list[tuple[float, float, float]]:
    """Every `mean [low, high]` of a text."""
    return [tuple(float(x.replace("−", "-")) for x in found) for found in re.findall(INTERVAL, text)]  # type: ignore[misc]


def agrees(said: tuple[float, float, float], row: Any, *columns: str) -> bool:
    return said == pytest.approx(tuple(float(row[c]) for c in columns), rel=0.006, abs=0.0006)


def section(chapter: Chapter, name: str) -> tuple[str, pd.DataFrame]:
    found = next(s for s in chapter.sections if s.id == name)
    assert found.table is not None
    return found.claim, found.table


def test_it_makes_a_report(told: Chapter):
    check(told)


def test_what_is_said_under_patches(case: Any, told: Chapter):
    claim, table = section(told, "spoken")
    rows = table.set_index("patched")
    counted = re.findall(r"(\d+) of 8(?: \w+ prompts)? \((\d+) % \[(\d+), (\d+)\]\)", claim)
    for said, patched in zip(
        counted, ("direct heads noised", "direct heads denoised", "direct + diagonal heads denoised"), strict=True
    ):
        row = rows.loc[patched]
        assert int(said[0]) == round(row["refusal_rate"] * 8)
        assert [int(x) for x in said[1:]] == pytest.approx(
            [100 * row[c] for c in ("refusal_rate", "rate_low", "rate_high")], abs=0.51
        )
    found = case[3].spoken
    for direction, setting_ in (("noise", "direct heads noised"), ("denoise", "direct heads denoised")):
        result, side = found[direction], upstream.SIDE[direction]
        shown = [c for c in told.completions if c.setting == setting_]
        frame = result.to_frame()
        mine = frame[frame["cell"] == "direct"]
        assert [c.text for c in shown] == mine["completion"].tolist()
        assert [c.refused for c in shown] == mine["refused"].tolist()
        assert [c.prompt for c in shown] == [getattr(pair, side) for pair in case[0].tokens.pairs]
        assert {c.kind for c in shown} == {side}
        refused = frame[frame["null_of"] == "direct"].groupby("cell")["refused"].mean()
        assert len(refused) == case_upstream.DRAWS
        assert (rows.loc[setting_, "random_min"], rows.loc[setting_, "random_max"]) == (refused.min(), refused.max())
    assert len(told.completions) == 16


def test_a_figure_of_completions_has_a_bar_for_every_cell_and_its_random_sets(told: Chapter):
    figure = told.sections[0].figures["spoken"]
    bars = [bar for trace in figure.data if trace.type == "bar" for bar in trace.hovertext]
    assert len(bars) == 2 * len(upstream._PATCHED)
    _, table = section(told, "spoken")
    for _, row in table.iterrows():
        assert any(f"<b>{row['refusal_rate']:.4g}</b>" in bar for bar in bars)


def test_what_direct_heads_write(case: Any, told: Chapter):
    claim, table = section(told, "head-writes")
    rows = table[table["against"] == "all heads"]
    for said, (_, row) in zip(numbers(claim), rows.iterrows(), strict=True):
        assert agrees(said, row, "effect", "low", "high")
    ranges = re.findall(
        rf"(above|below|within|not surely outside) the range of random directions \({NUMBER} to {NUMBER}\)", claim
    )
    for (where, *ends), (_, row) in zip(ranges, rows.iterrows(), strict=True):
        assert [float(x.replace("−", "-")) for x in ends] == pytest.approx(
            [row["random_low"], row["random_high"]], rel=0.006
        )
        assert (where == "above") == (row["low"] > row["random_high"])
    value = along.of_all(case[3].writes.to_summary(), "value")
    for low, high, said in (
        (-9.0, -8.0, "below"),
        (-9.0, 0.0, "not surely outside"),
        (0.0, 0.01, "within"),
        (8.0, 9.0, "above"),
    ):
        assert along._beyond(value | {"low": low, "high": high}).startswith(f"{said} the range")
    writes = case[3].writes
    for measure in ("value", "matched"):
        values, _ = rules.beyond_others(Rows.of(writes), measure)
        assert values.mean() == pytest.approx(along.of_all(writes.to_summary(), measure)["effect"], abs=1e-9)


def test_what_they_read_is_shared_out(case: Any, told: Chapter):
    claim, table = section(told, "ov")
    s, _, classes, found = case
    together = table[table["head"] == along.TOGETHER]
    assert together["share"].sum() == pytest.approx(1)
    for _, one in table[table["head"] != along.TOGETHER].groupby("head"):
        assert one["share"].sum() == pytest.approx(1)
    singles = table[table["head"] != along.TOGETHER]
    assert singles.groupby("component")["value"].sum().to_dict() == pytest.approx(
        together.set_index("component")["value"].to_dict()
    )
    assert singles["value"].abs().is_monotonic_decreasing
    whole, largest = numbers(re.sub(r"\d+ % \[.*?\]", "", claim))
    assert whole[0] == pytest.approx(together["value"].sum(), rel=0.006)
    assert agrees(largest, singles.iloc[0], "value", "low", "high")
    named = re.findall(r"(\d+) % \[(\d+), (\d+)\] from (the token embedding|L\d+\.\w+)", claim)
    for (*said, component), (_, row) in zip(named, together.head(3).iterrows(), strict=True):
        assert component == ("the token embedding" if row["component"] == "embed" else row["component"])
        assert [int(x) for x in said] == pytest.approx(
            [100 * row[c] for c in ("share", "share_low", "share_high")], abs=0.51
        )
    assert ("the 8 direct heads that write most move" in claim) == (len(found.direct) > upstream.ASKED)
    scores = classes.to_summary()
    in_layer = scores[scores["klass"] == "direct"].groupby("layer").size()
    for _, row in singles.iterrows():
        assert row["null_n"] == s.model.shape.n_heads - in_layer[int(row["head"][1 : row["head"].index(".")])]


def test_at_most_eight_heads_are_asked_and_they_are_those_that_write_most(case: Any):
    _, _, classes, found = case
    every = classes.sets()["direct"] + classes.sets()["diagonal"]
    assert len(every) > upstream.ASKED
    heads = found.writes.heads_frame().set_index("label")["value"].abs()
    asked = [h.label for h in upstream._asked(every, classes, found.writes)]
    left = {h.label for h in every} - set(asked)
    assert len(asked) == upstream.ASKED
    assert heads[list(left)].max() <= heads[asked].min()
    assert asked == sorted(asked)
    scores = classes.to_summary().set_index("label")["direct"]
    by_score = [h.label for h in upstream._asked(every, classes, Missing("no direction"))]
    assert scores[[h.label for h in every if h.label not in by_score]].max() <= scores[by_score].min()


def test_heads_elsewhere(told: Chapter):
    claim, table = section(told, "transfer")
    rows = table[table["edited"] == "direct heads"].set_index("prompts")
    expected = [
        (rows.loc[f"{origin}, {label}"], kind)
        for origin in ("diverse", "pairs")
        for label in ("harmful", "harmless")
        for kind in ("metric", "refusal")
    ]
    first, rest = claim.split(" On the prompts of the pairs")
    said = numbers(first.rpartition(";")[0]) + numbers(rest)
    for one, (row, kind) in zip(said, expected, strict=True):
        assert agrees(one, row, f"{kind}_share", f"{kind}_low", f"{kind}_high")
    counts = re.findall(r"(\d+) of 8 refused before, (\d+) after", claim)
    assert [int(x) / 8 for pair in counts for x in pair] == [
        rows.loc[f"diverse, {label}", c] for label in ("harmful", "harmless") for c in ("refused_before", "refused")
    ]
    verdict = told.verdicts[-1]
    if "not told apart" not in verdict.numbers:
        row = rows.loc["diverse, harmful"]
        assert f"{row['metric_share']:.2f} [{row['metric_low']:.2f}, {row['metric_high']:.2f}]" in verdict.numbers
        assert f"{row['refusal_share']:.2f} [{row['refusal_low']:.2f}, {row['refusal_high']:.2f}]" in verdict.numbers


def test_a_proxy_that_stops_agreeing_is_said_to(case: Any):
    """The same run, had no diverse prompt's refusal changed; and had the metric moved a little further than refusals do."""
    moved = case[3].moved
    at, own = list(moved.cells).index("direct"), torch.tensor([o == "diverse" for o in moved.origin])
    harmful = own & torch.tensor([label == "harmful" for label in moved.labels])
    refused, metric = moved.refused.clone(), moved.metric.clone()
    refused[:, harmful], refused[:, own & ~harmful] = True, False
    gap = metric[0, own & ~harmful].mean() - metric[0, harmful].mean()
    metric[at, harmful] = metric[0, harmful] + 0.9 * gap + 0.01 * torch.arange(8)
    stuck = elsewhere.tell(replace(moved, refused=refused, metric=metric), "t")
    assert (
        "metric and completions disagree: on harmful ones the metric moves, refusals do not" in stuck.sections[0].claim
    )
    assert stuck.verdicts[0].verdict == "contradicted"
    refused[at, harmful] = torch.arange(8) < 2
    apart = elsewhere.tell(replace(moved, refused=refused, metric=metric), "t")
    assert "metric and completions disagree" not in apart.sections[0].claim
    refused[:] = True
    alike = elsewhere.tell(replace(moved, refused=refused, metric=metric), "t")
    assert "both kinds are refused alike" in alike.sections[0].claim
    assert "whether metric and completions agree cannot be said" in alike.sections[0].claim
    assert alike.verdicts[0].verdict == "undecided"


def test_results_are_written_down(case: Any):
    names = {f.stem for f in case[0].data.glob("*.csv")}
    assert names == {
        "patched_completions_noise",
        "patched_completions_denoise",
        "head_writes",
        "ov_circuits",
        "transfer",
    }
    assert case[0].progress.done == upstream.STEPS
    assert all(passes > 0 for passes in case[0].progress.passes.values())


def test_ratios_are_those_of_means_and_do_not_ask_for_a_ratio_per_pair():
    rng = np.random.default_rng(0)
    parts = rng.normal([2.0, 1.0, -0.5], 0.6, (30, 3))
    whole = parts.sum(1)
    assert np.abs(whole).min() < 1, "a ratio per pair would be wild"
    share, low, high = along.ratios(parts, whole)
    assert share == pytest.approx(parts.mean(0) / whole.mean())
    assert share.sum() == pytest.approx(1)
    assert ((low < share) & (share < high)).all()
    fixed = along.ratios(np.outer(whole, [0.25, 3.0]), whole)
    assert fixed == pytest.approx(np.array([[0.25, 3.0]] * 3)), "numerator and denominator are drawn together"
    twice = along.ratios(np.repeat(parts, 2, 0), np.repeat(whole, 2), np.repeat(range(30), 2).tolist())
    assert twice == pytest.approx(np.stack([share, low, high])), "a pair said twice says no more"
    alone = along.ratios(parts, whole, [0] * 30)
    assert np.isnan(alone[1:]).all()
