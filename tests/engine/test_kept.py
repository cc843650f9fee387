"""What is kept is not computed again, is the same to the last bit, and is taken for nothing but the same question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import small_models
import tiny
import torch

from circuits.engine import generate, generate_cells, sweep
from circuits.engine.cost import forward_passes
from circuits.engine.divergence import Divergence
from circuits.engine.edges.cut import Cuts
from circuits.engine.edges.names import METRIC, Edge
from circuits.engine.edges.paths import along_paths
from circuits.engine.kept import keep
from circuits.engine.task import Task, blocks_of, blocks_of_work, on_pairs, parts_of
from circuits.errors import OutputError, UndefinedError
from circuits.interventions import Ablate, Add, Cell, Clamp, Patch
from circuits.metrics import LogitDifference, LogOdds, RefusalMetric
from circuits.model import load
from circuits.sites import Site, head


def _cells(model: Any, n_pairs: int) -> list[Cell]:
    draw = torch.Generator().manual_seed(1)
    width = model.shape.d_model
    each = torch.randn(n_pairs, width, generator=draw)
    numbers = torch.randn(n_pairs, generator=draw)
    value = torch.randn(n_pairs, 10, width, generator=draw)
    return [
        *[(Patch(Site("resid_pre", layer), position),) for layer in range(model.shape.n_layers) for position in (-1, -2, -3)],
        *[(Patch(head(layer, h)),) for layer in range(model.shape.n_layers) for h in range(model.shape.n_heads)],
        (Ablate(Site("resid_pre", 1), each),),
        (Add(Site("mlp_out", 0), each[0], "last", numbers), Patch(head(1, 0), "last")),
        (Clamp(Site("resid_pre", 1), each, numbers),),
        (Patch(Site("attn_out", 0), "all", value),),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def setting():
    model = small_models.model("gemma")
    tokens = small_models.uneven()
    return model, tokens, LogitDifference(model, "w50", "w51"), _cells(model, tokens.n_pairs)


def _same(a: Any, b: Any) -> bool:
    """To the last bit; not-a-number equals itself here."""
    tensors = all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("value", "base", "source"))
    return tensors and repr(a.certificate) == repr(b.certificate)


@pytest.mark.parametrize("work", [2e13, 2e5, 1.0])
def test_a_kept_sweep_costs_nothing_and_is_the_same(setting, tmp_path, work):
    model, tokens, metric, cells = setting
    with blocks_of_work(work):
        plain = sweep(model, tokens, metric, cells)
        with keep(tmp_path) as first:
            once = sweep(model, tokens, metric, cells)
        with keep(tmp_path) as second, forward_passes(model, tokens) as cost:
            again = sweep(model, tokens, metric, cells)
    assert _same(plain, once)
    assert _same(once, again)
    assert cost.passes == 0
    assert first.found == 0
    assert (second.found, second.made) == (first.made, 0)
    if work == 1.0:
        assert first.made == len(cells) + 1  # a block for every cell, and the audit


def test_blocks_change_rounding_alone(setting):
    model, tokens, metric, cells = setting
    whole = sweep(model, tokens, metric, cells)
    with blocks_of_work(1e5):
        cut = sweep(model, tokens, metric, cells)
    torch.testing.assert_close(cut.value, whole.value, atol=2e-6, rtol=0)
    assert cut.certificate.cells == whole.certificate.cells


def test_every_cell_stands_in_one_block(setting):
    model, tokens, metric, cells = setting
    task = Task(tokens, metric, tuple(cells), "denoise", None)
    for work in (1.0, 1e5, 1e6, 2e13):
        with blocks_of_work(work):
            blocks = blocks_of(model, task)
        assert sorted(i for block in blocks for i in block.cells) == list(range(len(cells)))


def test_pairs_in_parts_are_the_same_pairs(setting, monkeypatch):
    """Each pair keeps its own parameters, and the certificate covers all of them."""
    model, tokens, metric, cells = setting
    whole = sweep(model, tokens, metric, cells, direction="noise")
    monkeypatch.setattr("circuits.engine.task._KEPT_RUNS", 1)
    task = Task(tokens, metric, tuple(cells), "noise", None)
    parts = parts_of(model, task)
    assert [len(part) for part in parts] == [1] * tokens.n_pairs
    one = on_pairs(model, task, parts[2])
    assert torch.equal(one.cells[-4][0].direction[0], cells[-4][0].direction[2])
    apart = sweep(model, tokens, metric, cells, direction="noise")
    torch.testing.assert_close(apart.value, whole.value, atol=1e-5, rtol=0)
    torch.testing.assert_close(apart.source, whole.source, atol=1e-5, rtol=0)
    assert apart.certificate.sampled >= tokens.n_pairs
    assert apart.certificate.gap == pytest.approx(whole.certificate.gap, abs=1e-5)
    assert apart.certificate.looped_token_layers == whole.certificate.looped_token_layers


def test_a_divergence_follows_its_pairs(setting, monkeypatch):
    """It is measured from each prompt's own unedited run, whichever prompts are run together."""
    model, tokens, _, _ = setting
    metric, cells = Divergence(model, tokens), [(Ablate(Site("resid_pre", 1), torch.ones(model.shape.d_model)),)]
    whole = sweep(model, tokens, metric, cells).value
    monkeypatch.setattr("circuits.engine.task._KEPT_RUNS", 1)
    torch.testing.assert_close(sweep(model, tokens, metric, cells).value, whole, atol=1e-5, rtol=0)
    assert whole.min() > 0
    other = small_models.even()
    with pytest.raises(UndefinedError, match="pair 0 is not among"):
        sweep(model, other, metric, cells)


def test_another_question_is_computed(setting, tmp_path):
    model, tokens, metric, cells = setting
    few = cells[:4]
    with keep(tmp_path) as kept:
        sweep(model, tokens, metric, few)
        before = kept.made
        asked = [
            lambda: sweep(model, tokens, metric, few[:3]),
            lambda: sweep(model, tokens, metric, few, direction="noise"),
            lambda: sweep(model, tokens.select([0, 1, 2, 3]), metric, few),
            lambda: sweep(model, tokens, RefusalMetric(model, "w50"), few),
            lambda: sweep(model, tokens, LogOdds(model, "w50", "w52"), few),
            lambda: sweep(model, tokens, LogOdds(model, "w50"), few),
            lambda: sweep(small_models.model("llama"), tokens, metric, few),
            lambda: sweep(model, tokens, metric, [(Add(Site("mlp_out", 0), torch.ones(model.shape.d_model)),)]),
            lambda: sweep(model, tokens, metric, [(Add(Site("mlp_out", 0), torch.ones(model.shape.d_model), scale=2.0),)]),
        ]  # fmt: skip
        for n, ask in enumerate(asked):
            ask()
            assert kept.found == 0
            assert kept.made == before + 2 * (n + 1)


def test_weights_changed_in_place_are_another_model(tmp_path):
    model = load(str(small_models.folder("gemma")), device="cpu", tokenizer=tiny.tokenizer())
    tokens = small_models.uneven()
    metric, cells = LogitDifference(model, "w50", "w51"), [(Patch(Site("resid_pre", 1), "last"),)]
    with keep(tmp_path) as kept:
        before = sweep(model, tokens, metric, cells)
        with torch.no_grad():
            next(model.hf.parameters()).mul_(1.5)
        after = sweep(model, tokens, metric, cells)
    assert kept.found == 0
    assert not torch.equal(before.value, after.value)


@pytest.mark.parametrize("damage", ["cut short", "one bit", "empty", "other tensors"])
def test_a_damaged_block_is_computed_again(setting, tmp_path, damage):
    model, tokens, metric, cells = setting
    with keep(tmp_path):
        right = sweep(model, tokens, metric, cells[:3])
    (block,) = (tmp_path / "kept").glob("sweep-*")
    data = bytearray(block.read_bytes())
    if damage == "one bit":
        data[-20] ^= 4
    elif damage == "other tensors":
        from safetensors.torch import save

        data = bytearray(save({"value": torch.zeros(3, tokens.n_pairs), "counts": torch.tensor([0, 0])}))
    block.write_bytes(b"" if damage == "empty" else data[: len(data) // 2] if damage == "cut short" else bytes(data))
    with keep(tmp_path) as kept:
        again = sweep(model, tokens, metric, cells[:3])
    assert _same(right, again)
    assert kept.made == 1
    with keep(tmp_path) as healed:
        sweep(model, tokens, metric, cells[:3])
    assert healed.made == 0


EDGES = [Edge("L0.H0", "L1.q[0]"), Edge("L0.MLP", METRIC), Edge("embed", "L1.v[0]"), Edge("L1.H2", METRIC)]


def _asked(model: Any, tokens: Any, metric: Any) -> list[Callable[[], Any]]:
    return [
        lambda: along_paths(model, tokens, metric, EDGES).value,
        lambda: Cuts(model, tokens, metric, ablation="mean").run([EDGES, EDGES[:2], []]),
        lambda: generate_cells(model, tokens, [(), (Patch(Site("resid_pre", 1), "last"),)], max_new_tokens=4),
        lambda: generate(model, tokens, max_new_tokens=4, temperature=1.0, seed=2),
    ]


@pytest.mark.parametrize("which", range(4))
def test_paths_circuits_and_completions_are_kept(setting, tmp_path, which):
    model, tokens, metric, _ = setting
    ask = _asked(model, tokens, metric)[which]
    plain = ask()
    with keep(tmp_path) as first:
        once = ask()
    with keep(tmp_path) as second:
        again = ask()
    assert first.made > 0
    assert (second.found, second.made) == (first.made, 0)
    for found in (once, again):
        assert torch.equal(found, plain) if isinstance(plain, torch.Tensor) else found == plain


def test_edges_in_blocks_are_the_same_edges(setting):
    model, tokens, metric, _ = setting
    whole = along_paths(model, tokens, metric, EDGES)
    with blocks_of_work(1.0):
        apart = along_paths(model, tokens, metric, EDGES)
    torch.testing.assert_close(apart.value, whole.value, atol=2e-6, rtol=0)
    assert apart.certificate.fired >= whole.certificate.fired


def test_nothing_is_kept_outside(setting, tmp_path):
    model, tokens, metric, cells = setting
    with keep(tmp_path):
        pass
    sweep(model, tokens, metric, cells[:2])
    assert not list((tmp_path / "kept").iterdir())


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"), keep(tmp_path):
        pass
