"""Planes of planted candidates are the planes planted; conventions matter and are named; degenerate ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import small_models
import torch

from circuits.engine.collect import last_residuals
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Aim
from circuits.measure.planes import PUBLISHED, Planes, concept_planes, planes
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.result import Provenance
from circuits.sites import Site

MODEL = small_models.model("llama")
ABOUT = Provenance(model="tiny", model_hash="0", dtype="float32", device="cpu", pairs="planted", metric="")
E1, E2, E3 = torch.eye(16)[:3]
# along E1 throughout, drifting along E2 by layer, and a little along E3
DRIFT = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
WOBBLE = torch.tensor([1.0, -1.0, 0.0, -1.0, 1.0]) * 0.1
PLANTED = 5 * E1 + DRIFT[:, None] * E2 + WOBBLE[:, None] * E3


def _same_plane(found: torch.Tensor, *spanning: torch.Tensor) -> None:
    assert torch.allclose(found @ found.T, torch.eye(2), atol=1e-6)
    for v in spanning:
        assert torch.allclose(found.T @ (found @ v), v, atol=1e-4), "not in the plane"


def _planted(**options: Any) -> Planes:
    return planes(PLANTED, 2, provenance=ABOUT, **options)


def test_centred_components_are_how_candidates_drift():
    found = _planted(centred=True)
    _same_plane(found[PUBLISHED], E1, E2)
    assert torch.allclose(found[PUBLISHED][0], E1, atol=1e-6), "0° is the best candidate"
    _same_plane(found["mean + PC1"], E1, E2)
    _same_plane(found["best + last PC"], E1, E3)
    _same_plane(found["last two PCs"], E2, E3)
    # sums of squares about the mean: 10 along E2, 0.04 along E3
    assert torch.allclose(found.explained, torch.tensor([10.0, 0.04]) / 10.04, atol=1e-5)
    assert found.convention == "PCA of raw, centred candidates"
    assert found.axes_angle[0].item() == pytest.approx(90, abs=1e-3)


def test_uncentred_the_first_component_is_the_best_itself_and_the_plane_is_refused_by_its_angle():
    found = _planted(centred=False)
    assert "0° from parallel" in found.refused[PUBLISHED]
    assert "at least 5° is asked for" in found.refused[PUBLISHED]
    with pytest.raises(UndefinedError, match=r"there is no plane 'best \+ PC1'.*from parallel"):
        found[PUBLISHED]
    assert found.explained[0].item() == pytest.approx(125 / 135.04, abs=1e-4)
    assert set(found.to_summary()["plane"]) >= {PUBLISHED}
    assert found.convention == "PCA of raw, uncentred candidates"


def test_a_plane_just_wide_enough_is_taken():
    for angle, kept in ((4.0, False), (6.0, True)):
        turn = torch.deg2rad(torch.tensor(angle))
        second = torch.cos(turn) * E1 + torch.sin(turn) * E2
        # centred, PC1 is `second`; the best candidate lies along E1
        candidates = torch.stack([4 * E1, 4 * E1 + 3 * second, 4 * E1 - 3 * second])
        found = planes(candidates, 0, provenance=ABOUT)
        assert (PUBLISHED in found.names) == kept
        if kept:
            assert found.axes_angle[0].item() == pytest.approx(angle, abs=1e-3)
            _same_plane(found[PUBLISHED], E1, E2)


def test_norms_count_unless_they_are_taken_off():
    # two early candidates differ along E3, two late and long ones along E2
    candidates = torch.stack([E1 + 0.5 * E3, E1 - 0.5 * E3, 30 * (E1 + 0.2 * E2), 30 * (E1 - 0.2 * E2), 15 * E1])
    raw = planes(candidates, 4, provenance=ABOUT)
    # raw and centred, they differ most in how long they are: that is the best candidate's own line
    assert "from parallel" in raw.refused[PUBLISHED]
    unit = planes(candidates, 4, provenance=ABOUT, unit_norm=True)
    _same_plane(unit[PUBLISHED], E1, E3)
    assert unit.convention == "PCA of unit-norm, centred candidates"


def test_single_prompts_have_components_of_their_own():
    singles = torch.tensor([[1.0, -2], [-1, 2], [2, 4], [-2, -4], [2, 1], [-2, -1]]) @ torch.stack([E2, E3]) + 3 * E1
    found = _planted(differences=singles)
    _same_plane(found["sample PC1 + PC2"], E2, E3)
    assert found.sample_explained.sum().item() == pytest.approx(1)
    assert len(found.sample_explained) == 2
    assert "sample PC1 + PC2" not in _planted().names


def test_where_candidates_lie():
    frame = _planted().to_frame()
    mine = frame[frame["plane"] == PUBLISHED].sort_values("layer")
    x, y = torch.tensor(mine["x"].to_numpy()), torch.tensor(mine["y"].to_numpy())
    assert torch.allclose(x, torch.full((5,), 5.0, dtype=x.dtype), atol=1e-5)
    assert torch.allclose(y.abs(), DRIFT.abs().double(), atol=2e-2)
    expected = torch.rad2deg(torch.atan2(y, x)) % 360
    assert torch.allclose(torch.tensor(mine["angle"].to_numpy()), expected, atol=1e-4)
    table = _planted().to_summary().set_index("plane")
    assert table.loc[PUBLISHED, "spread"] == pytest.approx(
        2 * float(torch.rad2deg(torch.atan(torch.tensor(0.4)))), abs=0.1
    )
    assert table.loc[PUBLISHED, "share"] > 0.999


def test_random_planes_are_a_null_that_repeats():
    found = planes(PLANTED, 2, provenance=ABOUT, draws=200)
    null = torch.stack(list(found.null().values()))
    assert len(null) == 200
    assert torch.allclose(null @ null.mT, torch.eye(2).expand(200, 2, 2), atol=1e-5)
    # of a fixed vector a random plane of 16 dimensions holds 2/16 of the square on average
    assert (null @ E1).square().sum(-1).mean().item() == pytest.approx(2 / 16, abs=0.02)
    assert all(torch.allclose(found[f"best + random #{n}"][0], E1, atol=1e-6) for n in range(5))
    again = planes(PLANTED, 2, provenance=ABOUT, draws=200)
    assert torch.equal(found.basis, again.basis)
    assert not torch.equal(planes(PLANTED, 2, provenance=ABOUT, draws=200, seed=1).null()["random #0"], null[0])


@pytest.mark.parametrize("hole", [torch.nan, 0.0])
def test_undefined_layers_are_left_out_and_named(hole: float):
    candidates = torch.cat([torch.full((1, 16), hole), PLANTED])
    found = planes(candidates, 3, provenance=ABOUT)
    assert found.left_out == (0,)
    assert torch.allclose(found.basis, _planted().basis, atol=1e-6)
    assert found.candidates[0].isnan().all()
    with pytest.raises(UndefinedError, match="layer 0 has no candidate"):
        planes(candidates, 0, provenance=ABOUT)


def test_too_little_for_a_plane():
    with pytest.raises(UndefinedError, match="layer 9 has no candidate"):
        planes(PLANTED, 9, provenance=ABOUT)
    with pytest.raises(UndefinedError, match="one candidate alone"):
        planes(torch.stack([E1, 0 * E1]), 0, provenance=ABOUT)
    with pytest.raises(UndefinedError, match="no principal components"):
        planes(torch.stack([E1, E1, E1]), 0, provenance=ABOUT)
    line = planes(torch.stack([4 * E1 + t * E2 for t in (-1, 0, 1)]), 1, provenance=ABOUT)
    with pytest.raises(UndefinedError, match="one principal component"):
        line["last two PCs"]


def _prompts() -> InstructionTokens:
    rows = [(f"w{i} w{i + 5} w{i % 7 + 20} w3", "harmful") for i in range(10, 16)]
    rows += [(f"w{i} w{i + 3} w9 w3", "harmless") for i in range(40, 45)]
    return InstructionSet(tuple(Instruction(text, label) for text, label in rows)).tokenize(MODEL)


def test_planes_of_a_concept_are_made_of_mean_differences(says: Callable[..., None]):
    prompts = _prompts()
    found = concept_planes(MODEL, prompts, 2, draws=2)
    resid = last_residuals(MODEL, prompts)
    difference = resid[:6].mean(0) - resid[6:].mean(0)
    assert found.left_out == (0,), "all prompts end in one token"
    assert torch.allclose(found.candidates[1:], difference[1:], atol=1e-5)
    assert torch.allclose(found[PUBLISHED][0], difference[2] / difference[2].norm(), atol=1e-5)
    assert found.provenance.pairs.startswith("6 harmful and 5 harmless prompts")
    assert "sample PC1 + PC2" in found.names
    Aim(Site("resid_pre", 1), found[PUBLISHED], 30.0)
    says(found.figure(), MODEL.name)
    with pytest.raises(UndefinedError, match="no prompt is labelled 'incapable'"):
        concept_planes(MODEL, prompts, 2, of="incapable")
    with pytest.raises(SiteError, match="best_layer"):
        concept_planes(MODEL, prompts, 7)
