"""Who sends and who receives, in which order, and what is refused."""

from __future__ import annotations

import pytest
import small_models

from circuits.engine.edges import METRIC, Edge, all_edges, all_receivers, all_senders, check_edges
from circuits.engine.edges.names import check_mediators, reaches, read_at, written_at
from circuits.errors import SiteError

POST_NORMED = ("gemma2", "gemma3", "olmo2")


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt_neox"])
def test_everyone_in_the_order_of_the_forward_pass(architecture: str):
    model = small_models.model(architecture)
    senders, receivers = all_senders(model), all_receivers(model)
    assert len(senders) == len(set(senders)) == 1 + 4 * (4 + 1 + (architecture in POST_NORMED))
    n_kv = model.shape.n_kv_heads
    assert len(receivers) == len(set(receivers)) == 4 * (4 + 2 * n_kv + 1) + 1
    assert [written_at(s) for s in senders] == sorted(written_at(s) for s in senders)
    assert [read_at(r) for r in receivers] == sorted(read_at(r) for r in receivers)
    assert senders[0] == "embed"
    assert receivers[-1] == METRIC
    check_edges(model, all_edges(model))
    check_mediators(model, senders[1:])


def test_edges_counted_by_hand():
    """llama: 4 heads and an MLP write; 4 queries, 2 keys, 2 values and an MLP read, the MLP one part later."""
    model = small_models.model("llama")
    attention = sum(8 * (1 + 5 * layer) for layer in range(4))
    mlps = sum(1 + 5 * layer + 4 for layer in range(4))
    assert len(all_edges(model)) == attention + mlps + 21
    parallel = small_models.model("gpt_neox")
    assert len(all_edges(parallel)) == sum(13 * (1 + 5 * layer) for layer in range(4)) + 21


def test_reaches():
    model, parallel = small_models.model("llama"), small_models.model("gpt_neox")
    assert reaches(model, "L1.H0", "L1.MLP")
    assert not reaches(parallel, "L1.H0", "L1.MLP")
    assert not reaches(model, "L1.H0", "L1.q[1]")
    assert not reaches(model, "L1.MLP", "L1.MLP")
    assert reaches(model, "L3.MLP", METRIC)
    assert reaches(model, "embed", "L0.v[0]")
    assert Edge("embed", "L0.v[0]").kind == "v"
    assert {Edge("embed", r).kind for r in ("L1.MLP", METRIC)} == {"mlp", "final"}
    assert Edge("L0.H1", "L2.k[0]").label == "L0.H1 → L2.k[0]"


@pytest.mark.parametrize(
    ("sender", "receiver", "said"),
    [
        ("L1.H0", "L1.q[1]", "reads the stream before the sender writes"),
        ("L2.MLP", "L1.MLP", "reads the stream before the sender writes"),
        ("L0.H4", "L1.q[0]", r"L0.H4 → L1.q\[0\]: L0.H4 does not exist; block 0 has heads 0 to 3"),
        ("L0.H0", "L1.k[2]", "key-value heads 0 to 1"),
        ("L0.H0", "L4.q[0]", "layers 0 to 3"),
        ("L9.MLP", METRIC, "layers 0 to 3"),
        ("L0.post-norm", METRIC, "has no post-norm on the attention of block 0"),
        ("L0.q[0]", METRIC, "is no sender"),
        ("L0.z", METRIC, "is no sender"),
        ("L0.resid_pre", METRIC, "is no sender"),
        ("embed", "L0.H0", "is no receiver"),
        ("embed", "L0.q", "is no receiver"),
        ("embed", "L0.ATTN", "is no receiver"),
        ("nobody", METRIC, "is not a site"),
    ],
)
def test_what_is_no_edge(sender: str, receiver: str, said: str):
    with pytest.raises(SiteError, match=said):
        check_edges(small_models.model("llama"), [Edge(sender, receiver)])


def test_parallel_blocks_say_why():
    with pytest.raises(SiteError, match="are parallel here"):
        check_edges(small_models.model("gpt_neox"), [Edge("L1.H0", "L1.MLP")])


def test_an_edge_given_twice():
    with pytest.raises(SiteError, match="embed → metric is given twice"):
        check_edges(small_models.model("llama"), [Edge("embed", METRIC)] * 2)


@pytest.mark.parametrize(
    ("through", "said"),
    [
        (["embed"], "embed reads nothing"),
        (["L1.H0", "L1.H0"], "given twice"),
        (["L1.H0", "L1.ATTN"], "L1.H0 is part of L1.ATTN"),
        (["L1.q[0]"], "is no sender"),
        (["L7.MLP"], "layers 0 to 3"),
        (["L1.post-norm"], "no post-norm"),
    ],
)
def test_what_no_path_leads_through(through: list[str], said: str):
    with pytest.raises(SiteError, match=said):
        check_mediators(small_models.model("llama"), through)
