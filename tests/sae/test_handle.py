"""Encoding and decoding against sae-lens and against the formulas written out; what normalisation changes."""

from __future__ import annotations

import pytest
import small_models
import small_saes
import torch

from circuits.errors import SiteError
from circuits.sae import load_sae, prompt_acts, site_acts
from circuits.sites import Site

ACT = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(5))


def loaded(folder, **choices):
    return load_sae(str(small_saes.write(folder, **choices)), model=small_models.model("llama"))


def by_hand(sae, act):
    """Features and reconstruction from the weights alone."""
    w = {name: t.double() for name, t in sae.inner.state_dict().items()}
    x, kind = act.double() - w["b_dec"] * sae.inner.cfg.apply_b_dec_to_input, sae.architecture
    if kind == "gated":
        gate, size = x @ w["W_enc"] + w["b_gate"], x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]
        return (gate > 0) * size.relu(), w
    pre = x @ w["W_enc"] + w["b_enc"]
    norms = w["W_dec"].norm(dim=-1) if getattr(sae.inner.cfg, "rescale_acts_by_decoder_norm", False) else 1.0
    if kind == "jumprelu":
        return pre.relu() * (pre > w["threshold"]), w
    if kind == "standard":
        return pre.relu(), w
    pre = pre * norms
    size = pre.abs() if kind == "abstopk" else pre
    least = size.topk(6, dim=-1).values[..., -1:]
    return torch.where(size >= least, pre if kind == "abstopk" else pre.relu(), 0.0), w


@pytest.mark.parametrize("architecture", small_saes.CLASSES)
def test_every_architecture_encodes_and_decodes_by_its_formula(tmp_path, architecture):
    sae = loaded(tmp_path, architecture=architecture)
    features, w = by_hand(sae, ACT)
    found = sae.encode(ACT)
    assert found.shape == (3, 5, 48)
    assert (features != 0).any()
    torch.testing.assert_close(found.double(), features, atol=1e-5, rtol=1e-5)
    decoded = features @ sae.directions.double() + w["b_dec"]
    torch.testing.assert_close(sae.decode(found, like=ACT).double(), decoded, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(found, like=ACT), sae.inner(ACT), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.error(ACT).double(), ACT.double() - decoded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["standard", "topk by norm"])
@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
def test_decoding_is_affine_in_the_scale_of_what_it_stands_for(tmp_path, architecture, normalise):
    sae = loaded(tmp_path, architecture=architecture, normalize_activations=normalise)
    assert sae.normalised == (normalise != "none")
    features = sae.encode(ACT)
    nothing = sae.decode(torch.zeros_like(features), like=ACT)
    added = sae.scale(ACT) * (features @ sae.directions)
    torch.testing.assert_close(sae.decode(features, like=ACT) - nothing, added, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.decode(sae.encode(ACT), like=ACT), sae.inner(ACT), atol=1e-5, rtol=1e-5)
    # decoding in the place of another activation takes that one's scale, whatever was encoded last
    other = 3 * ACT.flip(0)
    sae.encode(ACT)
    moved = sae.decode(features, like=other) - sae.decode(torch.zeros_like(features), like=other)
    torch.testing.assert_close(moved, sae.scale(other) * (features @ sae.directions), atol=1e-4, rtol=1e-4)
    same = torch.allclose(moved, added, atol=1e-3)
    assert same == (normalise == "none")


def test_heads_are_read_as_one_vector(tmp_path):
    sae = loaded(tmp_path, hook="blocks.2.attn.hook_z")
    assert sae.site == Site("z", 2)
    assert sae.size == (4, 8)
    act = ACT.unflatten(-1, (4, 8))
    torch.testing.assert_close(sae.encode(act), sae.inner.encode(ACT))
    torch.testing.assert_close(sae.decode(sae.encode(act), like=act).flatten(-2), sae.inner(ACT))
    with pytest.raises(SiteError, match=r"reads L2.z, whose activations end in \(4, 8\); got \(3, 5, 32\)"):
        sae.encode(ACT)


def test_what_does_not_fit_is_said(tmp_path):
    sae = loaded(tmp_path)
    with pytest.raises(SiteError, match="are not 48 for each of"):
        sae.decode(torch.zeros(3, 4, 48), like=ACT)
    with pytest.raises(SiteError, match="features 0 to 47; there is no 48"):
        sae.direction(48)


def test_a_direction_is_what_one_unit_of_a_feature_adds(tmp_path):
    sae = loaded(tmp_path, architecture="topk by norm")
    unit = torch.zeros(1, 48)
    unit[0, 7] = 1
    like = ACT[0, :1]
    added = sae.decode(unit, like=like) - sae.decode(torch.zeros(1, 48), like=like)
    torch.testing.assert_close(added[0], sae.direction(7), atol=1e-6, rtol=1e-5)
    assert sae.label(7) == "L1.F7"


def test_activations_of_the_site_are_those_of_the_model(tmp_path):
    model, tokens = small_models.model("llama"), small_models.uneven()
    sae = loaded(tmp_path)
    states = small_models.raw("llama")(
        input_ids=tokens.clean, attention_mask=tokens.mask.long(), output_hidden_states=True,
        position_ids=(tokens.mask.long().cumsum(1) - 1).clamp(min=0),
    ).hidden_states  # fmt: skip
    whole = site_acts(model, tokens, sae, on="clean")
    torch.testing.assert_close(whole.act[tokens.mask], states[2][tokens.mask], atol=1e-5, rtol=1e-4)
    last = site_acts(model, tokens, sae, on="clean", positions="last")
    torch.testing.assert_close(last.features[:, 0], whole.features[:, -1])
    torch.testing.assert_close(last.act, last.error + sae.decode(last.features, like=last.act))


def test_prompts_in_batches_have_what_they_have_alone(tmp_path, monkeypatch):
    from circuits.prompts.instruction_tokens import InstructionTokens
    from circuits.sae import acts

    model, prompts = small_models.model("llama"), InstructionTokens.from_pairs(small_models.uneven())
    sae = loaded(tmp_path)
    together = prompt_acts(model, prompts, sae)
    monkeypatch.setattr(acts, "_BATCH", 3)
    apart = prompt_acts(model, prompts, sae)
    torch.testing.assert_close(apart.features[prompts.mask], together.features[prompts.mask], atol=1e-5, rtol=1e-4)
