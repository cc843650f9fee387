"""The chapter on the direct heads says what its tables hold, on the bundled model and where there is little to say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import circuits as ct
from circuits.case import Progress
from circuits.cases.gemma_refusal.chapters import elsewhere, upstream
from circuits.cases.gemma_refusal.chapters import upstream_direction as along
from circuits.cases.gemma_refusal.rules import upstream as rules
from circuits.cases.gemma_refusal.rules.condition import Rows
from circuits.cases.gemma_refusal.setting import Chapter, Missing, Setting
from circuits.errors import AuditError, SiteError
from circuits.measure.attention import classify_heads
from circuits.measure.directions import DirectionChoice, choose_direction
from circuits.measure.groups import thirds
from circuits.metrics import LogitDifference, LogOdds, Metric
from circuits.prompts import InstructionSet, PairSet, diverse_instructions
from circuits.report import Report
from circuits.sites import Site

IDS = ["spoken", "head-writes", "ov", "transfer"]
NUMBER = r"(−?[\d.]+(?:e[−+]?\d+)?)"
INTERVAL = rf"{NUMBER} \[{NUMBER}, {NUMBER}\]"


def setting(data: Path, n: int, metric: type[Metric] = ct.RefusalMetric, pairs: PairSet | None = None) -> Setting:
    model = ct.load()
    tokens = (ct.toy_refusal_pairs()[:n] if pairs is None else pairs).tokenize(model)
    chosen = metric(model) if metric is LogitDifference else metric(model, "I")
    groups = {name: tuple(layers) for name, layers in thirds(model.shape.n_layers).items()}
    return Setting(
        model=model, tokens=tokens, metric=chosen, groups=groups, threshold=0.2, max_kl=0.1, max_new_tokens=5, seed=0,
        data=data, progress=Progress(total=upstream.STEPS),
    )  # fmt: skip


def diverse(n: int) -> InstructionSet:
    """So many of either label, in the words of the bundled model."""
    every = diverse_instructions().of_source("grammar")
    kept = [[i for i in every if i.label == label][:n] for label in ("harmful", "harmless")]
    return InstructionSet(tuple(kept[0] + kept[1]), "a few")


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Any:
    """Random sets enough to be told apart: completions take most of the time here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream, "NULL_DRAWS", 2)
        yield


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Any:
    s = setting(tmp_path_factory.mktemp("upstream"), 8)
    classes = classify_heads(s.model, s.tokens, threshold=s.threshold)
    chosen = choose_direction(s.model, s.tokens, s.metric, max_kl=s.max_kl)
    return s, chosen, classes, upstream.measure(s, chosen, classes, diverse(8))


@pytest.fixture(scope="module")
def told(case: Any) -> Chapter:
    return upstream.tell(case[0], case[3])


def check(chapter: Chapter, *, intervals: bool = True) -> None:
    """What holds of every chapter: it makes a report, tables have intervals, and no sentence shows a NaN.

    Without `intervals` (one pair) verdicts are left to `rules.condition`, which writes them.
    """
    Report(
        title="t", question="", model="", model_note="", pairs="", metric="", certificate="", verdicts=chapter.verdicts,
        sections=chapter.sections, completions=chapter.completions,
    ).check()  # fmt: skip
    assert [section.id for section in chapter.sections] == IDS
    hypotheses = [name for names in rules.HYPOTHESES.values() for name in names]
    assert [verdict.hypothesis for verdict in chapter.verdicts] == hypotheses
    texts = [v.numbers for v in chapter.verdicts] if intervals else []
    for section in chapter.sections:
        texts += [section.claim, section.how_to_read, section.contradicted_by, *section.notes]
        assert section.published
        assert section.claim.endswith(".")
        if section.claim.startswith("Not measured"):
            assert section.table is None
            continue
        assert section.table is not None
        assert len(section.table.columns) <= 12
        assert section.table.columns.is_unique
        ends = [[c for c in section.table.columns if str(c).endswith(end)] for end in ("low", "high")]
        assert ends[0]
        assert len(ends[0]) == len(ends[1])
        for low, high in zip(*ends, strict=True):
            both = section.table[[low, high]].dropna()
            assert (both[low] <= both[high] + 1e-9).all()
        assert all(name.startswith(section.id) for name in section.figures)
    for text in texts:
        assert not re.search(r"\bnan\b", text, re.IGNORECASE), text
        assert not re.search(r"(?<![\w.])-\d", text), f"a hyphen for a minus: {text}"


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
        assert len(refused) == upstream.NULL_DRAWS
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


def test_without_direct_heads_nothing_is_run(case: Any, tmp_path: Path):
    s = replace(case[0], data=tmp_path, progress=Progress(total=upstream.STEPS))
    found = upstream.measure(s, case[1], replace(case[2], threshold=1.0), diverse(2))
    chapter = upstream.tell(s, found)
    check(chapter)
    assert all(part.claim == "Not measured: no head scores as direct at threshold 1." for part in chapter.sections)
    assert all(verdict.verdict == "undecided" for verdict in chapter.verdicts)
    assert s.progress.done == 0
    assert not list(tmp_path.iterdir())


def test_without_a_direction_heads_are_still_patched(case: Any, tmp_path: Path):
    s = replace(setting(tmp_path, 4), max_new_tokens=2)
    chapter = upstream.tell(
        s, upstream.measure(s, Missing("no candidate passes"), replace(case[2], threshold=0.95), diverse(2))
    )
    check(chapter)
    unmeasured = [part.id for part in chapter.sections if part.claim == "Not measured: no candidate passes."]
    assert unmeasured == ["head-writes", "ov"]
    assert not any(part.claim.startswith("Not measured") for part in chapter.sections if part.id not in unmeasured)


def test_along_a_direction_of_norm_zero_nothing_lies(case: Any, tmp_path: Path):
    s, chosen, classes, found = case
    zero: DirectionChoice = replace(chosen, held_out=torch.zeros(8, s.model.shape.d_model))
    direct = classes.sets()["direct"]
    s = replace(s, data=tmp_path)
    writes = upstream._writes(s, zero, direct)
    reads = s.attempt("ov circuits", lambda: upstream._read(s, zero, direct))
    assert isinstance(writes, Missing)
    assert isinstance(reads, Missing)
    chapter = upstream.tell(s, replace(found, writes=writes, reads=reads))
    check(chapter)
    claims = {part.id: part.claim for part in chapter.sections}
    assert "no unit vector" in claims["head-writes"]
    assert "no unit vector" in claims["ov"]


@pytest.mark.parametrize("n", [1, 4])
def test_few_pairs_and_a_metric_that_is_not_linear(n: int, case: Any, tmp_path: Path):
    s = setting(tmp_path, n, LogOdds)
    chosen, few = replace(case[1], held_out=case[1].held_out[:n]), replace(case[2], threshold=0.95)
    chapter = upstream.tell(s, upstream.measure(s, chosen, few, diverse(3)))
    check(chapter, intervals=n > 1)
    assert not any(part.claim.startswith("Not measured") for part in chapter.sections)
    if n == 1:
        assert "(no interval)" in next(p.claim for p in chapter.sections if p.id == "head-writes")
        assert next(v for v in chapter.verdicts if v.hypothesis == rules.WRITES).verdict == "undecided"


def without_null(found: Any) -> Any:
    """The same result without random sets of heads, which come last."""
    kept = len(found.cells) - len(found.null_of)
    cut = {name: getattr(found, name)[:kept] for name in ("refused", "metric", "completions")}
    return replace(found, **cut, cells=dict(list(found.cells.items())[:kept]), null_of={})


def test_where_every_head_is_direct_there_is_no_other_to_compare_with(case: Any, tmp_path: Path):
    s, chosen, _, found = case
    every = [Site("z", layer, h) for layer in range(s.model.shape.n_layers) for h in range(s.model.shape.n_heads)]
    writes = upstream._writes(replace(s, data=tmp_path), chosen, every)
    assert isinstance(writes, Missing)
    chapter = upstream.tell(s, upstream.Found(
        {direction: without_null(one) for direction, one in found.spoken.items()}, writes, found.reads,
        without_null(found.moved), tuple(h.label for h in every),
    ))  # fmt: skip
    check(chapter)
    claims = {part.id: part.claim for part in chapter.sections}
    assert "every head scores as direct" in claims["head-writes"]
    assert "random heads" not in claims["spoken"]
    assert "where heads of that layer" not in claims["ov"]
    assert "too few other heads" in chapter.verdicts[0].numbers
    of = {verdict.hypothesis: verdict for verdict in chapter.verdicts}
    assert of[rules.SAID].verdict != "supported"
    assert of[rules.ELSEWHERE].verdict != "supported"
    notes = {part.id: " ".join(part.notes) for part in chapter.sections}
    assert "there is no null" in notes["spoken"]
    assert "there is no null" in notes["transfer"]


def test_instructions_that_cannot_be_used_say_so_before_anything_is_run(case: Any, tmp_path: Path):
    s = replace(case[0], data=tmp_path, progress=Progress(total=1))
    sets, few = case[2].sets(), diverse(2)
    alone = InstructionSet(tuple(i for i in few if i.label == "harmful"), "mine")
    found = elsewhere.measure(s, sets, alone, "auto", null_draws=0)
    assert isinstance(found, Missing)
    assert "mine holds harmful instructions alone" in found.reason
    pairs = PairSet.from_pairs([(p.clean, p.corrupt, "I", "Sure") for p in ct.toy_refusal_pairs()[:2]])
    own = setting(tmp_path, 2, LogitDifference, pairs)
    found = elsewhere.measure(own, sets, few, "auto", null_draws=0)
    assert isinstance(found, Missing)
    assert "each pair's own" in found.reason
    assert s.progress.done == own.progress.done == 0


def test_values_that_are_no_matrix_are_a_finding_and_a_failed_check_is_not(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    s = replace(case[0], data=tmp_path)

    def lacking(*_: Any, **__: Any) -> Any:
        raise SiteError("L0.v: values leave a Mixer, not a matrix: there is no W_V")

    def failing(*_: Any, **__: Any) -> Any:
        raise AuditError("what heads read does not sum to what they write")

    read = s.attempt
    monkeypatch.setattr(upstream, "ov_circuits", lacking)
    found = read("ov circuits", lambda: upstream._read(s, case[1], case[2].sets()["direct"]))
    assert isinstance(found, Missing)
    assert "not a matrix" in found.reason
    monkeypatch.setattr(upstream, "ov_circuits", failing)
    with pytest.raises(AuditError):
        read("ov circuits", lambda: upstream._read(s, case[1], case[2].sets()["direct"]))


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
