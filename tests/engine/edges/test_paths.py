"""Edges are what three whole forward passes make of them, and together they are the plain patch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import oracle
import pytest
import small_models
import torch
from engine.edges.path_oracle import PathOracle

from circuits.engine import batches, sweep
from circuits.engine.capture import capture
from circuits.engine.edges import METRIC, Edge, all_edges, all_senders, carried
from circuits.engine.edges.differences import Differences, sites_of_senders
from circuits.engine.edges.names import reaches
from circuits.engine.edges.paths import along_paths
from circuits.engine.progress import listening
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay
from circuits.engine.source import source_of
from circuits.engine.sweep import Swept
from circuits.errors import AuditError, SiteError
from circuits.interventions import Patch
from circuits.metrics import LogitDifference, LogOdds, RefusalMetric
from circuits.sites import Site, head

TOKENS = small_models.uneven()
SEVEN = ("gemma", "gemma2", "llama", "gpt2", "gpt_neox", "olmo2", "gemma3")
POST_NORMED = ("gemma2", "gemma3", "olmo2")
PAIRS = [1, 2, 3]
"""Held against whole passes: the shortest, the longest, and one between."""


@cache
def _edges(architecture: str, n: int = 25) -> tuple[Edge, ...]:
    """Some of every kind of receiver, and some of every kind of sender."""
    every = all_edges(small_models.model(architecture))
    rng = random.Random(0)
    kinds: dict[str, list[Edge]] = {}
    for edge in every:
        kinds.setdefault(edge.kind, []).append(edge)
    drawn = [edge for edges in kinds.values() for edge in rng.sample(edges, min(len(edges), n // 5))]
    return (*drawn, Edge("L0.ATTN", "L2.q[1]"), Edge("L1.ATTN", "L3.MLP"), Edge("L2.ATTN", METRIC))


@cache
def _found(architecture: str, **kwargs: Any) -> Swept:
    return _along(architecture, _edges(architecture), **kwargs)


def _along(architecture: str, edges: Sequence[Edge], *, audited: bool = False, **kwargs: Any) -> Swept:
    model = small_models.model(architecture)
    tokens, metric = kwargs.pop("tokens", TOKENS), kwargs.pop("metric", RefusalMetric(model, "w60"))
    return along_paths(model, tokens, metric, edges, audited=audited, **kwargs)


def _by_hand(architecture: str, edges: Any, direction: str = "noise", **kwargs: Any) -> torch.Tensor:
    token = small_models.model(architecture).tokenizer.get_vocab()["w60"]
    logits = [
        PathOracle(small_models.raw(architecture), TOKENS, pair, direction).logits(edges, **kwargs) for pair in PAIRS
    ]
    return torch.tensor([[oracle.against_mean(row, token) for row in rows] for rows in logits]).T


@pytest.mark.parametrize("architecture", SEVEN)
def test_edges_are_what_three_whole_passes_make_of_them(architecture: str):
    swept = _found(architecture, audited=True)
    expected = _by_hand(architecture, _edges(architecture))
    assert (swept.value[:, PAIRS] - expected).abs().max() <= 3e-5
    moved = (swept.value - swept.base).abs().amax(1)
    assert (moved > 1e-4).float().mean() > 0.8
    assert max(swept.certificate.oracle, swept.certificate.self_patch) <= 1e-4
    assert "slow oracle on" in swept.certificate.line


def test_denoising():
    swept = _found("gemma2", direction="denoise")
    assert (swept.value[:, PAIRS] - _by_hand("gemma2", _edges("gemma2"), "denoise")).abs().max() <= 3e-5
    assert torch.allclose(swept.base, _found("gemma2").source, atol=1e-5)


@pytest.mark.parametrize("positions", ["last", "subject", "post_subject", (-1, -3)])
def test_receivers_are_changed_at_positions_alone(positions: Any):
    swept = _found("llama", positions=positions)
    assert (swept.value[:, PAIRS] - _by_hand("llama", _edges("llama"), positions=positions)).abs().max() <= 3e-5
    assert not torch.allclose(swept.value, _found("llama").value, atol=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_paths_through_named_components(architecture: str):
    model = small_models.model(architecture)
    through = ["L1.ATTN", "L1.MLP", "L2.MLP"]
    if architecture not in POST_NORMED:
        through = ["L0.MLP", "L1.H0", "L1.H3", "L2.MLP", "L2.H1"]
    edges = [e for e in _edges(architecture) if not e.sender.endswith("post-norm")]
    swept = _along(architecture, edges, through=through)
    assert (swept.value[:, PAIRS] - _by_hand(architecture, edges, through=through)).abs().max() <= 3e-5
    direct = _along(architecture, edges).value
    changed = (swept.value - direct).abs().amax(1) > 1e-4
    assert changed.any()
    for edge, differs in zip(edges, changed, strict=True):  # nothing lies between some ends
        between = any(reaches(model, edge.sender, _read(m)) and reaches(model, m, edge.receiver) for m in through)
        assert between or not differs, edge


def _read(component: str) -> str:
    layer, what = component.split(".")
    return component if what == "MLP" else f"{layer}.q[0]"


@pytest.mark.parametrize("architecture", SEVEN)
def test_through_everything_it_is_the_plain_patch(architecture: str):
    model = small_models.model(architecture)
    metric = LogitDifference(model)
    whole = [f"L{layer}.{what}" for layer in range(4) for what in ("ATTN", "MLP")]
    senders = {"embed": Site("embed"), "L0.MLP": Site("mlp_out", 0), "L1.ATTN": Site("attn_out", 1)}
    if architecture not in POST_NORMED:  # elsewhere a head's patch also moves the scale of the norm after it
        senders |= {f"L1.H{h}": head(1, h) for h in range(4)}
    edges = [Edge(s, METRIC) for s in senders]
    cells = [(Patch(site, "all"),) for site in senders.values()]
    plain = sweep(model, TOKENS, metric, cells, direction="noise", audited=False)
    routes = [whole]
    if architecture in ("llama", "gemma2", "gpt_neox"):  # each head and the post-norm by name come to the same
        routes.append(all_senders(model)[1:])
    for through in routes:
        found = _along(architecture, edges, metric=metric, through=through)
        assert (found.value - plain.value).abs().max() <= 3e-5
        assert (found.value[0] - found.source).abs().max() <= 3e-5
    assert (plain.value[1:] - plain.base).abs().amax(1).min() > 1e-3
    assert (plain.value - _along(architecture, edges, metric=metric).value).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", SEVEN)
def test_all_senders_together_into_the_metric_are_the_source(architecture: str):
    model = small_models.model(architecture)
    sites = sites_of_senders(all_senders(model))
    base = capture(model, TOKENS.clean, TOKENS.mask, sites)
    source = source_of(Replay(model, base), TOKENS.corrupt, sites, TOKENS.first_difference)
    differences = Differences(model, base, source, TOKENS.first_difference)
    carrier = carried.Carrier(Replay(model, base), differences)
    rows: list[torch.Tensor] = []
    carrier.carry(all_senders(model), (4, 0), lambda step, x: rows.append(x.clone()) if step == (4, 0) else None)
    readout = Readout(model, LogitDifference(model).bind(TOKENS))
    found = readout(base.resid[-1][None, :, -1] + rows[0].sum(0, keepdim=True)[:, :, -1])[0]
    known = sweep(model, TOKENS, LogitDifference(model), [(Patch(Site("embed")),)], direction="noise", audited=False)
    assert (found - known.source).abs().max() <= 3e-5
    assert (known.source - known.base).abs().min() > 1e-3


def test_a_key_receiver_is_read_by_its_whole_group():
    """The same as giving each query head of the group, and no other, the z that it then has."""
    model = small_models.model("llama")
    edges = [Edge("L0.MLP", f"L2.{kind}[1]") for kind in "kv"]
    seen: dict[str, list[bool]] = {}
    for edge in edges:
        oracle_of = PathOracle(small_models.raw("llama"), TOKENS, 0)
        _, at = oracle.runs(oracle_of.hf, oracle_of.of.base, [oracle_of.frozen(edge, ())], [("k", 2), ("v", 2)])
        kind = edge.receiver[3]
        put = oracle.Edit(kind, 2, oracle.patch(range(oracle_of.of.length), at[kind, 2][0], 1))
        z = oracle.run(oracle_of.hf, oracle_of.of.base, [put], [("z", 2)])[1]["z", 2]
        seen[kind] = [(z - oracle_of.base["z", 2])[:, h].abs().max().item() > 1e-4 for h in range(4)]
        metric = RefusalMetric(model, "w60")
        group = tuple(Patch(head(2, h), "all", _padded(z[:, h], TOKENS.n_pos)) for h in (2, 3))
        both = sweep(model, TOKENS.select([0]), metric, [group], direction="noise", audited=False).value[0, 0]
        found = _along("llama", [edge]).value[0, 0]
        assert abs(found - both) <= 3e-5
        one = sweep(model, TOKENS.select([0]), metric, [group[:1]], direction="noise", audited=False).value[0, 0]
        assert abs(found - one) > 1e-4
    assert seen == {kind: [False, False, True, True] for kind in "kv"}


def _padded(z: torch.Tensor, n_pos: int) -> torch.Tensor:
    return torch.nn.functional.pad(z, (0, 0, n_pos - len(z), 0))


def test_a_memory_limit_does_not_matter():
    found = _along("gemma2", _edges("gemma2")[::3], max_memory=1, through=["L1.MLP"]).value
    assert torch.allclose(found, _along("gemma2", _edges("gemma2")[::3], through=["L1.MLP"]).value, atol=5e-6, rtol=0)


@pytest.mark.parametrize("size", [70])
def test_the_batch_size_does_not_matter(size: int, monkeypatch: pytest.MonkeyPatch):
    expected = _found("gemma2").value[::3]
    monkeypatch.setattr(batches, "_CPU_TOKENS", size)
    found = _along("gemma2", _edges("gemma2")[::3]).value
    assert torch.allclose(found, expected, atol=5e-6, rtol=0)


def test_the_order_of_edges_and_pairs_does_not_matter():
    order = [3, 0, 4, 2, 1]
    expected = _found("gemma2").value
    found = _along("gemma2", _edges("gemma2")[::-1], tokens=TOKENS.select(order)).value
    assert torch.allclose(found.flip(0), expected[:, order], atol=5e-6, rtol=0)


def test_a_metric_that_is_not_linear_and_a_soft_cap():
    model = small_models.model("gemma2")
    metric = LogOdds(model, "w60", "w61")
    ids = [model.tokenizer.get_vocab()[w] for w in ("w60", "w61")]
    edges = _edges("gemma2")[::4]
    found = _along("gemma2", edges, metric=metric).value
    for pair in PAIRS:
        rows = PathOracle(small_models.raw("gemma2"), TOKENS, pair).logits(edges)
        expected = torch.tensor([oracle.log_odds(row, ids) for row in rows])
        assert (found[:, pair] - expected).abs().max() <= 3e-5


def test_positions_before_any_difference_change_nothing():
    edges = [Edge("L0.H0", "L1.q[0]"), Edge("L0.H0", METRIC)]
    first = -int(TOKENS.lengths[1])
    found = _along("llama", edges, tokens=TOKENS.select([1]), positions=first, audited=True)
    assert torch.equal(found.value[0], found.base)
    assert not torch.allclose(found.value[1], found.base, atol=1e-4)  # the metric reads the last position all the same


def test_progress_is_told_once_around():
    shares: list[float] = []
    model = small_models.model("llama")
    with listening(shares.append):
        along_paths(model, TOKENS, RefusalMetric(model, "w60"), _edges("llama"))
    assert sum(shares) == pytest.approx(1)


def test_an_edge_that_carries_nothing_has_to_change_nothing(monkeypatch: pytest.MonkeyPatch):
    from circuits.engine.edges import receivers

    right = receivers.Receivers._entering
    monkeypatch.setattr(receivers.Receivers, "_entering", lambda self, layer, given: right(self, layer, given) * 1.01)
    model = small_models.model("llama")
    monkeypatch.setattr("circuits.engine.edges.paths.audit", lambda *given: given[-1])
    with pytest.raises(AuditError, match="carry no change move the metric"):
        along_paths(model, TOKENS, RefusalMetric(model, "w60"), [Edge("L0.MLP", "L2.q[0]")])


@pytest.mark.parametrize("what", ["receiver", "run"])
def test_the_audit_finds_what_is_wrong(what: str, monkeypatch: pytest.MonkeyPatch):
    from circuits.engine.edges import paths, receivers

    model = small_models.model("llama")
    edges = [Edge("L0.MLP", "L2.q[0]"), Edge("L0.MLP", "L2.v[1]")]
    if what == "receiver":
        right = paths.received
        wrong = lambda *a: {k: 1.1 * v for k, v in right(*a).items()}  # noqa: E731
        monkeypatch.setattr(paths, "received", wrong)
    else:
        monkeypatch.setattr(
            receivers._Replaced,
            "inside",
            lambda *_: {},  # what is given to receivers is lost on the way
        )
    with pytest.raises(AuditError, match="oracle"):
        along_paths(model, TOKENS, RefusalMetric(model, "w60"), edges)
    along_paths(model, TOKENS, RefusalMetric(model, "w60"), edges, audited=False)


@pytest.mark.parametrize(
    ("edges", "kwargs", "said"),
    [
        ([], {}, "at least one"),
        ([Edge("L1.H0", "L1.q[0]")], {}, "before the sender writes"),
        ([Edge("embed", METRIC)] * 2, {}, "given twice"),
        ([Edge("embed", METRIC)], {"through": ["embed"]}, "embed reads nothing"),
        ([Edge("embed", METRIC)], {"positions": 40}, "40"),
    ],
)
def test_errors_come_before_the_first_forward_pass(edges: Any, kwargs: Any, said: str, monkeypatch: pytest.MonkeyPatch):
    from circuits.engine.edges import paths

    def ran(*_: Any) -> None:
        raise AssertionError("something was run")

    monkeypatch.setattr(paths, "capture", ran)
    model = small_models.model("llama")
    with pytest.raises(SiteError, match=said):
        along_paths(model, TOKENS, RefusalMetric(model, "w60"), edges, **kwargs)
