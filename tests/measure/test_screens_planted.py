"""Where the circuit is known screens find it, and each repair of AtP finds what it was made to find."""

from __future__ import annotations

from typing import Any

import numpy as np
import planted_models
import pytest
import torch

from circuits.engine.edges import METRIC
from circuits.measure.screens import NODE_METHODS, all_nodes, exact_nodes, screen_edges, screen_nodes
from circuits.metrics import LogitDifference
from circuits.model import Model, load
from circuits.organisms import planted
from circuits.organisms.planted import circuit
from circuits.prompts import TokenPairs


@pytest.fixture(scope="module", params=planted.KINDS)
def known(request: Any) -> tuple[Model, planted.Truth, TokenPairs]:
    kind = request.param
    return planted_models.model(kind), planted_models.truth(kind), planted_models.tokens(kind)


def test_planted_nodes_rank_first(known: Any):
    model, truth, tokens = known
    metric = LogitDifference(model)
    names = [node.name for node in truth.nodes]
    effect = {n.name: abs(np.mean(n.resample) - np.mean(truth.clean)) for n in truth.nodes}
    acting = {name for name, size in effect.items() if size > 0.03}
    assert len(acting) == 10
    for method in NODE_METHODS[:3] + NODE_METHODS[4:]:
        found = screen_nodes(model, tokens, metric, method=method, nodes=names).to_summary()
        assert set(found["name"][: len(acting)]) == acting, method
        assert found["size"].iloc[len(acting)] < 1e-3
    # what only the other half of an OR makes superfluous acts on inputs between the two runs
    found = screen_nodes(model, tokens, metric, method="eap-ig-inputs", nodes=names).to_summary()
    either = {truth.roles["or first"], truth.roles["or second"]}
    assert set(found["name"][: len(acting) + 2]) == acting | either


def test_planted_edges_rank_first(known: Any):
    model, truth, tokens = known
    found = screen_edges(model, tokens, LogitDifference(model))
    mean = found.score.mean(0).tolist()
    score = dict(zip(zip(found.senders, found.receivers, strict=True), mean, strict=True))
    final = [e for e in truth.edges if e.input == "final" and e.carries == "information"]
    for edge in final:  # linear but for a soft cap: the exact effect
        expected = np.mean(edge.resample) - np.mean(truth.clean)
        assert score[edge.sender, METRIC] == pytest.approx(expected, rel=0.02, abs=5e-3)
    carrying = found.to_summary(most=12)
    senders = {"embed", *truth.roles.values()} - {truth.roles["decoy"]}
    assert set(carrying["sender"]) <= senders
    assert carrying["name"][0] == "embed → L0.MLP"


def test_the_qk_fix_finds_saturated_attention(known: Any):
    """The backup's query sees `moved`: as long as that is there its attention elsewhere is saturated, gradient 0."""
    model, truth, tokens = known
    layer, index = truth.roles["backup"].removeprefix("L").split(".H")
    nodes = [f"L{layer}.q[{h}]" for h in range(model.shape.n_heads)]
    nodes += [f"L{layer}.k[{h}]" for h in range(model.shape.n_kv_heads)]
    exact = exact_nodes(model, tokens, LogitDifference(model))(nodes)
    at = nodes.index(f"L{layer}.q[{index}]")
    assert exact[:, at].mean() > 0.9
    plain = screen_nodes(model, tokens, LogitDifference(model), method="atp", nodes=nodes)
    fixed = screen_nodes(model, tokens, LogitDifference(model), method="atp-qk", nodes=nodes)
    assert plain.size[at] < 1e-3
    assert fixed.size.argmax() == at
    torch.testing.assert_close(fixed.score[:, at], exact[:, at], rtol=0.02, atol=0.02)
    assert np.delete(fixed.size, at).max() < 1e-3


@pytest.fixture
def cancelling(monkeypatch: Any, tmp_path: Any) -> tuple[Model, TokenPairs]:
    """The decoy now counts for the metric, and one neuron takes that away again while it is above one half."""
    layer, units = circuit.MLPS["gates"]
    against = circuit.Unit({"decoy": 1.0, "one": -0.5}, {"out": -1.0})
    monkeypatch.setattr(circuit, "MLPS", {**circuit.MLPS, "gates": (layer, (*units, against))})
    monkeypatch.setattr(circuit, "METRIC", {**circuit.METRIC, "decoy": 1.0})
    planted.write("gpt2", tmp_path)
    model = load(str(tmp_path), device="cpu")
    return model, planted.pairs().tokenize(model)


def test_graddrop_finds_what_cancels(cancelling: Any):
    model, tokens = cancelling
    metric, decoy = LogitDifference(model), "L2.H4"
    nodes = [name for name in all_nodes(model) if ".H" in name]
    exact = exact_nodes(model, tokens, metric)([decoy])[:, 0]
    assert exact.mean() < -0.4
    plain = screen_nodes(model, tokens, metric, method="atp", nodes=nodes)
    dropped = screen_nodes(model, tokens, metric, method="atp-graddrop", nodes=nodes)
    at = nodes.index(decoy)
    idle = [i for i, name in enumerate(nodes) if name.startswith("L0")]
    assert plain.size[at] < 2e-2
    # without the last block, one of the three passes that keep the decoy's own, the direct effect is seen
    direct = 0.95 / 3
    assert dropped.size[at] == pytest.approx(direct, abs=0.02)
    assert dropped.size[idle].max() < 1e-3
    assert not dropped.signed
