"""Circuits with edges cut: identities, an oracle of whole forward passes, and edges that change nothing."""

from __future__ import annotations

import random
from copy import deepcopy
from functools import cache
from typing import Any

import oracle
import pytest
import small_models
import torch
from oracle import Edit
from oracle_circuits import CircuitOracle
from torch import Tensor

from circuits.engine import capture
from circuits.engine.edges import METRIC, Edge
from circuits.engine.edges.ablations import ABLATIONS, Ablation
from circuits.engine.edges.cut import Cuts
from circuits.engine.edges.grid import Grid
from circuits.errors import AuditError, SiteError
from circuits.metrics import RefusalMetric

TOKENS = small_models.uneven()
KINDS = ("gemma", "gemma2", "llama", "gpt2", "gpt_neox", "olmo2")
WORD = "w60"


@cache
def cuts(architecture: str, ablation: Ablation) -> Cuts:
    model = small_models.model(architecture)
    return Cuts(model, TOKENS, RefusalMetric(model, WORD), ablation=ablation)


def _token() -> int:
    return small_models.model("gemma").tokenizer.get_vocab()[WORD]


def _prompt(side: str, pair: int) -> Tensor:
    return getattr(TOKENS, side)[pair][TOKENS.mask[pair]]


def _forward(hf: Any, side: str) -> list[float]:
    """The metric of whole unpadded prompts."""
    return [oracle.against_mean(oracle.run(hf, _prompt(side, i))[0][-1], _token()) for i in range(TOKENS.n_pairs)]


@cache
def _double(architecture: str) -> Any:
    """In double precision: an oracle that adds and takes away the same large number must not leave rounding to a norm."""
    return deepcopy(small_models.raw(architecture)).double()


def _oracle(architecture: str, ablation: Ablation, pair: int) -> CircuitOracle:
    hf = _double(architecture)
    slow = CircuitOracle(hf, _prompt("clean", pair))
    if ablation == "resample":
        slow.resample(_prompt("corrupt", pair))
    elif ablation == "zero":
        slow.ablated = {name: torch.zeros_like(x) for name, x in slow.adds(slow.reference).items()}
    else:
        slow.ablated = slow.adds(_means(hf, len(slow.clean)))
    return slow


@cache
def _corrupt(hf: Any) -> list[dict[tuple[str, int], Tensor]]:
    return [oracle.run(hf, _prompt("corrupt", i), keep=oracle.keys(hf))[1] for i in range(TOKENS.n_pairs)]


def _means(hf: Any, length: int) -> dict[tuple[str, int], Tensor]:
    """Activations of corrupt prompts, each alone, averaged position by position from the last."""
    seen = _corrupt(hf)
    found = {}
    for key in seen[0]:
        if key[0] == "pattern":
            continue
        at = [torch.stack([s[key][-p] for s in seen if len(s[key]) >= p]).mean(0) for p in range(length, 0, -1)]
        found[key] = torch.stack(at)
    return found


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_all_kept_is_the_clean_run_and_none_kept_the_ablation_run(architecture: str, ablation: Ablation):
    found = cuts(architecture, ablation)
    hf = _double(architecture)
    every, none = found.run([found.grid.edges(), []])
    assert every.tolist() == pytest.approx(_forward(hf, "clean"), abs=2e-5)
    assert found.clean.tolist() == pytest.approx(_forward(hf, "clean"), abs=2e-5)
    if ablation == "resample":
        expected = _forward(hf, "corrupt")
    else:  # what enters the stream and what attention and MLPs add, set by hooks in a whole forward pass
        expected = []
        for i in range(TOKENS.n_pairs):
            slow = _oracle(architecture, ablation, i)
            means = _means(hf, len(slow.clean)) if ablation == "mean" else None
            expected.append(oracle.against_mean(_all_set(slow, means), _token()))
    assert none.tolist() == pytest.approx(expected, abs=2e-5)
    assert found.ablated.tolist() == pytest.approx(expected, abs=2e-5)
    assert (every - none).abs().min() > 1e-3
    assert max(found.identities) < 1e-5
    assert ablation in found.line


def _all_set(slow: CircuitOracle, means: dict[tuple[str, int], Tensor] | None) -> Tensor:
    every = range(len(slow.clean))
    edits = []
    for layer in range(slow.n_layers):
        for kind in ("attn_out", "mlp_out"):
            value = torch.zeros_like(slow.reference[kind, layer]) if means is None else means[kind, layer]
            if means is None and kind == "attn_out":
                through = slow._post_norm(layer) or (lambda x: x)
                value = through(slow._bias(layer))
            edits.append(Edit(kind, layer, oracle.patch(every, value)))
    start = torch.zeros_like(slow.reference["resid_pre", 0]) if means is None else means["resid_pre", 0]
    return oracle.run(slow.hf, slow.clean, [Edit("resid_pre", 0, oracle.patch(every, start)), *edits])[0][-1]


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_circuits_equal_the_oracles(architecture: str, ablation: Ablation):
    found = cuts(architecture, ablation)
    rng, pair = random.Random(architecture + ablation), {"resample": 0, "mean": 3, "zero": 1}[ablation]
    edges = found.grid.edges()
    circuits = [[e for e in edges if rng.random() < share] for share in (0.3, 0.8)]
    slow = _oracle(architecture, ablation, pair)
    for circuit, value in zip(circuits, found.run(circuits)[:, pair].tolist(), strict=True):
        expected = oracle.against_mean(slow.logits({(e.sender, e.receiver) for e in circuit}), _token())
        assert value == pytest.approx(expected, abs=5e-5)
        assert abs(value - float(found.clean[pair])) > 1e-3


@pytest.mark.parametrize("architecture", KINDS)
def test_one_edge_cut_is_direct_path_patching(architecture: str):
    """One pass to learn what the receiver makes of its stream with the sender's corrupt write, one with that patched in."""
    found, hf, pair = cuts(architecture, "resample"), _double(architecture), 2
    rng = random.Random(architecture)
    slow = _oracle(architecture, "resample", pair)
    own = slow.adds(slow.reference)
    edges = found.grid.edges()
    chosen = [rng.choice([e for e in edges if e.kind == kind]) for kind in ("q", "k", "v", "mlp", "final")]
    chosen += [e for e in edges if e.sender.endswith("post-norm")][:1]
    every = set(edges)
    for edge, value in zip(chosen, found.run([every - {e} for e in chosen])[:, pair].tolist(), strict=True):
        off = slow.ablated[edge.sender] - own[edge.sender]
        if edge.receiver == METRIC:
            edits = [Edit("resid_post", slow.n_layers - 1, lambda x, off=off: x + off)]
        else:
            layer = int(edge.receiver[1])
            kind = "mlp_out" if edge.kind == "mlp" else edge.kind
            where = "resid_mid" if kind == "mlp_out" and architecture != "gpt_neox" else "resid_pre"
            moved = Edit(where, layer, lambda x, off=off: x + off)
            new = oracle.run(hf, slow.clean, [moved], keep=[(kind, layer)])[1][kind, layer]
            index = None if kind == "mlp_out" else int(edge.receiver.partition("[")[2][:-1])
            edits = [Edit(kind, layer, oracle.patch(range(len(new)), new, index))]
        expected = oracle.against_mean(oracle.run(hf, slow.clean, edits)[0][-1], _token())
        assert value == pytest.approx(expected, abs=2e-5), edge.label


@pytest.mark.parametrize("architecture", ["gemma2", "llama"])
def test_edges_into_what_leads_nowhere_change_nothing(architecture: str):
    found = cuts(architecture, "resample")
    edges = found.grid.edges()
    # nothing reads head 1 of block 2 nor the post-norm through which it could act
    kept = {e for e in edges if e.sender not in ("L2.H1", "L2.post-norm")}
    less = {e for e in kept if e.receiver != "L2.q[1]"}
    one, other = found.run([kept, less])
    assert len(less) < len(kept)
    torch.testing.assert_close(one, other, atol=3e-6, rtol=0)
    assert (one - found.clean).abs().max() > 1e-3


def test_rows_are_shared_and_nothing_depends_on_how_many_travel_together():
    model, metric = small_models.model("gemma2"), RefusalMetric(small_models.model("gemma2"), WORD)
    found = cuts("gemma2", "resample")
    edges = found.grid.edges()
    circuits = [set(edges) - {e} for e in edges if e.receiver.startswith("L3")][::40]
    before = found.token_layers
    together = found.run(circuits)
    shared = found.token_layers - before
    alone = torch.cat([found.run([circuit]) for circuit in circuits])
    assert shared < 0.5 * (found.token_layers - before - shared)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    small = Cuts(model, TOKENS, metric, max_memory=2 * found._bytes(1))
    assert [len(pairs) for pairs in small._groups] == [2, 2, 1]  # and one row at a time
    torch.testing.assert_close(small.run(circuits[:3]), together[:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        small.run([circuits[1], circuits[0], circuits[1]]), together[[1, 0, 1]], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("architecture", KINDS)
def test_the_table_holds_every_edge_and_who_feeds_whom(architecture: str):
    from circuits.engine.edges import all_edges

    model = small_models.model(architecture)
    grid = Grid(model)
    assert grid.edges() == all_edges(model)
    assert grid.n_edges == len(all_edges(model))
    for r, n in enumerate(grid.before):
        assert grid.there[r, :n].all()
        assert not grid.there[r, n:].any()
    norm = ("L1.post-norm",) * ("L1.post-norm" in grid.senders)
    assert grid.feeds("L1.q[3]") == ("L1.H3", *norm)
    group = model.shape.n_heads // model.shape.n_kv_heads
    assert grid.feeds("L1.v[0]") == (*(f"L1.H{h}" for h in range(group)), *norm)
    assert grid.feeds("L1.MLP") == ("L1.MLP",)
    assert grid.feeds(METRIC) == ()


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (Edge("L9.H0", METRIC), "layers 0 to 3"),
        (Edge("L1.H9", METRIC), "heads 0 to 3"),
        (Edge("L3.MLP", "L1.q[0]"), "before the sender writes"),
        (Edge("L1.ATTN", METRIC), "several senders"),
        (Edge("L1.post-norm", METRIC), "no post-norm"),
    ],
)
def test_edges_that_are_not_there_are_refused_before_anything_is_run(edge: Edge, message: str):
    found = cuts("llama", "resample")
    before = found.token_layers
    with pytest.raises(SiteError, match=message):
        found.run([[], [edge]])
    assert found.token_layers == before


def test_an_identity_that_does_not_hold_is_an_error(monkeypatch: pytest.MonkeyPatch):
    model = small_models.model("gemma")
    metric = RefusalMetric(model, WORD)
    import circuits.engine.edges.walk as module

    own = module._end
    monkeypatch.setattr(module, "_end", lambda *args: own(*args) + 1)
    with pytest.raises(AuditError, match="all edges kept and the clean run differ"):
        Cuts(model, TOKENS, metric)


def test_a_run_of_another_length_is_not_needed():
    """The clean run is captured once per group of pairs, and its prompts are the ones whose metric is given."""
    found = cuts("gpt2", "resample")
    run = capture(small_models.model("gpt2"), TOKENS.clean, TOKENS.mask)
    logits = run.last_logits[None]
    expected = RefusalMetric(small_models.model("gpt2"), WORD).bind(TOKENS)(logits)[0]
    torch.testing.assert_close(found.clean, expected, atol=1e-5, rtol=0)
