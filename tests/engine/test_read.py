"""What is read under a cell is what the oracle sees under the same edits."""

from __future__ import annotations

import pytest
import small_models
import torch
from oracle import PairOracle, run

from circuits.engine import capture, read
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Ablate, Add, Patch
from circuits.sites import Site, head

TOKENS = small_models.uneven()
V = torch.randn(32, generator=torch.Generator().manual_seed(5))
KINDS = [("resid_pre", 2), ("result", 2), ("z", 3), ("attn_out", 1), ("mlp_out", 2), ("resid_post", 3), ("resid_post", 1)]
SITES = [Site(kind, layer) for kind, layer in KINDS]


@pytest.mark.parametrize("on", ["clean", "corrupt"])
@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_an_edited_run_is_the_oracles(architecture: str, on: str):
    cell = (
        Ablate(Site("resid_pre", 1), V, "last"), Patch(head(1, 2), "all"), Add(Site("mlp_out", 2), V, "subject"),
        Patch(Site("attn_out", 2), "last", torch.zeros(())), Ablate(Site("resid_post", 3), V, "last"),
    )  # fmt: skip
    found = read(small_models.model(architecture), TOKENS, cell, SITES, on=on)
    for pair in (0, 3):
        one = PairOracle(small_models.raw(architecture), TOKENS, pair, "noise" if on == "clean" else "denoise")
        logits, seen = run(one.hf, one.base, one.edits(cell), keep=KINDS)
        assert torch.allclose(found.logits[pair], logits[-1], atol=2e-5)
        for site, key in zip(SITES, KINDS, strict=True):
            mine, theirs = found.seen[site][pair, one.pad :], seen[key]
            assert mine.shape == theirs.shape
            assert torch.allclose(mine, theirs, atol=2e-5 * float(theirs.abs().max())), site.label


def test_no_edits_is_the_run_itself():
    model = small_models.model("gemma2")
    found = read(model, TOKENS, (), [Site("attn_out", 1), head(2, 1)])
    kept = capture(model, TOKENS.clean, TOKENS.mask, [Site("attn_out", 1), Site("z", 2)])
    for site, activation in found.seen.items():
        assert torch.allclose(activation, kept.seen[site], atol=1e-5)
    assert set(found.seen) == {Site("attn_out", 1), Site("z", 2)}


def test_what_an_edit_leaves_alone_is_the_same_to_the_last_bit():
    model = small_models.model("llama")
    sites = [Site("result", layer) for layer in range(4)]
    intact, edited = (read(model, TOKENS, cell, sites) for cell in ((), (Patch(head(2, 1), "last", torch.zeros(())),)))
    for layer in (0, 1):
        assert torch.equal(intact.seen[sites[layer]], edited.seen[sites[layer]])
    assert torch.equal(intact.seen[sites[2]][:, :, [0, 2, 3]], edited.seen[sites[2]][:, :, [0, 2, 3]])
    assert not torch.equal(intact.seen[sites[3]], edited.seen[sites[3]])


def test_columns():
    model = small_models.model("llama")
    whole, some = (read(model, TOKENS, (), [Site("mlp_out", 1)], columns=c).seen for c in (None, (-1, 7)))
    assert torch.equal(whole[Site("mlp_out", 1)][:, [-1, 7]], some[Site("mlp_out", 1)])
    with pytest.raises(SiteError, match="column 10 does not exist"):
        read(model, TOKENS, (), [], columns=(10,))


def test_what_is_not_there_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch):
    model = small_models.model("gpt_neox")
    monkeypatch.setattr(type(model), "logits", lambda *_: pytest.fail("ran"))
    with pytest.raises(SiteError, match="parallel"):
        read(model, TOKENS, (), [Site("resid_mid", 1)])
    with pytest.raises(SiteError, match="layers 0 to 3"):
        read(model, TOKENS, (Patch(Site("mlp_out", 4), "last"),), [])


def test_logits_that_are_not_finite_are_an_error():
    with pytest.raises(UndefinedError, match="L1.resid_pre are not finite"):
        read(small_models.model("gpt2"), TOKENS, (Add(Site("resid_pre", 1), V, "last", 1e38),), [])
