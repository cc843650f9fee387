"""Our sites are transformer-lens' hook points: both read the same numbers under the same names."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import small_models
import torch

from circuits.engine import capture
from circuits.sites import Site

KINDS: tuple[Any, ...] = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "pattern", "resid_post")


def sites(architecture: str) -> list[Site]:
    lacking = small_models.model(architecture).parts.lacking
    return [Site("embed"), *(Site(kind, layer) for kind in KINDS if kind not in lacking for layer in range(4))]


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_every_site_is_the_hook_of_its_name(architecture: str):
    model, tokens = small_models.model(architecture), small_models.even()
    chosen = sites(architecture)
    run = capture(model, tokens.clean, tokens.mask, chosen)
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(tokens.clean)
    assert set(run.seen) == set(chosen)
    for site in chosen:
        theirs = cache[site.hook_name]
        theirs = theirs.transpose(1, 2) if site.kind == "pattern" else theirs.view_as(run.seen[site])
        assert (run.seen[site] - theirs).abs().max() <= 2e-6 * max(1, theirs.abs().max()), site
        assert theirs.std() > 1e-3


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_every_site_is_what_an_unpadded_prompt_has_there(architecture: str):
    model, tokens = small_models.model(architecture), small_models.uneven()
    run = capture(model, tokens.clean, tokens.mask, sites(architecture))
    for i in range(tokens.n_pairs):
        ids = tokens.clean[i][tokens.mask[i]]
        keys = [(site.kind, site.layer) for site in run.seen if site.kind not in ("embed", "pattern")]
        _, seen = oracle.run(small_models.raw(architecture), ids, keep=keys)
        for (kind, layer), expected in seen.items():
            found = run.seen[Site(kind, layer)][i, tokens.n_pos - len(ids) :]  # type: ignore[arg-type]
            assert (found - expected).abs().max() <= 2e-6 * max(1, expected.abs().max()), (kind, layer)
        for layer, pattern in enumerate(oracle.patterns(small_models.raw(architecture), ids)):
            found = run.seen[Site("pattern", layer)][i, -len(ids) :, :, -len(ids) :]
            assert (found.transpose(0, 1) - pattern).abs().max() <= 5e-6


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_the_residual_adds_up(architecture: str):
    model, tokens = small_models.model(architecture), small_models.uneven()
    run = capture(model, tokens.clean, tokens.mask, sites(architecture))
    real = tokens.mask
    for layer in range(4):
        written = run.seen[Site("attn_out", layer)] + run.seen[Site("mlp_out", layer)]
        gap = run.resid[layer] + written - run.resid[layer + 1]
        assert gap[real].abs().max() <= 1e-6 * run.resid[layer + 1].abs().max()
        assert torch.equal(run.resid[layer][real], run.seen[Site("resid_pre", layer)][real])
        assert torch.equal(run.resid[layer + 1][real], run.seen[Site("resid_post", layer)][real])
