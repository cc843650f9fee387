"""Receivers make of any stream what whole forward passes make of it."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import small_models
import torch
from oracle import Edit, PairOracle, patch

from circuits.engine.capture import capture
from circuits.engine.edges import received
from circuits.engine.edges.names import parallel
from circuits.engine.edges.received import attended
from circuits.engine.replay import Replay
from circuits.sites import Site

TOKENS = small_models.uneven()
SEVEN = ("gemma", "gemma2", "llama", "gpt2", "gpt_neox", "olmo2", "gemma3")
KINDS = ("q", "k", "v", "z", "attn_out", "mlp_out")


def _base(architecture: str, sites: Any = ()) -> Replay:
    model = small_models.model(architecture)
    return Replay(model, capture(model, TOKENS.clean, TOKENS.mask, sites))


@pytest.mark.parametrize("architecture", SEVEN)
def test_of_the_base_stream_they_make_the_base_activations(architecture: str):
    sites = [Site(kind, layer) for kind in KINDS for layer in range(4)]
    replay = _base(architecture, sites)
    seen, start = replay.base.seen, 2
    real = TOKENS.mask[:, start:]
    for layer in range(4):
        x = replay.base.resid[layer][None, :, start:]
        made = received(replay, layer, "attention", x, start)
        z, attn_out = attended(replay, layer, x, start)
        between = x if parallel(replay.model) else x + seen[Site("attn_out", layer)][:, start:]
        found = {**made, **received(replay, layer, "mlp", between, start), "z": z, "attn_out": attn_out}
        assert set(found) == set(KINDS)
        for kind, activation in found.items():
            expected = seen[Site(kind, layer)][:, start:]
            assert (activation[0] - expected)[real].abs().max() <= 2e-5, (kind, layer)


@pytest.mark.parametrize("architecture", SEVEN)
def test_of_another_stream_they_make_what_a_whole_pass_makes(architecture: str):
    """Two rows at once, on columns from `start`, against one unpadded prompt with the stream in its place."""
    replay, hf, layer = _base(architecture), small_models.raw(architecture), 2
    start = TOKENS.n_pos - 3
    generator = torch.Generator().manual_seed(1)
    x = replay.base.resid[layer][None, :, start:].repeat(2, 1, 1, 1)
    x[1] += torch.randn(x[1].shape, generator=generator)
    z, attn_out = attended(replay, layer, x, start)
    found = {**received(replay, layer, "attention", x, start), "z": z, "attn_out": attn_out}
    mlp = received(replay, layer, "mlp", x, start)["mlp_out"]
    side = "mlp_out" if parallel(replay.model) else "resid_mid"
    for pair in (0, 1, 4):
        own = PairOracle(hf, TOKENS, pair, "noise")
        real = oracle.run(hf, own.base, keep=[("resid_pre", layer)])[1]["resid_pre", layer]
        for row in range(2):
            stream = torch.cat([real[:-3], x[row, pair]])
            put = Edit("resid_pre", layer, patch(range(own.length), stream))
            seen = oracle.run(hf, own.base, [put], keep=[(kind, layer) for kind in found])[1]
            for kind, activation in found.items():
                assert (activation[row, pair] - seen[kind, layer][-3:]).abs().max() <= 3e-5, (kind, row)
            if side == "resid_mid":
                put = Edit("resid_mid", layer, patch(range(own.length), stream))
            seen = oracle.run(hf, own.base, [put], keep=[("mlp_out", layer)])[1]
            assert (mlp[row, pair] - seen["mlp_out", layer][-3:]).abs().max() <= 3e-5


def test_the_model_is_left_without_hooks():
    replay = _base("gemma2")
    received(replay, 1, "mlp", replay.base.resid[1][None], 0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in replay.model.hf.modules())
