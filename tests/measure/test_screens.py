"""Screens are their definitions, and agree with exact patching to first order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle_receivers
import pytest
import small_models
import torch
from torch import Tensor

from circuits.engine.edges import METRIC, Edge, all_edges
from circuits.errors import SiteError, UndefinedError
from circuits.measure.screens import (
    EDGE_METHODS,
    NODE_METHODS,
    Screen,
    all_nodes,
    exact_nodes,
    passes,
    screen_edges,
    screen_nodes,
)
from circuits.metrics import BoundMetric, LogitDifference, Metric
from circuits.model import Model, load
from circuits.prompts import TokenPairs

TOKENS = small_models.uneven()


class Difference(Metric):
    """w60 against w61, in the precision of the logits."""

    name = "w60 − w61"

    def bind(self, pairs: TokenPairs) -> BoundMetric:
        del pairs
        return _Bound()


class _Bound(BoundMetric):
    def __call__(self, logits: Tensor) -> Tensor:
        return logits[..., 64] - logits[..., 65]  # four special tokens come first


class Counting(Metric):
    name = "counting"

    def bind(self, pairs: TokenPairs) -> BoundMetric:
        del pairs
        return _Counting()


class _Counting(BoundMetric):
    def __call__(self, logits: Tensor) -> Tensor:
        return (logits[..., 64] > 0).float()


def _named(screen: Screen) -> dict[Any, Tensor]:
    return dict(zip(screen.what, screen.score.T, strict=True))


def _close(a: Tensor, b: Tensor, allowed: float = 1e-5) -> None:
    assert (a - b).abs().max() <= allowed * max(1.0, b.abs().max().item()), (a, b)


# --- definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["noise", "denoise"])
@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", "gpt_neox"])
def test_eap_ig_is_the_slow_way_step_by_step_and_edge_by_edge(architecture: str, direction: Any):
    model, hf = small_models.model(architecture), small_models.raw(architecture)
    found = screen_edges(model, TOKENS, Difference(), method="eap-ig-inputs", steps=3, direction=direction)
    edges = list(zip(found.senders, found.receivers, strict=True))
    assert len(edges) == len(all_edges(model))
    for pair in (1, 2):
        real = TOKENS.mask[pair]
        prompts = [TOKENS.clean[pair][real], TOKENS.corrupt[pair][real]]
        base, source = prompts if direction == "noise" else prompts[::-1]
        slow = oracle_receivers.eap_ig(hf, base, source, lambda logits: logits[64] - logits[65], edges, 3)
        _close(found.score[pair], torch.tensor(slow))
        one, other = (hf(input_ids=ids[None]).logits[0, -1] for ids in (base, source))
        _close(found.base[pair], one[64] - one[65])
        _close(found.source[pair], other[64] - other[65])


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "gpt_neox"])
@pytest.mark.parametrize(("edge_method", "node_method"), [("eap", "atp"), ("eap-ig-inputs", "eap-ig-inputs")])
def test_edges_of_a_sender_or_a_receiver_add_up_to_nodes(architecture: str, edge_method: Any, node_method: Any):
    model = small_models.model(architecture)
    edges = screen_edges(model, TOKENS, Difference(), method=edge_method, steps=3)
    nodes = ["embed", *(f"L{n}.{kind}" for n in range(4) for kind in ("ATTN", "MLP")), "L3.resid_post"]
    found = _named(screen_nodes(model, TOKENS, Difference(), method=node_method, nodes=nodes, steps=3))
    score = _named(edges)
    for node in nodes[:-1]:
        layer = node.removesuffix(".ATTN")
        part = (f"{layer}.H", f"{layer}.post-norm") if node.endswith("ATTN") else (node,)
        out = [value for edge, value in score.items() if edge.sender.startswith(part)]
        _close(torch.stack(out).sum(0), found[node])
    into = [value for edge, value in score.items() if edge.receiver == METRIC]
    _close(torch.stack(into).sum(0), found["L3.resid_post"])


def test_one_step_is_the_base_run_and_any_part_of_the_edges_is_the_same():
    model = small_models.model("gemma2")
    eap = screen_edges(model, TOKENS, Difference(), method="eap")
    _close(screen_edges(model, TOKENS, Difference(), steps=1).score, eap.score)
    some = [all_edges(model)[i] for i in (300, 7, 350, 80, 12, 200)]
    for method in EDGE_METHODS:
        whole = _named(screen_edges(model, TOKENS, Difference(), method=method, steps=2))
        part = screen_edges(model, TOKENS, Difference(), method=method, steps=2, edges=some)
        assert part.what == tuple(some)
        for edge, value in _named(part).items():
            _close(value, whole[edge], 1e-6)


def test_the_attention_of_a_block_is_a_sender():
    model = small_models.model("gemma2")
    whole, parts = (
        screen_edges(model, TOKENS, Difference(), method=method, steps=2, edges=[e for s in senders for e in
                     all_edges(model, [s], ["L2.MLP", METRIC])])
        for method in ("eap",) for senders in (["L1.ATTN"], [*(f"L1.H{h}" for h in range(4)), "L1.post-norm"])
    )  # fmt: skip
    for receiver in ("L2.MLP", METRIC):
        _close(
            torch.stack([v for e, v in _named(parts).items() if e.receiver == receiver]).sum(0),
            _named(whole)[Edge("L1.ATTN", receiver)],
        )


def test_batches_of_pairs_change_nothing(monkeypatch: Any):
    model = small_models.model("qwen2")
    whole = [screen_edges(model, TOKENS, LogitDifference(model)), screen_nodes(model, TOKENS, LogitDifference(model))]
    monkeypatch.setattr(passes, "_CPU_TOKENS", 2 * TOKENS.n_pos)
    parts = [screen_edges(model, TOKENS, LogitDifference(model)), screen_nodes(model, TOKENS, LogitDifference(model))]
    for a, b in zip(whole, parts, strict=True):
        _close(a.score, b.score)
        _close(a.base, b.base)


# --- first order --------------------------------------------------------------------------------------------------------


# what masks padding in double is too much for a softmax in single precision, which GPT-2 alone has not
PADDED = {"gpt2": TOKENS, "gpt_neox": small_models.even()}


def _nearly(architecture: str, share: float) -> Model:
    """In double; the corrupt words' embeddings differ from the clean ones' by a share of what they did."""
    model = load(str(small_models.folder(architecture)), device="cpu", dtype="float64")
    weight, tokens = model.parts.embed.weight.data, PADDED[architecture]
    for pair in range(tokens.n_pairs):
        clean, corrupt = (ids[pair, tokens.subject[pair]] for ids in (tokens.clean, tokens.corrupt))
        weight[corrupt] = weight[clean] + share * (weight[corrupt] - weight[clean])
    return model


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_nodes_are_exact_to_first_order(architecture: str):
    errors: dict[str, list[float]] = {}
    sizes: list[float] = []
    for share in (4e-3, 1e-3):
        model = _nearly(architecture, share)
        names = [name for name in all_nodes(model) if name.startswith(("embed", "L0", "L2"))]
        exact = exact_nodes(model, PADDED[architecture], Difference())(names).double()
        sizes.append(exact.abs().max().item())
        for method in ("atp", "atp-qk", "eap-ig-inputs", "eap-ig-activations"):
            found = screen_nodes(model, PADDED[architecture], Difference(), method=method, nodes=names, steps=2)
            errors.setdefault(method, []).append((found.score - exact).abs().max().item())
    assert sizes[0] / sizes[1] == pytest.approx(4, rel=0.1)
    for method, (far, near) in errors.items():
        assert far <= 0.05 * sizes[0], method
        assert far / near == pytest.approx(16, rel=0.3), (method, far, near)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_edges_are_exact_to_first_order(architecture: str):
    errors: list[float] = []
    for share in (4e-3, 1e-3):
        model, pair = _nearly(architecture, share), 1
        tokens = PADDED[architecture]
        real = tokens.mask[pair]
        base, source = tokens.clean[pair][real], tokens.corrupt[pair][real]
        of_base, of_source = (oracle_receivers.written(model.hf, ids) for ids in (base, source))
        edges = all_edges(model)[5::29]
        found = screen_edges(model, tokens, Difference(), method="eap", edges=edges)
        values = [
            oracle_receivers.value(
                model.hf, base, lambda logits: logits[64] - logits[65],
                {e.receiver: of_source[e.sender] - of_base[e.sender]},
            )
            for e in edges
        ]  # fmt: skip
        intact = oracle_receivers.value(model.hf, base, lambda logits: logits[64] - logits[65], {})
        exact = torch.stack(values) - intact
        errors.append((found.score[pair] - exact).abs().max().item())
        assert errors[-1] <= 0.05 * exact.abs().max()
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.3)


# --- many steps -----------------------------------------------------------------------------------------------------------


def test_many_steps_are_complete():
    model = small_models.model("gemma2")
    nodes = ["L1.MLP", "L2.ATTN", "L0.MLP", "L1.H0", "L1.H1", "L1.H2", "L1.H3"]
    exact = exact_nodes(model, TOKENS, Difference())([*nodes[:3], "L1.z"])
    gaps: list[tuple[float, ...]] = []
    for steps in (4, 16):
        found = _named(screen_nodes(model, TOKENS, Difference(), method="eap-ig-activations", nodes=nodes, steps=steps))
        patched = torch.stack([*(found[n] for n in nodes[:3]), sum(found[n] for n in nodes[3:])], 1)  # type: ignore[list-item]
        edges = [e for e in all_edges(model, ["embed"]) if e.sender == "embed"]
        out = screen_edges(model, TOKENS, Difference(), method="eap-ig-inputs", steps=steps, edges=edges)
        of_mlp = screen_edges(
            model, TOKENS, Difference(), method="eap-ig-activations", steps=steps, edges=all_edges(model, ["L1.MLP"])
        )
        gaps.append((
            (patched - exact).abs().max().item(), (of_mlp.score.sum(1) - exact[:, 0]).abs().max().item(),
            (out.score.sum(1) - (out.source - out.base)).abs().max().item(),
        ))  # fmt: skip
    for far, near in zip(*gaps, strict=True):
        assert near <= 0.15
        assert near <= 0.3 * far  # as one over steps: with enough of them it is gone


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "gpt_neox", "gemma3"])
def test_the_qk_fix_is_the_gradient_at_the_weights_times_their_change(architecture: str):
    """Against the definition: put the patched run's weights in place of the intact ones, to first order."""
    model = small_models.model(architecture)
    heads, group = model.shape.n_heads, model.shape.n_heads // model.shape.n_kv_heads
    names = [f"L1.q[{h}]" for h in range(heads)] + [f"L1.k[{h}]" for h in range(heads // group)]
    found = screen_nodes(model, TOKENS, Difference(), method="atp-qk", nodes=names, positions="subject")
    expected = oracle_receivers.qk_fix(model, TOKENS, 1, _Bound())
    _close(found.score, expected)


# --- results and errors -----------------------------------------------------------------------------------------------------


def test_frames_figure_and_passes(says: Callable[..., None]):
    model = small_models.model("gemma2")
    edges = screen_edges(model, TOKENS, LogitDifference(model), steps=4)
    nodes = screen_nodes(model, TOKENS, LogitDifference(model), method="atp-graddrop")
    frame = edges.to_frame()
    assert len(frame) == TOKENS.n_pairs * len(all_edges(model))
    row = frame.iloc[len(edges.names) + 3]
    assert row["score"] == pytest.approx(edges.score[1, 3].item())
    assert (row["sender"], row["receiver"], row["kind"]) == (edges.senders[3], edges.receivers[3], edges.what[3].kind)  # type: ignore[union-attr]
    table = edges.to_summary(most=5)
    means = frame.groupby("name")["score"].agg(lambda s: s.abs().mean()).sort_values(ascending=False)
    assert list(table["name"]) == list(means.index[:5]) == [edge.label for edge in edges.top(5)]
    assert ((table["low"] <= table["mean"]) & (table["mean"] <= table["high"])).all()
    assert (edges.forward_passes, edges.backward_passes) == (6, 4)
    assert (nodes.forward_passes, nodes.backward_passes) == (3, 4)
    assert nodes.names == tuple(all_nodes(model))
    says(edges.figure(), model.name)
    says(nodes.figure(), model.name)


def test_positions_are_of_the_patch():
    model = small_models.model("gpt2")
    nodes = ["L0.H1", "L0.MLP", "L1.k[0]", "L2.N3", "L1.resid_pre"]
    by = {
        p: screen_nodes(model, TOKENS, Difference(), nodes=nodes, positions=p).score for p in ("all", "last", "subject")
    }
    by["rest"] = screen_nodes(model, TOKENS, Difference(), nodes=nodes, positions="post_subject").score
    _close(by["last"] + by["subject"] + by["rest"], by["all"])
    assert (by["last"] - by["all"]).abs().max() > 1e-3


def test_errors_come_before_the_first_pass(monkeypatch: Any):
    model = small_models.model("gpt2")
    monkeypatch.setattr(type(model.hf), "forward", lambda *_, **__: pytest.fail("the model was run"))
    metric: Any = LogitDifference(model)
    for known in (NODE_METHODS, EDGE_METHODS):  # the verbs themselves take no other string while tests run
        with pytest.raises(UndefinedError, match=f"unknown method 'atp-xy'; known: {known[0]}, {known[1]}"):
            passes.require(model, TOKENS, metric, "atp-xy", known, 5, ["L0.H0", "L0.H1"])
    for steps in (0, -1):
        with pytest.raises(UndefinedError, match="at least one point"):
            screen_edges(model, TOKENS, metric, steps=steps)
    with pytest.raises(UndefinedError, match="counting has no gradient"):
        screen_nodes(model, TOKENS, Counting())
    with pytest.raises(SiteError, match="at least two"):
        screen_nodes(model, TOKENS, metric, nodes=["L0.H1"])
    with pytest.raises(SiteError, match="at least two"):
        screen_edges(model, TOKENS, metric, edges=[Edge("embed", METRIC)])
    with pytest.raises(SiteError, match="L0.H1 is given twice"):
        screen_nodes(model, TOKENS, metric, nodes=["L0.H1", "L0.H2", "L0.H1"])
    with pytest.raises(SiteError, match="heads 0 to 3"):
        screen_nodes(model, TOKENS, metric, nodes=["L0.H1", "L0.H4"])
    with pytest.raises(SiteError, match="before the sender writes"):
        screen_edges(model, TOKENS, metric, edges=[Edge("embed", METRIC), Edge("L2.MLP", "L1.MLP")])
    with pytest.raises(SiteError, match="from path patching"):
        exact_nodes(model, TOKENS, metric)([Edge("embed", METRIC)])
