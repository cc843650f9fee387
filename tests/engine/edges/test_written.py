"""What senders add makes up the residual stream, in the run whose scales are held and in any other."""

from __future__ import annotations

import pytest
import small_models
import torch

from circuits.engine.capture import Run, capture
from circuits.engine.edges import Written, all_senders
from circuits.engine.edges.differences import Differences, sites_of_senders
from circuits.engine.edges.names import reaches
from circuits.engine.edges.written import SITES
from circuits.engine.replay import Replay
from circuits.engine.source import source_of
from circuits.errors import AuditError
from circuits.model import Model
from circuits.model.value_path import output_path
from circuits.sites import Site

TOKENS = small_models.uneven()
SEVEN = ("gemma", "gemma2", "llama", "gpt2", "gpt_neox", "olmo2", "gemma3")
POST_NORMED = ("gemma2", "gemma3", "olmo2")


def _runs(model: Model, start: int | None = None) -> tuple[Run, Run]:
    sites = {Site(kind, layer) for kind in SITES for layer in range(4)}
    base = capture(model, TOKENS.clean, TOKENS.mask, sites)
    return base, source_of(Replay(model, base), TOKENS.corrupt, sites, start or TOKENS.first_difference)


@pytest.mark.parametrize("architecture", SEVEN)
def test_heads_and_post_norm_are_what_attention_adds(architecture: str):
    model = small_models.model(architecture)
    base, source = _runs(model)
    written = Written(model, base)
    for layer in range(4):
        for run in (base, source):
            attn_out = run.seen[Site("attn_out", layer)][None]
            heads = written.heads(layer, run.seen[Site("z", layer)][None])
            beyond = written.post_norm(layer, heads, attn_out)
            if run is base:  # at its own scale nothing is left
                assert beyond[:, TOKENS.mask].abs().max() <= 2e-5
            elif architecture in POST_NORMED:
                assert beyond[:, TOKENS.mask].abs().max() > 1e-3
            added, constant = output_path(model, layer).added(base.seen[Site("z", layer)])
            if run is base:
                assert (heads[0] - added)[TOKENS.mask].abs().max() <= 2e-5
            rest = (attn_out - heads.sum(-2) - beyond)[0]
            assert (rest - constant)[TOKENS.mask].abs().max() <= 2e-5


@pytest.mark.parametrize("architecture", SEVEN)
def test_senders_add_up_to_the_difference_of_the_streams(architecture: str):
    model = small_models.model(architecture)
    base, source = _runs(model)
    start = TOKENS.first_difference
    differences = Differences(model, base, source, start)
    real = TOKENS.mask[:, start:]
    for layer in range(5):
        place = "metric" if layer == 4 else f"L{layer}.q[0]"
        senders = [s for s in all_senders(model) if reaches(model, s, place)]
        found = torch.stack([differences.of(s) for s in senders]).sum(0)
        expected = (source.resid[layer] - base.resid[layer])[:, start:]
        largest = max(run.resid[layer].abs().max().item() for run in (base, source))
        assert (found - expected)[real].abs().max() <= 2e-6 * largest
        assert expected[real].abs().max() > 0.1
        whole = [s for s in senders if ".H" not in s and not s.endswith("post-norm")]
        whole += [f"L{n}.ATTN" for n in range(layer)]
        assert (torch.stack([differences.of(s) for s in whole]).sum(0) - expected)[real].abs().max() <= 2e-6 * largest
    differences.check(range(4))


def test_the_same_columns_from_any_start():
    model = small_models.model("gemma2")
    base, source = _runs(model)
    early, late = (Differences(model, base, source, start) for start in (0, TOKENS.n_pos - 2))
    for sender in ("embed", "L1.H2", "L1.post-norm", "L2.ATTN", "L2.MLP"):
        assert torch.equal(early.of(sender)[:, -2:], late.of(sender))


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_heads_that_do_not_add_up_are_found(architecture: str, monkeypatch: pytest.MonkeyPatch):
    model = small_models.model(architecture)
    base, source = _runs(model)
    differences = Differences(model, base, source, TOKENS.first_difference)
    heads = differences.written.heads
    monkeypatch.setattr(differences.written, "heads", lambda layer, z, start=0: heads(layer, z, start) * 1.01)
    with pytest.raises(AuditError, match="heads of block 1 write is off"):
        differences.check([1])


def test_only_what_is_needed_is_kept():
    assert sites_of_senders(["embed"]) == set()
    assert sites_of_senders(["L1.ATTN", "L2.MLP"]) == {Site("attn_out", 1), Site("mlp_out", 2)}
    assert sites_of_senders(["L1.H0"]) == {Site("attn_out", 1), Site("z", 1)}
