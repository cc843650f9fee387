"""Components, cosines, planes, principal components and random directions."""

from __future__ import annotations

import math

import pytest
import torch

from circuits.errors import UndefinedError
from circuits.linalg import component, cosine, line_angle, plane, principal, random_directions


def test_a_component_is_a_signed_length():
    x = torch.tensor([[3.0, 4.0], [-3.0, 4.0]])
    assert torch.equal(component(x, torch.tensor([10.0, 0.0])), torch.tensor([3.0, -3.0]))
    with pytest.raises(UndefinedError, match="norm zero"):
        component(x, torch.zeros(2))


def test_a_cosine_has_no_scale_and_may_not_exist():
    a, b = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 7.0])
    assert cosine(a, b).item() == pytest.approx(math.sqrt(0.5))
    assert cosine(1e3 * a, -b).item() == pytest.approx(-math.sqrt(0.5))
    assert cosine(a, torch.zeros(2)).isnan()


def test_random_directions_are_uniform_units_that_repeat():
    draws = random_directions(4000, 16, seed=3)
    assert torch.allclose(draws.norm(dim=-1), torch.ones(4000), atol=1e-6)
    assert torch.equal(draws, random_directions(4000, 16, seed=3))
    assert not torch.equal(draws, random_directions(4000, 16, seed=4))
    # on the sphere every coordinate has mean 0 and variance 1/d, and coordinates are uncorrelated
    assert draws.mean(0).abs().max() < 5 / math.sqrt(4000 * 16)
    assert (draws.T @ draws / 4000 - torch.eye(16) / 16).abs().max() < 5 / (16 * math.sqrt(4000)) * 1.5


@pytest.mark.parametrize("degrees", [1.5, 30.0, 90.0, 150.0, 178.5])
def test_a_plane_is_orthonormal_and_holds_both_vectors(degrees: float):
    turn = math.radians(degrees)
    a = torch.tensor([0.0, 3.0, 0.0, 0.0])
    b = 1e-3 * torch.tensor([0.0, math.cos(turn), math.sin(turn), 0.0])
    rows = plane(a, b)
    assert torch.allclose(rows @ rows.T, torch.eye(2), atol=1e-6)
    assert torch.allclose(rows, torch.eye(4)[1:3], atol=1e-4), "the first vector is 0°, the second lies in 0° to 180°"
    assert line_angle(a, b) == pytest.approx(min(degrees, 180 - degrees), abs=1e-4)


def test_vectors_that_span_no_plane():
    a = torch.tensor([0.0, 3.0, 0.0])
    with pytest.raises(UndefinedError, match=r"0° from parallel \(at least 1° is asked for\)"):
        plane(a, -2 * a)
    with pytest.raises(UndefinedError, match="20.0° from parallel"):
        plane(a, torch.tensor([math.sin(math.radians(20)), math.cos(math.radians(20)), 0.0]), least_angle=21)
    with pytest.raises(UndefinedError, match="no unit vector"):
        plane(a, 0 * a)


def test_principal_components_of_planted_variances():
    axes = torch.linalg.qr(torch.randn(6, 3, generator=torch.Generator().manual_seed(2))).Q.T
    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # orthogonal columns of mean zero
    x = signs * torch.tensor([3.0, 2.0, 1.0]) @ axes + 10 * axes[2]
    centred = principal(x, unit_norm=False, centred=True)
    assert torch.allclose(centred.explained.float(), torch.tensor([9.0, 4.0, 1.0]) / 14)
    assert torch.allclose((centred.components.float() @ axes.T).abs(), torch.eye(3), atol=1e-5)
    whole = principal(x, unit_norm=False, centred=False)
    assert torch.allclose(whole.components[0].float(), axes[2], atol=1e-5), (
        "uncentred, the first is the mean, and points to it"
    )
    assert torch.allclose(whole.explained.float(), torch.tensor([101.0, 9.0, 4.0]) / 114)
    scaled = torch.tensor([1.0, 5.0, 100.0, 0.01])[:, None] * x
    unit = [principal(given, unit_norm=True, centred=True) for given in (x, scaled)]
    assert torch.allclose(unit[0].components.abs(), unit[1].components.abs(), atol=1e-5), "norms are gone"


def test_only_components_that_vary_are_given():
    flat = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [4.0, 0, 0]])
    assert len(principal(flat, unit_norm=False, centred=True).components) == 1
    with pytest.raises(UndefinedError, match="all the same"):
        principal(flat, unit_norm=True, centred=True)
