"""Circuits: how edges are chosen and pruned, and every number from the metric of the runs, by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import small_models
import torch

from circuits.engine.edges import METRIC, Edge
from circuits.engine.edges.cut import Cuts
from circuits.engine.edges.grid import Grid
from circuits.errors import SiteError, UndefinedError
from circuits.measure.circuit import (
    MIB_SIZES,
    Circuit,
    Scores,
    SparsityCurve,
    completeness,
    evaluate,
    minimality,
    sparsity_curve,
)  # fmt: skip
from circuits.measure.circuit.connected import connected
from circuits.metrics import RefusalMetric
from circuits.prompts import TokenPairs
from circuits.stats import bootstrap_mean, max_t
from circuits.tables import provenance

MODEL = small_models.model("gemma2")
TOKENS = small_models.uneven()
METRIC_OF = RefusalMetric(MODEL, "w60")
GRID = Grid(MODEL)
EDGES = GRID.edges()


@cache
def scores() -> dict[Edge, float]:
    rng = random.Random(0)
    return {edge: rng.gauss(0, 1) for edge in EDGES}


@cache
def some() -> Circuit:
    return Circuit.top_n(MODEL, scores(), 200)


def same_tokens(pairs: Any) -> TokenPairs:
    """Some pairs whose corrupt prompt is the clean one."""
    found = TokenPairs(**{**vars(TOKENS), "corrupt": TOKENS.corrupt.clone()})
    found.corrupt[pairs] = found.clean[pairs]
    return found


# --- which edges ------------------------------------------------------------------------------------------------------


def test_threshold_and_top_n_keep_the_largest():
    by_size = sorted(EDGES, key=lambda e: -abs(scores()[e]))
    top = Circuit.top_n(MODEL, scores(), 50, prune=False)
    assert top.edges == set(by_size[:50])
    assert top.edges == Circuit.by_threshold(MODEL, scores(), abs(scores()[by_size[49]]), prune=False).edges
    signed = Circuit.top_n(MODEL, scores(), 50, rank="signed", prune=False)
    assert signed.edges == set(sorted(EDGES, key=lambda e: -scores()[e])[:50])
    assert min(scores()[e] for e in signed.edges) > 0
    assert "50 of" in repr(top)
    pruned = Circuit.top_n(MODEL, scores(), 50)
    assert pruned.edges | pruned.dangling == top.edges
    assert not pruned.edges & pruned.dangling
    assert f"{len(pruned.dangling)} dangling left out" in repr(pruned)


def test_a_threshold_that_keeps_everything_is_said_to():
    whole = Circuit.by_threshold(MODEL, scores(), 0.0)
    assert whole.edges == set(EDGES)
    assert "the whole model" in repr(whole)
    assert not whole.dangling


def test_greedy_grows_back_from_the_metric():
    """Step by step: the largest edge into what is there; a head brings what its q, k and v read."""
    circuit = Circuit.greedy(MODEL, scores(), 40, prune=False)
    there, found = {METRIC}, set()
    for _ in range(40):
        edge = max((e for e in EDGES if e.receiver in there and e not in found), key=lambda e: abs(scores()[e]))
        found.add(edge)
        there |= {r for r in GRID.receivers if edge.sender in GRID.feeds(r)}
    assert circuit.edges == found
    assert Circuit.greedy(MODEL, scores(), len(EDGES)).edges == set(EDGES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_every_kept_edge_lies_on_a_path(architecture: str, seed: int):
    """Found the slow way: every path from the embedding to the metric, edge by edge, until nothing is added."""
    grid = Grid(small_models.model(architecture))
    given = set(random.Random(seed).sample(grid.edges(), 60))
    into = {"embed"} | set()
    out: set[str] = {METRIC}
    for _ in range(30):
        into |= {s for e in given if e.sender in into for s in grid.feeds(e.receiver)}
        leads = {e.sender for e in given if e.receiver in out}
        out |= {r for r in grid.receivers if leads.intersection(grid.feeds(r))}
    expected = {e for e in given if e.sender in into and e.receiver in out}
    assert connected(grid, given) == expected
    assert 0 < len(expected) < 60


def test_pruning_changes_nothing_under_resampling():
    cuts = Cuts(MODEL, TOKENS, METRIC_OF)
    drawn = [set(random.Random(seed).sample(EDGES, 120)) for seed in range(4)]
    before, after = cuts.run([*drawn, *(connected(GRID, edges) for edges in drawn)]).unflatten(0, (2, 4))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
    assert (before - cuts.ablated).abs().max() > 1e-2


def test_edges_between_nodes():
    circuit = Circuit.between(MODEL, ["L1.H2", "L3.MLP"])
    group = MODEL.shape.n_heads // MODEL.shape.n_kv_heads
    heads = {f"L1.q[{2}]", f"L1.k[{2 // group}]", f"L1.v[{2 // group}]"}
    senders = {"embed", "L1.H2", "L1.post-norm", "L3.MLP"}
    assert circuit.edges == {e for e in EDGES if e.sender in senders and e.receiver in heads | {"L3.MLP", METRIC}}
    assert circuit.nodes == ("L1.H2", "L3.MLP")
    assert {e.sender for e in circuit.without("L1.H2")} == senders - {"L1.H2"}
    everything = Circuit.between(MODEL, [s for s in GRID.senders if "post-norm" not in s])
    assert everything.edges == set(EDGES)


# --- what is measured -------------------------------------------------------------------------------------------------


def test_faithfulness_by_hand():
    tokens = same_tokens([3])
    circuits = {"some": some(), "whole": Circuit.of(MODEL, EDGES), "none": Circuit.of(MODEL, [])}
    found = evaluate(MODEL, tokens, METRIC_OF, circuits)
    frame = found.to_frame()
    assert len(frame) == 5 * 3 * 2
    assert set(frame["ablation"]) == {"resample"}
    cuts = Cuts(MODEL, tokens, METRIC_OF)
    value, rest = cuts.run([some().edges, set(EDGES) - some().edges]).double().numpy()
    one = frame[frame["circuit"] == "some"].pivot_table(index="pair", columns="part", values="value")
    np.testing.assert_allclose(one["circuit"], value, atol=1e-5)
    np.testing.assert_allclose(one["complement"], rest, atol=1e-5)
    clean, ablated = cuts.clean.double().numpy(), cuts.ablated.double().numpy()
    kept = [0, 1, 2, 4]
    table = found.to_summary().set_index(["circuit", "part"])
    expected = (value - ablated)[kept].sum() / (clean - ablated)[kept].sum()
    assert table.loc[("some", "circuit"), "faithfulness"] == pytest.approx(expected, abs=1e-5)
    per_pair = (value - ablated)[kept] / (clean - ablated)[kept]
    assert table.loc[("some", "circuit"), "mean_of_pairs"] == pytest.approx(per_pair.mean(), rel=1e-4)
    assert table.loc[("whole", "circuit"), "faithfulness"] == pytest.approx(1, abs=1e-5)
    assert table.loc[("whole", "complement"), "faithfulness"] == pytest.approx(0, abs=1e-5)
    assert table.loc[("none", "complement"), "faithfulness"] == pytest.approx(1, abs=1e-5)
    assert (table["n"] == 4).all()
    assert (table["undefined"] == 1).all()
    assert frame.query("pair == 3")["faithfulness"].isna().all()
    assert table.loc[("some", "complement"), "n_edges"] == len(EDGES) - len(some())


def test_interval_of_a_ratio_is_that_of_a_mean_where_gaps_are_equal():
    found = evaluate(MODEL, TOKENS, METRIC_OF, some())
    value = torch.tensor([[0.1], [0.5], [0.3], [0.9], [0.2]])
    equal = replace(found, value=value, complement=value, clean=torch.ones(5), ablated=torch.zeros(5))
    row, mean = equal.to_summary().iloc[0], bootstrap_mean(value[:, 0].double().numpy())
    assert (row["faithfulness"], row["low"], row["high"]) == pytest.approx((mean.estimate, mean.low, mean.high))
    lone = replace(equal, clean=torch.tensor([1.0, 1e-2, 1e-2, 1e-2, 1e-2]))
    assert math.isnan(lone.to_summary()["low"].iloc[0])  # one pair holds the gap
    clusters = replace(equal.provenance, clusters=(0, 0, 1, 1, 2))
    wide = replace(equal, provenance=clusters).to_summary().iloc[0]
    assert wide["method"].endswith("3 clusters")
    assert wide["high"] - wide["low"] != pytest.approx(row["high"] - row["low"], rel=1e-3)


@pytest.mark.parametrize("of", ["edges", "nodes"])
def test_minimality_by_hand(of: Any):
    circuit = Circuit.top_n(MODEL, scores(), 110)
    found = minimality(MODEL, TOKENS, METRIC_OF, circuit, of=of, ablation="mean")
    cuts = Cuts(MODEL, TOKENS, METRIC_OF, ablation="mean")
    frame, table = found.to_frame(), found.to_summary()
    for part in found.parts[:: max(1, len(found.parts) // 3)]:
        out = {e for e in circuit.edges if (e.label if of == "edges" else e.sender) == part}
        assert (len(out) == 1) == (of == "edges") or of == "nodes"
        whole, rest = cuts.run([circuit.edges, circuit.edges - out]).double()
        mine = frame[frame["part"] == part]
        np.testing.assert_allclose(mine["without"], rest, atol=1e-5)
        change = ((whole - rest).sum() / (cuts.clean - cuts.ablated).double().sum()).item()
        assert table.set_index("part").loc[part, "change"] == pytest.approx(change, abs=1e-5)
    assert table["change"].abs().is_monotonic_decreasing
    lost = (found.value[:, None] - found.without).double().numpy()
    gap = (found.clean - found.ablated).double().numpy()
    p = dict(zip(found.parts, max_t(np.where(np.abs(lost) > 1e-5 * np.abs(gap).mean(), lost, 0)), strict=True))
    reachable = table["p"].notna()
    assert table.loc[reachable, "p"].tolist() == pytest.approx([p[part] for part in table.loc[reachable, "part"]])
    assert set(table["ablation"]) == {"mean"}


def test_completeness_by_hand():
    circuit = Circuit.between(MODEL, ["L0.H1", "L1.H2", "L2.MLP", "L3.H0", "L3.MLP"])
    found = completeness(MODEL, TOKENS, METRIC_OF, circuit, draws=4)
    assert found.taken[0] == ()
    assert len(set(found.taken)) > 2
    assert all(set(nodes) <= set(circuit.nodes) for nodes in found.taken)
    cuts = Cuts(MODEL, TOKENS, METRIC_OF)
    for i, nodes in enumerate(found.taken[:3]):
        runs = cuts.run([[e for e in edges if e.sender not in nodes] for edges in (circuit.edges, EDGES)])
        torch.testing.assert_close(runs, torch.stack([found.of_circuit[:, i], found.of_model[:, i]]), atol=1e-5, rtol=0)
        difference = (runs[0] - runs[1]).sum() / (cuts.clean - cuts.ablated).sum()
        row = found.to_summary().iloc[i]
        assert row["difference"] == pytest.approx(difference.item(), abs=1e-5)
        assert row["incompleteness"] == abs(row["difference"])
    whole = completeness(MODEL, TOKENS, METRIC_OF, Circuit.of(MODEL, EDGES), draws=2)
    assert whole.to_summary()["incompleteness"].max() < 1e-5


# --- the curve --------------------------------------------------------------------------------------------------------


def by_hand() -> SparsityCurve:
    """Gaps 1 and 3, so that the second pair counts three times; one random curve."""
    value = torch.tensor([[0.0, 0.5, 1.0], [1.0, 2.5, 4.0]])  # less ∅: 0 .5 1 and 0 1.5 3
    return SparsityCurve(
        provenance=provenance(MODEL, TOKENS, METRIC_OF), value=value + torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]),
        null=torch.tensor([[[0.0, 0.0, 1.0], [1.0, 1.0, 4.0]]]), clean=torch.tensor([1.0, 4.0]),
        ablated=torch.tensor([0.0, 1.0]), sizes=(0.1, 0.5, 1.0), asked=(1, 5, 10), n_edges=(0, 4, 10),
        n_null=(0.0, 2.0, 10.0), n_all=10, scores="by hand", chosen="top, absolute", ablation="zero",
    )  # fmt: skip


def test_areas_by_hand():
    # f = 0, (0.5 + 4.5)/4 = 1.25, 1; trapezoids of width .4 and .5
    table = by_hand().to_summary()
    assert table["faithfulness"].tolist() == pytest.approx([0, 1.25, 1])
    assert table["random"].tolist() == pytest.approx([0, 0, 1])
    areas = by_hand().areas().set_index("area")
    assert areas.loc["CPR", "value"] == pytest.approx(0.4 * 1.25 / 2 + 0.5 * 2.25 / 2)
    assert areas.loc["CMD", "value"] == pytest.approx(0.4 * (1 + 0.25) / 2 + 0.5 * 0.25 / 2)
    assert areas.loc["CPR", "random"] == pytest.approx(0.5 / 2)
    assert areas.loc["CMD", "random"] == pytest.approx(0.4 * 2 / 2 + 0.5 / 2)
    assert (areas["as_good"] == 0.5).all()
    assert (areas["width"] == 0.9).all()
    assert set(areas["ablation"]) == {"zero"}


def test_curve_is_made_of_circuits_of_these_sizes():
    found = sparsity_curve(MODEL, TOKENS, METRIC_OF, scores(), null_draws=2)
    assert found.sizes == MIB_SIZES
    n = len(EDGES)
    assert found.asked == tuple(math.floor(size * n) for size in MIB_SIZES)
    circuits = [Circuit.top_n(MODEL, scores(), k) if k else Circuit.of(MODEL, []) for k in found.asked]
    assert found.n_edges == tuple(map(len, circuits))
    cuts = Cuts(MODEL, TOKENS, METRIC_OF)
    torch.testing.assert_close(found.value.T, cuts.run([c.edges for c in circuits]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.value[:, -1], found.clean, atol=1e-5, rtol=0)
    assert found.null.shape == (2, 5, 10)
    assert not torch.equal(found.null[0], found.null[1])
    assert (found.null[:, :, -1] == found.value[:, -1]).all()
    again = sparsity_curve(MODEL, TOKENS, METRIC_OF, scores(), null_draws=2)
    assert torch.equal(again.null, found.null)
    areas = found.areas().set_index("area")
    f = found.to_summary()["faithfulness"].to_numpy()
    assert areas.loc["CPR", "value"] == pytest.approx(np.trapezoid(f, MIB_SIZES))
    assert areas.loc["CMD", "value"] == pytest.approx(np.trapezoid(np.abs(1 - f), MIB_SIZES))
    greedy = sparsity_curve(MODEL, TOKENS, METRIC_OF, scores(), sizes=(0.05, 0.5), select="greedy", null_draws=0)
    chosen = [Circuit.greedy(MODEL, scores(), int(size * n)) for size in (0.05, 0.5)]
    torch.testing.assert_close(greedy.value.T, cuts.run([c.edges for c in chosen]), atol=1e-5, rtol=0)
    assert greedy.areas()["as_good"].isna().all()


def test_figures_name_the_ablation_and_results_are_saved(says: Any, tmp_path: Any):
    circuit = Circuit.between(MODEL, ["L1.H2", "L3.MLP"])
    results = [
        evaluate(MODEL, TOKENS, METRIC_OF, {"a": circuit, "b": some()}, ablation="mean"),
        minimality(MODEL, TOKENS, METRIC_OF, circuit, of="nodes", ablation="mean"),
        completeness(MODEL, TOKENS, METRIC_OF, circuit, draws=2, ablation="mean"),
        sparsity_curve(MODEL, TOKENS, METRIC_OF, scores(), sizes=(0.1, 1.0), null_draws=1, ablation="mean"),
    ]
    for result in results:
        figure = result.figure()
        says(figure, MODEL.name)
        assert "mean ablation" in figure.layout.title.text
        assert result.save(tmp_path).exists()
        assert (result.to_frame()["ablation"] == "mean").all()
        assert (result.to_summary()["ablation"] == "mean").all()
        assert result.provenance.certificate.startswith("mean ablation of edges")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_scores_and_choices_that_are_refused():
    one = EDGES[0]
    for wrong in (math.nan, math.inf):
        with pytest.raises(UndefinedError, match="has score"):
            Circuit.top_n(MODEL, scores() | {one: wrong}, 5)
    with pytest.raises(UndefinedError, match="hold no edge"):
        Circuit.top_n(MODEL, {}, 5)
    with pytest.raises(SiteError, match="layers 0 to 3"):
        Circuit.top_n(MODEL, {Edge("L7.H0", METRIC): 1.0}, 1)
    with pytest.raises(SiteError, match="of another model"):
        Circuit.top_n(MODEL, Scores(scores(), model_hash="elsewhere"), 1)
    with pytest.raises(UndefinedError, match=r"keeps none of \d+ edges; the largest is"):
        Circuit.by_threshold(MODEL, scores(), 99.0)
    for n in (0, len(EDGES) + 1):
        with pytest.raises(UndefinedError, match="give a number from 1"):
            Circuit.greedy(MODEL, scores(), n)
    with pytest.raises(SiteError, match="L9.H9: no head or MLP"):
        Circuit.between(MODEL, ["L9.H9"])


@pytest.fixture
def never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be run."""

    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr("circuits.engine.edges.walk.capture", run)


@pytest.mark.usefixtures("never_run")
def test_what_is_refused_before_anything_is_run():
    other = Circuit.of(small_models.model("llama"), [])
    for verb in (evaluate, minimality, completeness):
        with pytest.raises(SiteError, match="is of another model"):
            verb(MODEL, TOKENS, METRIC_OF, other)
    empty = Circuit.of(MODEL, [])
    with pytest.raises(UndefinedError, match="no edges to take out"):
        minimality(MODEL, TOKENS, METRIC_OF, empty)
    with pytest.raises(UndefinedError, match="0 nodes"):
        completeness(MODEL, TOKENS, METRIC_OF, empty)
    with pytest.raises(UndefinedError, match="no circuit given"):
        evaluate(MODEL, TOKENS, METRIC_OF, {})
    with pytest.raises(UndefinedError, match="have no score"):
        sparsity_curve(MODEL, TOKENS, METRIC_OF, dict(list(scores().items())[1:]))
    for sizes in ((0.5,), (0.5, 0.2), (0.0, 1.0), (0.5, 1.5)):
        with pytest.raises(UndefinedError, match="ascending fractions"):
            sparsity_curve(MODEL, TOKENS, METRIC_OF, scores(), sizes=sizes)


def test_pairs_without_a_gap_are_refused_before_a_circuit_is_run(monkeypatch: pytest.MonkeyPatch):
    def run(*_: Any) -> None:
        raise AssertionError("a circuit")

    monkeypatch.setattr(Cuts, "run", run)
    nothing = same_tokens(slice(None))
    with pytest.raises(UndefinedError, match="none of 5 pairs has a gap"):
        evaluate(MODEL, nothing, METRIC_OF, some())
    with pytest.raises(UndefinedError, match="none of 5 pairs has a gap"):
        sparsity_curve(MODEL, nothing, METRIC_OF, scores())
