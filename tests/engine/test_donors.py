"""Means and resampled activations, against averages taken prompt by prompt without padding."""

from __future__ import annotations

import oracle
import pytest
import small_models
import torch
from oracle import PairOracle

from circuits.engine import mean_activations, resampled_activations, sweep
from circuits.errors import SiteError
from circuits.interventions import Patch
from circuits.metrics import RefusalMetric
from circuits.prompts import PairSet
from circuits.sites import Site, head

SITES = [Site("mlp_out", 1), head(2, 1), Site("k", 1, 0), Site("resid_pre", 2)]


def unpadded(architecture: str, side: str) -> list[dict[Site, torch.Tensor]]:
    tokens, raw = small_models.uneven(), small_models.raw(architecture)
    ids = tokens.clean if side == "clean" else tokens.corrupt
    keys = [(site.kind, site.layer) for site in SITES]
    runs = [oracle.run(raw, ids[i][tokens.mask[i]], keep=keys)[1] for i in range(tokens.n_pairs)]
    return [{s: run[s.kind, s.layer] if s.index is None else run[s.kind, s.layer][:, s.index] for s in SITES} for run in runs]


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_means(architecture: str):
    model, tokens = small_models.model(architecture), small_models.uneven()
    by_column = mean_activations(model, tokens, SITES)
    overall = mean_activations(model, tokens, SITES, side="clean", by="all")
    both = unpadded(architecture, "clean") + unpadded(architecture, "corrupt")
    for site in SITES:
        for back in range(1, tokens.n_pos + 1):
            reaching = [run[site][-back] for run in both if len(run[site]) >= back]
            assert torch.allclose(by_column[site][-back], torch.stack(reaching).mean(0), atol=1e-5)
        everything = torch.cat([run[site] for run in unpadded(architecture, "clean")])
        assert torch.allclose(overall[site], everything.mean(0), atol=1e-5)


def test_a_mean_patched_in_is_what_the_oracle_gets_from_it():
    model, tokens = small_models.model("gemma2"), small_models.uneven()
    metric, site = RefusalMetric(model, "w60"), Site("mlp_out", 1)
    mean = mean_activations(model, tokens, [site])[site]
    found = sweep(model, tokens, metric, [(Patch(site, "all", mean),)], direction="noise").value[0]
    for i in range(tokens.n_pairs):
        pair = PairOracle(small_models.raw("gemma2"), tokens, i, "noise")
        edit = oracle.Edit("mlp_out", 1, oracle.patch(range(pair.length), mean[-pair.length :]))
        expected = oracle.against_mean(pair.logits([edit]), model.tokenizer.convert_tokens_to_ids("w60"))
        assert found[i].item() == pytest.approx(expected, abs=1e-4)


def test_a_resampled_activation_is_one_other_prompts():
    model, tokens = small_models.model("llama"), small_models.uneven()
    donors = PairSet.from_pairs(
        [(" ".join(f"w{i + k}" for i in range(10)), " ".join(f"w{i + k}" for i in range(9)) + " w70") for k in (0, 20, 40)],
        name="donors",
    ).tokenize(model)
    drawn = resampled_activations(model, tokens, donors, SITES, seed=3)
    again = resampled_activations(model, tokens, donors, SITES, seed=3)
    runs = [oracle.run(small_models.raw("llama"), ids, keep=[("mlp_out", 1), ("resid_pre", 2)])[1] for ids in donors.corrupt]
    chosen: set[int] = set()
    for i in range(tokens.n_pairs):
        n = int(tokens.lengths[i])
        gaps = [(run["mlp_out", 1][-n:] - drawn[Site("mlp_out", 1)][i, -n:]).abs().max().item() for run in runs]
        donor = min(range(3), key=gaps.__getitem__)
        assert gaps[donor] < 1e-5
        assert torch.allclose(runs[donor]["resid_pre", 2][-n:], drawn[Site("resid_pre", 2)][i, -n:], atol=1e-5)
        chosen.add(donor)
    assert len(chosen) > 1
    assert all(torch.equal(drawn[site], again[site]) for site in SITES)


def test_no_prompt_is_its_own_donor_and_none_is_too_short():
    model, tokens = small_models.model("llama"), small_models.uneven()
    longest = int(tokens.lengths.argmax())
    with pytest.raises(SiteError, match=f"pair {longest} has {int(tokens.lengths.max())} tokens and no other prompt"):
        resampled_activations(model, tokens, tokens, SITES)
    with pytest.raises(SiteError, match="L9.MLP: this model has layers 0 to 3"):
        mean_activations(model, tokens, [Site("mlp_out", 9)])
