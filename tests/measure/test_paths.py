"""Planted edges are found, with the numbers that arithmetic gives them, and no others; frames and figures say them."""

from __future__ import annotations

from typing import Any

import numpy as np
import planted_models
import pytest
import small_models
import torch

from circuits.engine.edges import METRIC, Edge, all_edges
from circuits.errors import SiteError
from circuits.measure.paths import Paths, exact_edges, patch_paths
from circuits.metrics import LogitDifference, RefusalMetric
from circuits.model import Model
from circuits.organisms import planted
from circuits.organisms.planted import circuit, prompts
from circuits.organisms.planted.ideal import ideal

TOKENS = small_models.uneven()
SENDERS = ["embed", *(f"L{layer}.H{h}" for layer in range(3) for h in range(5)), "L0.MLP", "L1.MLP"]
ROLES = {name: role for role, name in circuit.NAMES.items()} | {"embed": "embedding", METRIC: "metric"}


@pytest.fixture(scope="module", params=planted.KINDS)
def known(request: Any) -> tuple[Model, planted.Truth]:
    return planted_models.model(request.param), planted_models.truth(request.param)


@pytest.fixture(scope="module")
def found(known: Any) -> Paths:
    model, _ = known
    return patch_paths(model, planted.pairs().tokenize(model), LogitDifference(model))


def _readers(model: Model, receiver: str) -> list[str]:
    """The components that read through a receiver: of a key or value every query head of its group."""
    if receiver == METRIC:
        return [METRIC]
    layer, _, what = receiver.partition(".")
    if what == "MLP":
        return [receiver]
    n = int(what[2:-1])
    group = 1 if what[0] == "q" else model.shape.n_heads // model.shape.n_kv_heads
    return [f"{layer}.H{h}" for h in range(n * group, (n + 1) * group)]


def test_planted_edges_are_found_and_no_others(known: Any, found: Paths):
    """Every edge of the whole graph, in logits of every pair."""
    model, truth = known
    assert [Edge(*e) for e in found.edges] == all_edges(model)
    clean, corrupt = (np.array(side) for side in prompts.raw())
    cap = circuit.SOFTCAP[truth.kind]
    informs = {
        (e.sender, METRIC if e.receiver == "logits" else e.receiver, e.input)
        for e in truth.edges if e.carries == "information"
    }  # fmt: skip
    given = ideal(corrupt, softcap=cap)
    seen: set[tuple[str, str, str]] = set()
    for i, (sender, receiver) in enumerate(found.edges):
        readers = [r for r in _readers(model, receiver) if (sender, r, found.kinds[i]) in informs]
        seen |= {(sender, r, found.kinds[i]) for r in readers}
        taken = {(ROLES[sender], ROLES[r]): given[ROLES[sender]] for r in readers}
        expected = ideal(clean, edges=taken, softcap=cap)["metric"]
        assert found.value[:, i].tolist() == pytest.approx(expected, abs=truth.tolerance), found.edges[i]
    assert seen == informs
    if truth.kind == "gpt2":  # no groups: one reader each, as the truth says it
        named = zip(found.edges, found.kinds, strict=True)
        at = {(s, _readers(model, r)[0], kind): i for i, ((s, r), kind) in enumerate(named)}
        for e in truth.edges:
            i = at[e.sender, METRIC if e.receiver == "logits" else e.receiver, e.input]
            assert found.value[:, i].tolist() == pytest.approx(e.resample, abs=truth.tolerance), e


def test_verify_is_given_the_change_along_each_edge(known: Any, found: Paths):
    model, _ = known
    exact = exact_edges(model, planted.pairs().tokenize(model), LogitDifference(model))
    asked = [len(found.edges) - 1, 0, 40]
    change = exact([Edge(*found.edges[i]) for i in asked])
    torch.testing.assert_close(change, (found.value - found.base[:, None])[:, asked], rtol=0, atol=2e-5)
    with pytest.raises(SiteError, match=r"L2\.H0 is no edge"):
        exact(["L2.H0"])


def test_the_summary_says_which_edges_survive(known: Any, found: Paths):
    model, truth = known
    table = found.to_summary(clusters=tuple(range(12)))
    assert table["edge"].tolist() == list(range(len(found.edges)))
    large = table[table["mean"].abs() > 0.02]
    assert large["survives"].all()
    assert (table["n"] == 12).all()
    assert not table.loc[table[["low", "high"]].abs().max(axis=1) < 1e-6, "survives"].any()
    informs = {
        (e.sender, METRIC if e.receiver == "logits" else e.receiver) for e in truth.edges if e.carries == "information"
    }
    assert {(s, r) for s, at in zip(large["sender"], large["receiver"], strict=True) for r in _readers(model, at)} >= {
        ("L2.H0", METRIC), ("L0.MLP", "L1.H0"), ("L1.H0", "L2.H0"), ("L2.H0", "L3.H0"),
    }  # fmt: skip
    for sender, at in zip(large["sender"], large["receiver"], strict=True):
        assert any((sender, r) in informs for r in _readers(model, at))


def test_through_the_mover_the_previous_token_reaches_the_metric(known: Any):
    model, truth = known
    tokens, metric = planted.pairs().tokenize(model), LogitDifference(model)
    sender = circuit.NAMES["previous token"]
    direct = patch_paths(model, tokens, metric, senders=[sender], receivers=[METRIC])
    assert direct.value[:, 0].tolist() == pytest.approx(truth.clean, abs=truth.tolerance)
    clean, corrupt = (np.array(side) for side in prompts.raw())
    cap = circuit.SOFTCAP[truth.kind]
    mover = ideal(corrupt, softcap=cap)["mover"]
    expected = ideal(clean, edges={("mover", "metric"): mover}, softcap=cap)["metric"]
    routed = patch_paths(model, tokens, metric, senders=[sender], receivers=[METRIC], through=[circuit.NAMES["mover"]])
    assert routed.value[:, 0].tolist() == pytest.approx(expected, abs=truth.tolerance)
    assert routed.through == ("L2.H0",)


def test_frames(says: Any, tmp_path: Any):
    model = small_models.model("llama")
    senders, receivers = ["embed", "L0.H1", "L0.MLP"], ["L1.q[0]", "L1.k[1]", "L2.MLP", METRIC]
    metric = RefusalMetric(model, "w60")
    found = patch_paths(model, TOKENS, metric, senders=senders, receivers=receivers)
    frame = found.to_frame()
    assert len(frame) == TOKENS.n_pairs * 12
    assert frame["receiver"].drop_duplicates().tolist() == receivers
    assert frame["kind"].drop_duplicates().tolist() == ["q", "k", "mlp", "final"]
    row = frame[(frame["pair"] == 2) & (frame["sender"] == "L0.MLP") & (frame["receiver"] == METRIC)].iloc[0]
    i = found.edges.index(("L0.MLP", METRIC))
    value, base, source = (float(x) for x in (found.value[2, i], found.base[2], found.source[2]))
    assert row["value"] == pytest.approx(value)
    assert row["fraction"] == pytest.approx((value - base) / (source - base))
    assert (frame["positions"] == "all").all()
    assert (frame["direction"] == "noise").all()
    table = found.to_summary()
    assert table.loc[i, "mean"] == pytest.approx(frame[frame["edge"] == i]["fraction"].mean())
    figure = found.figure()
    says(figure, model.name)
    assert figure.data[0].type == "heatmap"
    assert list(figure.layout.xaxis.ticktext) == receivers
    assert list(figure.layout.yaxis.ticktext) == senders
    found.save(tmp_path)
    assert (tmp_path / "paths.csv").exists()
    again = patch_paths(model, TOKENS, metric, edges=[Edge("L0.MLP", METRIC), Edge("embed", "L1.q[0]")])
    assert torch.allclose(again.value[:, 0], found.value[:, i], atol=5e-6, rtol=0)
    assert again.kinds == ("final", "q")


def test_a_few_edges_are_drawn_as_bars(says: Any):
    model = small_models.model("llama")
    edges = [Edge("L0.MLP", METRIC), Edge("embed", "L1.q[0]"), Edge("L0.H1", "L2.v[0]"), Edge("L1.H1", "L2.MLP")]
    figure = patch_paths(model, TOKENS, RefusalMetric(model, "w60"), edges=edges, positions="last").figure()
    says(figure, model.name)
    assert {trace.type for trace in figure.data} == {"bar"}
    assert len(figure.data[0].x) == 4
    assert "at last" in figure.layout.title.text


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"edges": []}, "at least one"),
        ({"edges": [Edge("embed", METRIC)], "senders": ["embed"]}, "not both"),
        ({"senders": []}, "no senders given"),
        ({"receivers": []}, "no receivers given"),
        ({"senders": ["embed", "embed"]}, "embed is given twice among the senders"),
        ({"receivers": [METRIC, METRIC]}, "metric is given twice among the receivers"),
        ({"senders": ["L3.MLP"], "receivers": ["L1.q[0]"]}, "there is no edge to patch"),
        ({"senders": ["L0.H9"]}, "does not exist"),
        ({"receivers": ["L2.k[2]"]}, "key-value heads 0 to 1"),
        ({"senders": ["L2.H0"], "receivers": [METRIC], "through": ["L3.H0", "L3.ATTN"]}, "is part of"),
    ],
)
def test_errors(kwargs: Any, said: str):
    model = small_models.model("llama")
    with pytest.raises(SiteError, match=said):
        patch_paths(model, TOKENS, RefusalMetric(model, "w60"), **kwargs)
