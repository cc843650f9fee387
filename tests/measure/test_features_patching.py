"""Features patched exactly: against plain hooks with a decode of its own, and where the truth is planted."""

from __future__ import annotations

import numpy as np
import pytest
import small_models
import small_saes
import torch

from circuits.errors import AuditError, SiteError, UndefinedError
from circuits.measure.features import patch_features
from circuits.metrics import LogitDifference
from circuits.sae import load_sae

LAYER = 1


@pytest.fixture(scope="module")
def model():
    return small_models.model("llama")


@pytest.fixture(scope="module")
def tokens():
    return small_models.uneven()


@pytest.fixture(scope="module")
def random_sae(model, tmp_path_factory):
    return load_sae(str(small_saes.write(tmp_path_factory.mktemp("saes") / "random")), model=model)


@pytest.fixture(scope="module")
def planted(model, tmp_path_factory):
    return load_sae(str(small_saes.planted(tmp_path_factory.mktemp("saes") / "planted")), model=model)


def hooked_metric(tokens, ids, edit):
    """logit[answer] − logit[wrong] of the untouched Hugging Face model, with the output of block LAYER edited."""
    raw = small_models.raw("llama")

    def hook(_, __, output):
        hidden = output[0] if isinstance(output, tuple) else output
        new = edit(hidden)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = raw.model.layers[LAYER].register_forward_hook(hook)
    positions = (tokens.mask.long().cumsum(1) - 1).clamp(min=0)
    try:
        with torch.no_grad():
            logits = raw(input_ids=ids, attention_mask=tokens.mask.long(), position_ids=positions).logits[:, -1]
    finally:
        handle.remove()
    words = [(pair.answer, pair.wrong) for pair in tokens.pairs]
    names = small_models.tiny.tokenizer().convert_tokens_to_ids
    return torch.stack([row[names(a)] - row[names(w)] for row, (a, w) in zip(logits, words, strict=True)])


def weights(sae):
    return {name: t.detach() for name, t in sae.inner.state_dict().items()}


def relu_features(sae, act):
    w = weights(sae)
    return ((act - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_every_cell_is_what_plain_hooks_give(model, tokens, random_sae, direction, positions):
    result = patch_features(model, tokens, LogitDifference(model), random_sae, direction=direction, positions=positions)
    base, source = (tokens.corrupt, tokens.clean) if direction == "denoise" else (tokens.clean, tokens.corrupt)
    seen = []
    hooked_metric(tokens, source, lambda h: seen.append(h) or h)
    there, w = seen[0], weights(random_sae)
    at = tokens.mask.clone() if positions == "all" else torch.arange(tokens.n_pos) == tokens.last
    at = at.expand_as(tokens.mask)[..., None]

    def patched(chosen, *, error=False):
        def edit(h):
            f_base, f_source = relu_features(random_sae, h), relu_features(random_sae, there)
            mixed = f_base.clone()
            mixed[..., chosen] = f_source[..., chosen]
            new = h + (mixed - f_base) @ w["W_dec"]
            if error:
                new = new + (there - f_source @ w["W_dec"]) - (h - f_base @ w["W_dec"])
            return torch.where(at, new, h)

        return hooked_metric(tokens, base, edit)

    for column in range(0, len(result.features), 7):
        expected = patched([result.features[column]])
        torch.testing.assert_close(result.value[:, column], expected, atol=1e-4, rtol=1e-4)
    every = list(range(48))
    torch.testing.assert_close(result.parts["all features"], patched(every), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.parts["error"], patched([], error=True), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.parts["everything"], patched(every, error=True), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result.base, hooked_metric(tokens, base, lambda h: h), atol=1e-4, rtol=1e-4)
    assert "scale" not in result.parts
    assert (result.parts["error"] - result.base).abs().max() > 1e-3


@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
def test_all_parts_together_are_the_site(model, tokens, tmp_path, normalise):
    sae = load_sae(str(small_saes.write(tmp_path / "sae", normalize_activations=normalise)), model=model)
    for positions in ("last", "all"):
        result = patch_features(model, tokens, LogitDifference(model), sae, features=[0], positions=positions)
        torch.testing.assert_close(result.parts["everything"], result.parts["site"], atol=1e-5, rtol=1e-5)
        assert result.identity <= 1e-5
        assert ("scale" in result.parts) == (normalise != "none")
    if normalise != "none":  # features and error alone are not the site
        assert (result.parts["scale"] - result.base).abs().max() > 1e-4


def test_where_the_truth_is_planted_features_are_coordinates(model, tokens, planted):
    """A rotation as dictionary: no error, and patching one pair of features is patching one coordinate."""
    result = patch_features(model, tokens, LogitDifference(model), planted)
    torch.testing.assert_close(result.parts["error"], result.base, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.parts["all features"], result.parts["site"], atol=1e-5, rtol=1e-5)
    seen = []
    hooked_metric(tokens, tokens.clean, lambda h: seen.append(h) or h)
    q = planted.directions[:32]

    def coordinate(i):
        def edit(h):
            new = h.clone()
            moved = (seen[0][:, -1] @ q[i]) - (h[:, -1] @ q[i])
            new[:, -1] = h[:, -1] + moved[:, None] * q[i]
            return new

        return hooked_metric(tokens, tokens.corrupt, edit)

    where = {feature: column for column, feature in enumerate(result.features)}
    same_sign = 0
    for i in range(0, 32, 5):
        columns = [where[f] for f in (i, 32 + i) if f in where]
        # where the coordinate keeps its sign in a pair, one of its two features moves and is the whole coordinate
        for pair in range(tokens.n_pairs):
            moving = [c for c in columns if result.difference[pair, c] != 0]
            if len(moving) == 1:
                same_sign += 1
                torch.testing.assert_close(result.value[pair, moving[0]], coordinate(i)[pair], atol=1e-5, rtol=1e-4)
    assert same_sign >= 5


def test_what_is_active_in_neither_run_is_exactly_the_base_run(model, tokens, planted):
    """Each pair has, of every coordinate that keeps its sign, one feature that is silent in both runs."""
    result = patch_features(model, tokens, LogitDifference(model), planted, features=range(64))
    silent = result.difference == 0
    assert 0.2 < silent.float().mean() < 0.8
    base = result.base[:, None].expand_as(result.value)
    assert (result.value[silent] == base[silent]).all()
    moved = (result.value - base).abs()[~silent]
    assert (moved > 0).float().mean() > 0.9
    assert result.complete
    subset = patch_features(model, tokens, LogitDifference(model), planted, features=[3, 40])
    assert not subset.complete
    torch.testing.assert_close(subset.value, result.value[:, [3, 40]], atol=1e-5, rtol=1e-5)
    assert "sum of single features" not in set(subset.parts_frame()["part"])


def test_single_changes_add_up_to_all_of_them(model, tokens, random_sae):
    from circuits.measure.features.patching import _Mixer

    mixer = _Mixer(model, tokens, random_sae, "denoise", "all")
    base = mixer._base.act
    singles = sum(mixer.single(i) - base for i in range(48))
    rounding = 1e-5 * float(base.abs().max())
    whole, real = mixer.parts()["all features"] - base, tokens.mask
    torch.testing.assert_close(singles[real], whole[real], atol=rounding, rtol=1e-5)
    assert not singles[~real].any()  # padding is left alone


def test_frames_have_what_the_tensors_have(model, tokens, random_sae, says):
    result = patch_features(model, tokens, LogitDifference(model), random_sae)
    frame = result.to_frame()
    assert len(frame) == tokens.n_pairs * len(result.features)
    row = frame[(frame["pair"] == 2) & (frame["feature"] == result.features[4])].iloc[0]
    assert row["value"] == pytest.approx(float(result.value[2, 4]))
    expected = (result.value[2, 4] - result.base[2]) / (result.source[2] - result.base[2])
    assert row["fraction"] == pytest.approx(float(expected), rel=1e-4)
    assert row["label"] == f"L1.F{result.features[4]}"
    parts = result.parts_frame().set_index(["pair", "part"])["value"]
    added = result.base[1] + (result.value[1] - result.base[1]).sum()
    assert parts[1, "sum of single features"] == pytest.approx(float(added), rel=1e-4)
    assert set(result.to_summary()["feature"]) == set(result.features)
    says(result.figure(), "llama")
    assert "certificate ok" in result.provenance.certificate


def test_a_result_is_saved_whole(model, tokens, random_sae, tmp_path):
    import json

    result = patch_features(model, tokens, LogitDifference(model), random_sae, features=[1, 2])
    result.save(tmp_path)
    rest = json.loads((tmp_path / "feature_patching.json").read_text())
    assert rest["features"] == [1, 2]
    assert rest["sae"] == random_sae.title
    assert set(rest["parts"]) == {"all features", "error", "everything", "site"}


def test_what_cannot_be_patched_is_said(model, tokens, random_sae, monkeypatch):
    metric = LogitDifference(model)
    with pytest.raises(SiteError, match="there is no 48"):
        patch_features(model, tokens, metric, random_sae, features=[48])
    with pytest.raises(SiteError, match="no features to patch"):
        patch_features(model, tokens, metric, random_sae, features=[])
    with pytest.raises(SiteError, match="at the last position or at all, not at 'subject'"):
        patch_features(model, tokens, metric, random_sae, positions="subject")
    from circuits.measure.features import patching

    honest = patching._Mixer.parts

    def wrong(self):
        found = honest(self)
        return found | {"everything": found["all features"]}

    monkeypatch.setattr(patching._Mixer, "parts", wrong)
    with pytest.raises(AuditError, match="all features and the error .* are not L1.resid_post"):
        patch_features(model, tokens, metric, random_sae, features=[0])


def test_prompts_that_are_the_same_have_no_feature_to_patch(model, random_sae):
    from circuits.prompts.instruction_tokens import InstructionTokens

    same = InstructionTokens.from_pairs(small_models.uneven()).beside_themselves()
    from circuits.metrics import RefusalMetric

    with pytest.raises(UndefinedError, match="no feature differs"):
        patch_features(model, same, RefusalMetric(model, "w5"), random_sae)


def test_the_bundled_models_features_carry_what_its_site_carries():
    """One feature carries more than any random part of the site of the same length, and all together nearly the site."""
    pytest.importorskip("sae_lens")
    from circuits.engine import sweep
    from circuits.interventions import Patch
    from circuits.linalg import random_directions
    from circuits.metrics import RefusalMetric
    from circuits.model import load
    from circuits.prompts import toy_refusal_pairs
    from circuits.sae import site_acts

    gemma = load(device="cpu")
    sae = load_sae("refusal-gemma", model=gemma)
    pairs, metric = toy_refusal_pairs().tokenize(gemma).select(range(0, 52, 3)), RefusalMetric(gemma)
    result = patch_features(gemma, pairs, metric, sae)
    assert result.identity <= 1e-4
    parts = result.parts_summary().set_index("part")["mean"]
    assert abs(parts["error"]) < 0.15
    assert parts["all features"] == pytest.approx(parts["site"], abs=0.1)
    table = result.to_summary()
    best = table.iloc[table["mean"].argmax()]
    assert best["survives"]
    # the same change of the activation, turned into random directions
    column = result.features.index(int(best["feature"]))
    act = site_acts(gemma, pairs, sae, on="corrupt", positions="last").act
    length = result.difference[:, column, None, None] * sae.direction(int(best["feature"])).norm()
    random = random_directions(20, 64, seed=1)
    cells = [(Patch(sae.site, "last", value=act + length * v),) for v in random]
    swept = sweep(gemma, pairs, metric, cells)
    drawn = ((swept.value - swept.base) / (swept.source - swept.base)).mean(1)
    assert best["mean"] > drawn.max()


def test_heads_and_neurons_have_features_too(model, tokens, tmp_path):
    for name, hook, width in (("z", "blocks.2.attn.hook_z", 32), ("post", "blocks.2.mlp.hook_post", 48)):
        sae = load_sae(str(small_saes.write(tmp_path / name, hook=hook, d_in=width)), model=model)
        result = patch_features(model, tokens, LogitDifference(model), sae)
        torch.testing.assert_close(result.parts["everything"], result.parts["site"], atol=1e-5, rtol=1e-5)
        assert np.isfinite(result.to_summary()["mean"]).all()
