"""Circuits of planted models: the true one does it all, and every number of an edge cut is what arithmetic says."""

from __future__ import annotations

from typing import Any

import numpy as np
import planted_models
import pytest

from circuits.engine.edges import METRIC, Edge
from circuits.engine.edges.cut import Cuts
from circuits.engine.edges.grid import Grid
from circuits.measure.circuit import Circuit, completeness, evaluate, minimality, sparsity_curve
from circuits.metrics import LogitDifference
from circuits.model import Model
from circuits.organisms import planted
from circuits.organisms.planted import prompts
from circuits.organisms.planted.ideal import ideal
from circuits.prompts import TokenPairs


@pytest.fixture(scope="module", params=planted.KINDS)
def known(request: Any) -> tuple[Model, planted.Truth, TokenPairs]:
    kind = request.param
    return planted_models.model(kind), planted_models.truth(kind), planted_models.tokens(kind)


def _edge(model: Model, edge: planted.Edge) -> Edge:
    if edge.receiver == "logits":
        return Edge(edge.sender, METRIC)
    if edge.input == "mlp":
        return Edge(edge.sender, edge.receiver)
    layer, _, head = edge.receiver.partition(".H")
    group = model.shape.n_heads // model.shape.n_kv_heads if edge.input in ("k", "v") else 1
    return Edge(edge.sender, f"{layer}.{edge.input}[{int(head) // group}]")


def _information(model: Model, truth: planted.Truth) -> dict[Edge, list[float]]:
    """The true circuit, and the clean prompts' metric with each edge cut alone.

    Heads that share their values lose them together, which the arithmetic of one number per component says too.
    """
    found: dict[Edge, list[planted.Edge]] = {}
    for edge in truth.edges:
        if edge.carries == "information":
            found.setdefault(_edge(model, edge), []).append(edge)
    clean, corrupt = (np.array(side) for side in prompts.raw())
    given = ideal(corrupt)
    role = {name: role for role, name in truth.roles.items()} | {"embed": "embedding", "logits": "metric"}
    cut = {
        edge: {(role[e.sender], role[e.receiver]): given[role[e.sender]] for e in together}
        for edge, together in found.items()
    }
    values = {edge: ideal(clean, edges=taken, softcap=model.softcap)["metric"].tolist() for edge, taken in cut.items()}
    for edge, together in found.items():
        if len(together) == 1:
            assert values[edge] == pytest.approx(together[0].resample)
    return values


def _faithfulness(found: Any) -> dict[tuple[str, str], float]:
    table = found.to_summary()
    return {(row.circuit, row.part): row.faithfulness for row in table.itertuples()}


def test_the_true_circuit_is_faithful_and_nothing_is_left(known: Any):
    model, truth, tokens = known
    metric = LogitDifference(model)
    circuit = Circuit.of(model, _information(model, truth))
    assert not circuit.dangling
    least = np.subtract(truth.clean, truth.corrupt).mean()
    found = _faithfulness(evaluate(model, tokens, metric, {"true": circuit}))
    assert found["true", "circuit"] == pytest.approx(1, abs=truth.tolerance / least)
    assert found["true", "complement"] == pytest.approx(0, abs=truth.tolerance / least)
    nodes = Circuit.between(model, [name for role, name in truth.roles.items() if role != "decoy"])
    assert circuit.edges < nodes.edges
    assert set(truth.roles.values()) - {truth.roles["decoy"]} == set(circuit.nodes)
    # what is the same in both prompts (words around the subject, positions) is cut too, where the ablation is not the
    # pair's own other prompt: whatever reads the embedding is then part of the circuit
    grid = Grid(model)
    whole = Circuit.of(model, nodes.edges | {edge for edge in grid.edges() if edge.sender == "embed"})
    for ablation in ("mean", "zero"):
        kept = _faithfulness(evaluate(model, tokens, metric, {"true": whole}, ablation=ablation))
        assert kept["true", "circuit"] == pytest.approx(1, abs=2 * truth.tolerance / least), ablation


def test_every_true_edge_is_minimal_where_arithmetic_says_so(known: Any):
    model, truth, tokens = known
    edges = _information(model, truth)
    found = minimality(model, tokens, LogitDifference(model), Circuit.of(model, edges))
    without = dict(zip(found.parts, found.without.T.tolist(), strict=True))
    for edge, true in edges.items():
        assert without[edge.label] == pytest.approx(true, abs=truth.tolerance), edge.label
    table = found.to_summary().set_index("part")
    gap = np.subtract(truth.clean, truth.corrupt)
    changes = {e.label: np.subtract(truth.clean, t).sum() / gap.sum() for e, t in edges.items()}
    for label, change in changes.items():
        assert table.loc[label, "change"] == pytest.approx(change, abs=2 * truth.tolerance / gap.mean())
    needed = {label for label, change in changes.items() if abs(change) > 0.02}
    assert len(needed) >= 10
    assert all(table.loc[label, "low"] * table.loc[label, "high"] > 0 for label in needed)


def test_an_edge_cut_from_the_whole_model_is_what_arithmetic_says(known: Any):
    model, truth, tokens = known
    cuts = Cuts(model, tokens, LogitDifference(model))
    edges, every = _information(model, truth), set(cuts.grid.edges())
    for edge, value in zip(edges, cuts.run([every - {edge} for edge in edges]).tolist(), strict=True):
        assert value == pytest.approx(edges[edge], abs=truth.tolerance), edge.label


def test_a_circuit_without_the_backup_is_not_complete(known: Any):
    model, truth, tokens = known
    metric, roles = LogitDifference(model), truth.roles
    edges = _information(model, truth)
    less = Circuit.of(model, [e for e in edges if roles["backup"] not in (e.sender, e.receiver)])
    found = {
        name: completeness(model, tokens, metric, circuit, draws=12, seed=1)
        for name, circuit in (("true", Circuit.of(model, edges)), ("less", less))
    }
    assert found["true"].to_summary()["incompleteness"].max() < 1e-3
    table = found["less"].to_summary()
    # with nothing taken out it is the backup's corrupt write that the circuit has instead of its clean one, which is 0
    resampled = np.subtract(truth.node(roles["backup"]).resample, truth.clean).mean()
    assert table["difference"].iloc[0] == pytest.approx(
        resampled / np.subtract(truth.clean, truth.corrupt).mean(), abs=1e-3
    )
    assert table["incompleteness"].iloc[0] < 0.02
    gone = table["taken"].str.contains(roles["mover"]) | table["taken"].str.contains(roles["previous token"])
    enriched = ~table["taken"].str.contains(roles["enricher"])
    assert (gone & enriched).any()
    # then the model's backup gives back what the circuit has not got
    assert table.loc[gone & enriched, "difference"].max() < -0.1


def test_exact_effects_beat_random_scores(known: Any):
    model, truth, tokens = known
    edges = _information(model, truth)
    exact = {edge: float(np.abs(np.subtract(truth.clean, t)).mean()) for edge, t in edges.items()}
    scores = dict.fromkeys(Grid(model).edges(), 0.0) | exact
    found = sparsity_curve(
        model, tokens, LogitDifference(model), scores, null_draws=9, sizes=(0.01, 0.02, 0.05, 0.2, 1.0)
    )
    areas = found.areas().set_index("area")
    assert (areas["as_good"] == 0.1).all()
    assert (areas["low"] <= areas["value"]).all()
    assert (areas["value"] <= areas["high"]).all()
    assert areas.loc["CPR", "low"] > areas.loc["CPR", "random_high"]
    assert areas.loc["CMD", "high"] < areas.loc["CMD", "random_low"]
    table = found.to_summary().set_index("size")
    assert table.loc[0.05, "faithfulness"] > 0.7
    assert table.loc[0.05, "random_high"] < 0.1
