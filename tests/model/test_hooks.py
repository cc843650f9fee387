"""One hook per site, counted, removed, and refused where it would mean nothing."""

from __future__ import annotations

import pytest
import small_models
import torch

from circuits.errors import SiteError
from circuits.model.hooks import hooked
from circuits.sites import Site, head

IDS = torch.tensor([[2, 10, 20, 30]])
MASK = torch.ones_like(IDS).bool()


def test_overwriting_changes_the_logits_and_only_within_the_context():
    model = small_models.model("gemma2")
    before = model.logits(IDS, MASK)
    with hooked(model.parts, {Site("mlp_out", 1): torch.zeros_like}) as fired:
        changed = model.logits(IDS, MASK)
    assert fired[Site("mlp_out", 1)] == 1
    assert (changed - before).abs().max() > 1e-3
    assert torch.equal(model.logits(IDS, MASK), before)


def test_reading_changes_nothing():
    model, seen = small_models.model("qwen2"), []
    with hooked(model.parts, {Site("z", 2): lambda z: seen.append(z.shape)}):
        logits = model.logits(IDS, MASK)
    assert seen == [(1, 4, 4, 8)]
    assert torch.equal(logits, model.logits(IDS, MASK))


def test_hooks_go_even_when_the_run_fails():
    model = small_models.model("llama")

    def fail(_: torch.Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), hooked(model.parts, {Site("mlp_out", 1): fail}):
        model.logits(IDS, MASK)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


@pytest.mark.parametrize("site", [head(1, 2), Site("mlp_out", 4), Site("resid_pre", 17)])
def test_what_is_not_there_is_refused_before_anything_is_installed(site: Site):
    model = small_models.model("llama")
    with pytest.raises(SiteError, match=site.label), hooked(model.parts, {site: torch.zeros_like}):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


def test_layers_out_of_range_are_named():
    model = small_models.model("llama")
    assert model.check_layers(range(1, 3)) == (1, 2)
    with pytest.raises(SiteError, match="layer 4, 9 out of range"):
        model.check_layers([0, 4, 9])
    with pytest.raises(SiteError, match="no layer given"):
        model.check_layers([])
