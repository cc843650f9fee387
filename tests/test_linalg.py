"""Components, cosines and random directions."""

from __future__ import annotations

import math

import pytest
import torch

from circuits.errors import UndefinedError
from circuits.linalg import component, cosine, random_directions


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
