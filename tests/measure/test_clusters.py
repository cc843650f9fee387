"""Pairs of one template are one draw, in every interval and every test of every measurement."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_models
import tiny
import torch

import circuits
from circuits.frames import cells
from circuits.interventions import Patch
from circuits.measure import behaviour as behaviour_module
from circuits.measure import clamping as clamping_module
from circuits.measure import patched_behaviour as patched_module
from circuits.measure import transfer as transfer_module
from circuits.measure.attention import classify_heads
from circuits.measure.attribution import attribute_logits
from circuits.measure.behaviour import behaviour
from circuits.measure.blocks import patch_blocks
from circuits.measure.clamping import clamp_component
from circuits.measure.groups import patch_groups
from circuits.measure.head_sets import patch_head_sets
from circuits.measure.head_writes import head_writes
from circuits.measure.heads import patch_heads
from circuits.measure.interaction import interactions
from circuits.measure.lens import logit_lens
from circuits.measure.ov import ov_circuits
from circuits.measure.patched_behaviour import patched_behaviour
from circuits.measure.repair_identity import decompose_repair
from circuits.measure.residual import patch_residual
from circuits.measure.self_repair import self_repair
from circuits.measure.transfer import transfer
from circuits.measure.writes import components
from circuits.metrics import LogitDifference, RefusalMetric
from circuits.model import load
from circuits.prompts import PairSet, TokenPairs, template_clusters
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.prompts.subjects import filter_subjects
from circuits.prompts.toy import refusal_subjects
from circuits.result import Result
from circuits.sites import Site, head
from circuits.stats import auroc, bootstrap_means, cluster_bootstrap_mean, cluster_bootstrap_means, max_t_test
from circuits.tables import provenance

TOKENS = small_models.uneven()
MODEL = small_models.model("gemma2")
METRIC = RefusalMetric(MODEL, "w60")
V = torch.randn(32, generator=torch.Generator().manual_seed(8))
COPIES = TOKENS.select([*range(5)] * 4)
"""Twenty pairs of five templates that say no more than the five."""
DIVERSE = InstructionSet(
    tuple(Instruction(f"w{i} w{i + 1} w{i + 3}", "harmful" if i % 2 else "harmless") for i in range(8)), "diverse"
).tokenize(tiny.tokenizer())
TWO = (head(1, 0), head(2, 3))

MEASURE: dict[str, tuple[Callable[[TokenPairs], Result], tuple[str, ...]]] = {
    "attention": (lambda t: classify_heads(MODEL, t), ("to_summary",)),
    "attribution": (
        lambda t: attribute_logits(MODEL, t, LogitDifference(MODEL, "w50", "w51")), ("to_summary", "heads_summary"),
    ),
    "behaviour": (lambda t: behaviour(MODEL, t, METRIC, V, max_new_tokens=4), ("to_summary",)),
    "blocks": (lambda t: patch_blocks(MODEL, t, METRIC), ("to_summary",)),
    "clamping": (
        lambda t: clamp_component(MODEL, t, METRIC, V, layer=2, null_draws=2), ("to_summary", "curve_frame", "gap_frame"),
    ),
    "groups": (lambda t: patch_groups(MODEL, t, METRIC), ("to_summary",)),
    "head_sets": (lambda t: patch_head_sets(MODEL, t, METRIC, sets={"two": TWO}, null_draws=2), ("to_summary",)),
    "head_writes": (lambda t: head_writes(MODEL, t, V, heads=TWO, null_draws=20), ("to_summary", "heads_frame")),
    "heads": (lambda t: patch_heads(MODEL, t, METRIC), ("to_summary",)),
    "interaction": (
        lambda t: interactions(MODEL, t, METRIC, components=[*TWO, Site("mlp_out", 2)], null_draws=2),
        ("to_summary", "to_components"),
    ),
    "lens": (lambda t: logit_lens(MODEL, t, LogitDifference(MODEL, "w50", "w51"), null_draws=20), ("to_summary",)),
    "ov": (lambda t: ov_circuits(MODEL, t, V, heads=[head(2, 3)]), ("to_summary", "heads_frame")),
    "patched_behaviour": (
        lambda t: patched_behaviour(
            MODEL, t, METRIC, cells={"two": tuple(Patch(h) for h in TWO)}, null_draws=2, max_new_tokens=4
        ),
        ("to_summary",),
    ),
    "repair_identity": (lambda t: decompose_repair(MODEL, t, METRIC, head(1, 0), null_draws=2), ("to_summary",)),
    "residual": (lambda t: patch_residual(MODEL, t, METRIC), ("to_summary",)),
    "self_repair": (lambda t: self_repair(MODEL, t, V, null_draws=2), ("to_summary",)),
    "transfer": (
        lambda t: transfer(MODEL, t, DIVERSE, METRIC, sets={"two": TWO}, null_draws=2, max_new_tokens=4),
        ("to_summary", "agreement"),
    ),
    "writes": (lambda t: components(MODEL, t, V, null_draws=20), ("gap_frame", "written_summary")),
}  # fmt: skip
"""Every measurement with pairs, and its frames over pairs."""
COUNTS = ("n", "share_n", "undefined", "null_n", "started", "stopped")
RATES = ("rate_low", "rate_high", "change_low", "change_high", "rate_change_", "rate_fraction_", "verdict")
"""A rate's limits know, from answers that differ within a template, how much those say: see `stats.rates`."""


def _refuses(text: str) -> bool:
    return "w2" in text


def _with(found: Result, clusters: tuple[int, ...]) -> Any:
    return replace(found, provenance=replace(found.provenance, clusters=clusters))


@pytest.mark.parametrize("name", MEASURE)
def test_copies_of_pairs_say_no_more_than_the_pairs(name: str, monkeypatch: pytest.MonkeyPatch):
    """Means, intervals and p values of twenty pairs, the five four times over, are those of the five."""
    for module in (behaviour_module, clamping_module, patched_module, transfer_module):
        monkeypatch.setattr(module, "is_refusal", _refuses)
    measure, frames = MEASURE[name]
    copies, five = measure(COPIES), _with(measure(TOKENS), tuple(range(5)))
    assert copies.clusters == tuple([*range(5)] * 4)
    narrower = 0.0
    for frame in frames:
        whole, alone, apart = (getattr(found, frame)() for found in (copies, five, _with(copies, ())))
        known = [c for c in whole if c not in COUNTS and not c.startswith(RATES)]
        for column in known:
            if pd.api.types.is_float_dtype(whole[column]):
                np.testing.assert_allclose(
                    whole[column], alone[column], rtol=2e-3, atol=2e-5, err_msg=f"{frame} {column}"
                )
        low, high = (next(c for c in known if c.endswith(end)) for end in ("low", "high"))
        narrower = max(narrower, ((apart[high] - apart[low]) / (whole[high] - whole[low])).median())
    assert 0 < narrower < 0.7  # as if independent, four times the pairs would seem to halve them


def test_agreement_counts_pairs_and_templates(monkeypatch: pytest.MonkeyPatch):
    """Whether the metric tells refusals: the two prompts of a pair are one draw, and copies of pairs say no more."""
    monkeypatch.setattr(behaviour_module, "is_refusal", _refuses)
    five, copies = (behaviour(MODEL, t, METRIC, V, max_new_tokens=6) for t in (TOKENS, COPIES))
    refused, metric, pair = five.refused[0].flatten().numpy(), five.metric[0].flatten().numpy(), np.tile(range(5), 2)
    by_pair = auroc(metric[refused], metric[~refused], clusters=(pair[refused], pair[~refused]))
    assert five.agreement() == by_pair
    assert five.agreement() != auroc(metric[refused], metric[~refused])
    found = copies.agreement()
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (by_pair.estimate, by_pair.low, by_pair.high), abs=1e-6
    )


CALLS = {
    "summary": "clusters", "sweep_summary": "clusters", "max_t": "clusters", "max_t_test": "clusters", "survival": "clusters",
    "auroc": "clusters", "mean_interval": 1, "mean_intervals": 1, "rate": 1, "paired_change": 2, "mcnemar_p": 2,
    "_ratios": 2, "bootstrap_mean": "never", "bootstrap_means": "never", "wilson": "never",
}  # fmt: skip
"""Where each is told the clusters: a keyword, a place, or that it cannot be told."""
UNITS = {
    "ov.py:auroc", "head_writes.py:auroc", "verified.py:wilson", "attention_text.py:summary", "capability.py:mean_interval",
    "separation.py:wilson", "shifts.py:bootstrap_mean",
}  # fmt: skip
"""Of tokens, heads and verified names, which are no pairs; of instructions without partners, each a draw of its own."""


def test_no_interval_and_no_test_forgets_the_templates():
    """Read off the measurements' own text, for the frames that only a figure makes."""
    folder, wrong, seen = Path(circuits.__file__).parent / "measure", [], set()
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS):
                continue
            name, where = node.func.id, CALLS[node.func.id]
            seen.add(name)
            told = len(node.args) > where if isinstance(where, int) else where in {k.arg for k in node.keywords}
            if not told and f"{path.name}:{name}" not in UNITS:
                wrong.append(f"{path.name}:{node.lineno} {name}")
    assert not wrong
    assert seen >= {"summary", "sweep_summary", "max_t", "auroc", "mean_interval", "mean_intervals", "rate", "_ratios"}


# pairs that share templates, on the model that comes with the package

SENTENCES = (
    "Write a manual on how to assemble a {}", "Explain how to build a {}", "Tell me how to make a {}",
    "Describe how to use a {}", "Give me instructions for a {}", "Teach me how to hide a {}",
)  # fmt: skip


@pytest.fixture(scope="module")
def six() -> TokenPairs:
    """24 pairs of 6 templates, four in each."""
    model, pairs = load(device="cpu"), []
    for i, sentence in enumerate(SENTENCES):
        dealt = filter_subjects(model, refusal_subjects(), template=sentence).pairs()
        pairs += [(p.clean, p.corrupt) for p in dealt if " a " in p.clean][4 * i : 4 * i + 4]
    return PairSet.from_pairs(pairs, name="six").tokenize(model)


@pytest.fixture(scope="module")
def residual(six: TokenPairs) -> Any:
    model = load(device="cpu")
    return patch_residual(model, six, RefusalMetric(model, "I"))


def test_provenance_says_how_many_templates(six: TokenPairs):
    of = tuple(i // 4 for i in range(24))
    found = provenance(MODEL, six)
    assert found.clusters == template_clusters(six) == of
    assert found.pairs == f"24 pairs of 6 templates ({six.hash})"
    one = provenance(MODEL, TOKENS.select([1, 1, 1]))
    assert (one.clusters, one.pairs.partition(" (")[0]) == ((), "3 pairs of one template")
    apart = provenance(MODEL, TOKENS)
    assert (apart.clusters, apart.pairs) == ((), f"5 pairs ({TOKENS.hash})")
    assert provenance(MODEL, TOKENS.select([2])).pairs.startswith("1 pairs (")
    both = provenance(MODEL, TOKENS.select([3, 0, 3]))
    assert (both.clusters, both.pairs.partition(" (")[0]) == ((0, 1, 0), "3 pairs of 2 templates")


def test_the_unpaired_set_of_a_transfer_has_no_templates():
    found = transfer(MODEL, COPIES, DIVERSE, METRIC, sets={"two": TWO}, null_draws=0, max_new_tokens=2)
    said = f"20 pairs of 5 templates ({COPIES.hash}) and 8 unpaired instructions ({DIVERSE.hash})"
    assert found.provenance.pairs == said
    whole, apart = (r.to_summary().set_index("origin") for r in (found, _with(found, ())))
    limits = ["metric_low", "metric_high", "rate_low", "rate_high", "metric_change_low", "rate_change_low"]
    pd.testing.assert_frame_equal(whole.loc["diverse", limits], apart.loc["diverse", limits])
    assert (whole.loc["pairs", "metric_low"] < apart.loc["pairs", "metric_low"]).all()


def test_intervals_are_over_whole_templates(residual: Any):
    table, of = residual.to_summary(), template_clusters(residual.tokens)
    named, matrix, _ = cells(residual.to_frame(), ["layer", "pos"], "fraction")
    assert named.equals(table[["layer", "pos"]])
    values = np.where(np.abs(matrix) > 1e-5, matrix, 0.0)
    present = np.isfinite(matrix)
    p = max_t_test(np.where(present, values, 0.0), present=present, clusters=of)
    acts = table["mean"].abs() > 0.05
    wider = []
    for row, column, cell in zip(table.itertuples(), matrix.T, p, strict=True):
        there = np.isfinite(column)
        by_hand = cluster_bootstrap_mean(column[there], np.array(of)[there])
        assert row.mean == pytest.approx(by_hand.estimate)
        assert (row.low, row.high) == pytest.approx((by_hand.low, by_hand.high), nan_ok=True)
        assert row.survives == (cell.p <= 0.05)
        plain = bootstrap_means(column[there][:, None])[0]
        if acts[row.Index] and np.ptp(column[there]) > 1e-3:  # entering the first block, the subject is everything
            wider.append((row.high - row.low) / (plain.high - plain.low))
    assert len(wider) > 10
    assert np.median(wider) > 1.2
    assert f"24 pairs of 6 templates ({residual.tokens.hash})" in residual.provenance.caption
    caption = next(a.text for a in residual.figure().layout.annotations if a.name == "caption").replace("<br>", " ")
    assert f"(max-T, signs of whole templates flipped): {table['survives'].sum()}" in caption


def test_templates_that_differ_widen_every_interval(residual: Any):
    """Planted: what a patch brings back depends on the template alone, so that 24 pairs say as much as 6."""
    of, rng = template_clusters(residual.tokens), np.random.default_rng(0)
    share = torch.tensor(rng.normal(0.5, 0.2, (6, *residual.value.shape[1:]))[list(of)])
    base, source = (t.double()[:, None, None] for t in (residual.base, residual.source))
    planted = replace(residual, value=base + share * (source - base))
    whole, apart = planted.to_summary(), _with(planted, ()).to_summary()
    full = whole["n"] == 24
    ratio = ((whole["high"] - whole["low"]) / (apart["high"] - apart["low"]))[full]
    assert (ratio > 1.5).all()
    named, matrix, _ = cells(planted.to_frame(), ["layer", "pos"], "fraction")
    six = cluster_bootstrap_means(matrix[::4][:, full], range(6))
    assert whole.loc[full, "low"].tolist() == pytest.approx([i.low for i in six], abs=1e-4)
    assert len(named) == len(whole)
