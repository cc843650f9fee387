"""Features of a direction, of a class difference and of prompts, where the dictionary and the truth are planted."""

from __future__ import annotations

import numpy as np
import pytest
import small_models
import small_saes
import torch

from circuits.errors import CircuitError, SiteError, UndefinedError
from circuits.measure.features import decompose, decompose_difference, top_features
from circuits.measure.features.pursuit import pursue, unit_rows
from circuits.measure.features.top import marked
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.sae import load_sae, prompt_acts


@pytest.fixture(scope="module")
def model():
    return small_models.model("llama")


@pytest.fixture(scope="module")
def prompts():
    return InstructionTokens.from_pairs(small_models.uneven())


@pytest.fixture(scope="module")
def sae(model, tmp_path_factory):
    return load_sae(str(small_saes.write(tmp_path_factory.mktemp("saes") / "random")), model=model)


@pytest.fixture(scope="module")
def planted(model, tmp_path_factory):
    return load_sae(str(small_saes.planted(tmp_path_factory.mktemp("saes") / "planted")), model=model)


# -- of a direction


def test_a_planted_sum_of_features_is_found_whole(model, planted):
    v = 3 * planted.directions[4] + 2 * planted.directions[9] + planted.directions[32 + 20]
    result = decompose(model, planted, v, k=5)
    assert result.features == (4, 9, 52)  # the three that were planted, and none that would explain nothing
    torch.testing.assert_close(result.coefficient, torch.tensor([3.0, 2.0, 1.0]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.share, torch.tensor([9, 13, 14]) / 14, atol=1e-6, rtol=1e-5)
    assert float(result.cosine[4]) == pytest.approx(3 / 14**0.5, rel=1e-5)
    assert float(result.cosine[36]) == pytest.approx(-3 / 14**0.5, rel=1e-5)
    table = result.to_summary()
    assert (table["p"] == 1 / 201).all()
    assert (table["null_low"] <= table["null_mean"]).all()
    assert (table["null_mean"] <= table["null_high"]).all()


def test_of_an_orthonormal_dictionary_random_directions_are_their_largest_coordinates(model, planted):
    from circuits.linalg import random_directions

    result = decompose(model, planted, planted.direction(0) + 0.5 * planted.direction(1), k=2, null_draws=30, seed=4)
    coordinates = (random_directions(30, 32, seed=4) @ planted.directions[:32].T).square()
    largest = coordinates.sort(dim=-1, descending=True).values[:, :2].cumsum(-1)
    torch.testing.assert_close(result.null_share, largest, atol=1e-5, rtol=1e-4)


def test_a_random_direction_is_no_better_explained_than_others(model, sae):
    ps = [
        decompose(model, sae, v, k=3, null_draws=60).to_summary()["p"].iloc[-1]
        for v in torch.randn(12, 32, generator=torch.Generator().manual_seed(9))
    ]
    assert 0.15 < np.mean(ps) < 0.85


@pytest.mark.parametrize("nonnegative", [True, False])
def test_pursuit_fits_all_coefficients_again(nonnegative):
    """Each step's share is that of the best fit by the chosen rows, and never falls."""
    from scipy.optimize import nnls

    rng = np.random.default_rng(2)
    atoms, v = rng.normal(size=(40, 12)) * rng.uniform(0.1, 3, size=(40, 1)), rng.normal(size=12)
    units, norms = unit_rows(atoms)
    found = pursue(v, units, 12, nonnegative=nonnegative)
    assert (np.diff(found.share) >= -1e-12).all()
    assert len(set(found.chosen)) == len(found.chosen)
    for k in (1, 3, 6):
        some = atoms[list(found.chosen[:k])].T
        fitted = nnls(some, v)[0] if nonnegative else np.linalg.lstsq(some, v, rcond=None)[0]
        assert found.share[k - 1] == pytest.approx(1 - ((v - some @ fitted) ** 2).sum() / (v @ v), abs=1e-9)
    chosen = list(found.chosen)
    rebuilt = (np.array(found.coefficients) / norms[chosen]) @ atoms[chosen]
    assert found.share[-1] == pytest.approx(1 - ((v - rebuilt) ** 2).sum() / (v @ v), abs=1e-9)
    if nonnegative:
        assert min(found.coefficients) >= 0
    else:
        assert found.share[-1] == pytest.approx(1)  # as many rows as the space has dimensions
        assert min(found.coefficients) < 0


def test_directions_without_parts_are_said(model, sae, tmp_path):
    with pytest.raises(UndefinedError, match="norm 0.0e"):
        decompose(model, sae, torch.zeros(32))
    with pytest.raises(SiteError, match="has 32 numbers; got"):
        decompose(model, sae, torch.ones(31))
    with pytest.raises(SiteError, match="say nothing"):
        decompose(model, sae, torch.ones(32), k=0)
    one = small_saes.built(d_sae=1)
    one.save_model(tmp_path / "one")
    only = load_sae(str(tmp_path / "one"), model=model)
    with pytest.raises(UndefinedError, match="no feature points along"):
        decompose(model, only, -only.direction(0))
    assert decompose(model, only, -only.direction(0), nonnegative=False).coefficient.tolist() == pytest.approx([-1.0])


# -- of a class difference


@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
def test_features_offset_and_error_add_up_to_the_difference(model, prompts, tmp_path, normalise):
    sae = load_sae(str(small_saes.write(tmp_path / "sae", normalize_activations=normalise)), model=model)
    result = decompose_difference(model, sae, prompts, k=48, null_draws=20)
    assert result.parts()["projection"].sum() == pytest.approx(1, abs=1e-5)
    assert (abs(result.offset_projection) > 1e-4) == (normalise != "none")
    acts = prompt_acts(model, prompts, sae, positions="last")
    of = prompts.harmful
    d = acts.act[of, 0].mean(0) - acts.act[~of, 0].mean(0)
    torch.testing.assert_close(result.difference, d, atol=1e-5, rtol=1e-4)
    error = acts.error[of, 0].mean(0) - acts.error[~of, 0].mean(0)
    assert result.error_norm == pytest.approx(float(error.square().sum() / d.square().sum()), rel=1e-3)
    if normalise == "none":  # by hand: the top 3 taken out
        gap = acts.features[of, 0].mean(0) - acts.features[~of, 0].mean(0)
        share = (gap * (sae.directions @ d)) / d.square().sum()
        torch.testing.assert_close(result.projection, share, atol=1e-5, rtol=1e-3)
        top = share.abs().argsort(descending=True)[:3]
        assert result.order[:3] == tuple(top.tolist())
        rest = d - gap[top] @ sae.directions[top]
        assert float(result.top_norm[2]) == pytest.approx(float(1 - rest.square().sum() / d.square().sum()), rel=1e-3)
        assert float(result.top_projection[2]) == pytest.approx(float(share[top].sum()), rel=1e-3)


def test_a_dictionary_of_all_coordinates_leaves_nothing_over(model, prompts, planted):
    result = decompose_difference(model, planted, prompts, k=64, null_draws=20)
    assert result.error_norm == pytest.approx(0, abs=1e-9)
    assert float(result.top_norm[-1]) == pytest.approx(1, abs=1e-5)
    assert float(result.top_projection[-1]) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(result.null_norm[:, -1], torch.ones(20), atol=1e-5, rtol=1e-5)  # as of any difference


def test_what_the_dictionary_lacks_is_the_error(model, prompts, tmp_path):
    """Eight coordinates are left out of the dictionary: the error is the difference along them, exactly."""
    lacking = load_sae(str(small_saes.planted(tmp_path / "lacking", drop=8)), model=model)
    result = decompose_difference(model, lacking, prompts, null_draws=20)
    q, _ = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
    d = result.difference
    outside = float((q[24:] @ d).square().sum() / d.square().sum())
    assert result.error_norm == pytest.approx(outside, rel=1e-4)
    assert result.error_projection == pytest.approx(outside, rel=1e-4)
    assert 0.02 < outside < 0.98


def test_shuffled_labels_find_a_planted_feature_and_nothing_else(model, planted, monkeypatch):
    """Forty prompts of random activations, one coordinate of which differs by class."""
    from circuits.measure.features import contrast
    from circuits.sae import Acts

    prompts = InstructionTokens.from_pairs(small_models.uneven().select([0, 1, 2, 3, 4] * 4))
    noise = torch.randn(40, 1, 32, generator=torch.Generator().manual_seed(1))

    def found(by):
        act = noise.clone()
        act[:20] += by * planted.directions[7]
        features = planted.encode(act)
        made = Acts(act=act, features=features, error=act - planted.decode(features, like=act))
        monkeypatch.setattr(contrast, "prompt_acts", lambda *_, **__: made)
        return decompose_difference(model, planted, prompts, null_draws=199)

    result = found(3)
    assert result.order[0] == 7
    assert float(result.p[7]) == pytest.approx(1 / 200)
    others = [i for i in range(64) if i not in (7, 39)]
    assert int((result.p[others] <= 0.05).sum()) <= 2
    assert result.to_summary()["norm_p"].iloc[0] <= 0.05
    assert float(found(0).p.min()) > 0.05


def test_classes_that_do_not_differ_are_said(model, prompts, tmp_path):
    first = load_sae(str(small_saes.write(tmp_path / "first", hook="blocks.0.hook_resid_pre")), model=model)
    same = small_models.uneven().select([0, 0])
    with pytest.raises(UndefinedError, match="agree at the last position"):  # the last token is the same in both
        decompose_difference(model, first, InstructionTokens.from_pairs(same))
    with pytest.raises(CircuitError, match="incapable: fewer than two prompts"):
        decompose_difference(model, first, prompts, "harmful", "incapable")
    with pytest.raises(CircuitError, match="give two labels"):
        decompose_difference(model, first, prompts, "harmful", "harmful")


def test_figures_and_frames_of_a_difference(model, prompts, sae, says, tmp_path):
    result = decompose_difference(model, sae, prompts, null_draws=20)
    frame = result.to_frame()
    assert (frame["projection"].abs().diff().dropna() <= 1e-9).all()
    assert frame["rank"].tolist() == list(range(1, len(frame) + 1))
    says(result.figure(), "llama")
    says(decompose(model, sae, result.difference, null_draws=10).figure(), "llama")
    assert result.save(tmp_path).exists()


# -- of prompts


def test_the_examples_are_the_largest_activations(model, prompts, sae):
    result = top_features(model, sae, prompts, examples=3)
    acts = prompt_acts(model, prompts, sae)
    counted = prompts.mask & (prompts.mask.long().cumsum(1) > 1)
    features = acts.features * counted[..., None]
    mean = features.sum((0, 1)) / counted.sum()
    assert result.features == tuple(mean.argsort(descending=True, stable=True)[:20].tolist())
    for row, feature in enumerate(result.features[:6]):
        best = features[..., feature].max(1).values.sort(descending=True).values[:3]
        torch.testing.assert_close(result.activation[row], best, atol=1e-5, rtol=1e-5)
        for rank in range(3):
            prompt, pos = int(result.prompt[row, rank]), int(result.position[row, rank])
            if result.activation[row, rank] > 0:
                assert features[prompt, pos, feature] == pytest.approx(float(result.activation[row, rank]), rel=1e-5)
        density = (features[..., feature] != 0).sum() / counted.sum()
        assert float(result.density[row]) == pytest.approx(float(density), rel=1e-5)


def test_a_token_is_marked_in_its_context(model, prompts, sae, says):
    assert marked(("", "", "a", " b", " c"), -1) == "a b‹ c›"
    assert marked(tuple("abcdefgh"), -4, around=1) == "…d‹e›f…"
    result = top_features(model, sae, prompts, features=[3, 11], examples=2)
    frame = result.to_frame()
    assert set(frame["feature"]) <= {3, 11}
    for row in frame.to_dict("records"):
        assert f"‹{row['token']}›" in row["context"]
        assert prompts.text[row["prompt"]][row["pos"]] == row["token"]
        assert row["prompt_label"] in ("harmful", "harmless")
    assert set(result.to_summary()["feature"]) == set(frame["feature"])
    says(result.figure(), "llama")
    with pytest.raises(SiteError, match="there is no 99"):
        top_features(model, sae, prompts, features=[99])
    with pytest.raises(SiteError, match="give at least one"):
        top_features(model, sae, prompts, features=[])


def test_a_silent_feature_has_no_example(model, prompts, tmp_path):
    dead = small_saes.built()
    with torch.no_grad():
        dead.b_enc[5] = -1e3
    dead.save_model(tmp_path / "dead")
    silent = load_sae(str(tmp_path / "dead"), model=model)
    result = top_features(model, silent, prompts, features=[5, 6])
    assert float(result.density[0]) == 0
    assert set(result.to_frame()["feature"]) == {6}
