"""What must hold of any patch on any model, without an oracle."""

from __future__ import annotations

from typing import Any

import pytest
import small_models
import torch

from circuits.engine import Swept, batches, sweep
from circuits.engine.capture import capture
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay
from circuits.engine.values import values
from circuits.interventions import Cell, Columns, Patch
from circuits.metrics import LogitDifference, LogOdds, RefusalMetric
from circuits.prompts import TokenPairs
from circuits.sites import Site, head

TOKENS = small_models.uneven()


def _everything(n_pos: int) -> list[Cell]:
    cells: list[Cell] = [
        (Patch(Site(kind, layer), Columns((p,))),)
        for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out")
        for layer in range(4)
        for p in range(n_pos)
    ]
    cells += [(Patch(head(layer, h), where),) for layer in range(4) for h in range(4) for where in ("all", "last")]
    return [*cells, tuple(Patch(Site("mlp_out", layer), "last") for layer in (0, 2)), ()]


CELLS = _everything(TOKENS.n_pos)


def _swept(tokens: TokenPairs = TOKENS, *, architecture: str = "gemma2", direction: Any = "denoise") -> Swept:
    model = small_models.model(architecture)
    return sweep(model, tokens, RefusalMetric(model, "w60"), CELLS, direction=direction, audited=False)


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_a_run_patched_from_itself_stays_as_it_is(architecture: str):
    model = small_models.model(architecture)
    sites = {i.site for cell in CELLS for i in cell}
    base = capture(model, TOKENS.corrupt, TOKENS.mask, sites)
    # the same activations but for the last bit of every residual: nothing can be recognised, so everything is run
    copy = capture(model, TOKENS.corrupt, TOKENS.mask, sites)
    nearly = tuple(x.nextafter(torch.tensor(torch.inf)) for x in copy.resid)
    object.__setattr__(copy, "resid", nearly)
    readout = Readout(model, LogOdds(model, "w60").bind(TOKENS))
    replay = Replay(model, base)
    found = values(replay, TOKENS, readout, CELLS, copy)
    expected = readout(base.resid[-1][None, :, -1])[0]
    assert ((found - expected).abs() <= 1e-5 * expected.abs().clamp(min=1)).all()
    assert replay.token_layers > len(CELLS) * TOKENS.n_pairs


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_the_whole_residual_of_the_source_gives_the_source(architecture: str, direction: Any):
    model = small_models.model(architecture)
    whole: list[Cell] = [(Patch(Site("resid_pre", layer), "all"),) for layer in range(4)]
    whole += [(Patch(Site("resid_post", layer), "all"),) for layer in range(4)]
    whole += [(Patch(Site("resid_post", 3), "last"),), (Patch(Site("resid_pre", 0), "subject"),)]
    swept = sweep(model, TOKENS, LogitDifference(model), whole, direction=direction)
    assert (swept.value - swept.source).abs().max() <= 1e-5
    assert (swept.source - swept.base).abs().min() > 1e-3


def test_columns_before_any_difference_are_the_base_to_the_bit():
    swept = _swept()
    before = [
        i for i, cell in enumerate(CELLS)
        if cell and isinstance(cell[0].positions, Columns) and cell[0].positions.columns[0] < TOKENS.first_difference
    ]  # fmt: skip
    assert len(before) == 16 * TOKENS.first_difference > 0
    assert torch.equal(swept.value[before], swept.base.expand(len(before), -1))
    assert torch.equal(swept.value[-1], swept.base)  # the empty cell


def test_columns_before_a_pairs_own_difference_change_nothing_in_it():
    swept = _swept()
    for i, cell in enumerate(CELLS):
        if cell and isinstance(cell[0].positions, Columns):
            earlier = TOKENS.subject > cell[0].positions.columns[0]
            assert torch.allclose(swept.value[i][earlier], swept.base[earlier], atol=2e-6, rtol=0)


def test_denoising_is_not_noising():
    denoised, noised = _swept(), _swept(direction="noise")
    assert torch.allclose(denoised.base, noised.source, atol=1e-5)
    assert torch.allclose(denoised.source, noised.base, atol=1e-5)
    gap = (denoised.source - denoised.base)[None]
    recovered = (denoised.value - denoised.base) / gap
    lost = (noised.value - noised.base) / -gap
    assert (recovered - lost).abs().max() > 0.1


def test_swapping_clean_and_corrupt_swaps_the_directions():
    swapped = TokenPairs(**{**vars(TOKENS), "clean": TOKENS.corrupt, "corrupt": TOKENS.clean})
    assert torch.equal(_swept(swapped).value, _swept(direction="noise").value)


def test_the_order_of_pairs_and_of_cells_does_not_matter():
    order = [3, 0, 4, 2, 1]
    assert torch.allclose(_swept(TOKENS.select(order)).value, _swept().value[:, order], atol=5e-6, rtol=0)
    model = small_models.model("gemma2")
    back = sweep(model, TOKENS, RefusalMetric(model, "w60"), CELLS[::-1], audited=False).value.flip(0)
    assert torch.allclose(back, _swept().value, atol=5e-6, rtol=0)


def test_each_pair_alone_gives_what_it_gives_among_others():
    together = _swept()
    for i in range(TOKENS.n_pairs):
        assert torch.allclose(_swept(TOKENS.select([i])).value[:, 0], together.value[:, i], atol=5e-6, rtol=0)


@pytest.mark.parametrize("size", [1, 60, 300])
def test_the_batch_size_does_not_matter(size: int, monkeypatch: pytest.MonkeyPatch):
    expected = _swept().value
    monkeypatch.setattr(batches, "_CPU_TOKENS", size)
    assert torch.allclose(_swept().value, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("share", [0.0, 2.0], ids=["packed", "one by one"])
def test_packing_columns_does_not_matter(share: float, monkeypatch: pytest.MonkeyPatch):
    from circuits.engine import single

    expected = _swept().value
    monkeypatch.setattr(single, "_FULL_ENOUGH", share)
    assert torch.allclose(_swept().value, expected, atol=5e-6, rtol=0)


def test_fewer_token_layers_than_a_loop():
    model = small_models.model("llama")
    cells: list[Cell] = [(Patch(Site("resid_pre", layer), Columns((p,))),) for layer in range(4) for p in range(10)]
    certificate = sweep(model, TOKENS, RefusalMetric(model, "w60"), cells).certificate
    assert certificate.looped_token_layers == 40 * 5 * 10 * 4
    assert 0 < certificate.token_layers < certificate.looped_token_layers / 4


def test_the_model_is_left_as_it_was():
    model = small_models.model("llama")
    before = model.logits(TOKENS.clean, TOKENS.mask)
    _swept(architecture="llama")
    assert torch.equal(model.logits(TOKENS.clean, TOKENS.mask), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
