"""Interventions are values: they say at once what they cannot mean, and normalise what is a direction."""

from __future__ import annotations

import pytest
import torch

from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Ablate, Add, Clamp, Patch, Rotate, ablate_everywhere, unit
from circuits.sites import Site, neuron

V = torch.tensor([3.0, 0.0, 4.0])
PLANE = torch.eye(3)[:2]


@pytest.mark.parametrize(
    ("site", "reason"), [(Site("pattern", 0, 1), "has no directions"), (neuron(0, 3), "one neuron is one number")]
)
def test_directions_need_an_axis_to_lie_in(site: Site, reason: str):
    for make in (
        lambda: Ablate(site, V), lambda: Add(site, V), lambda: Clamp(site, V, 1.0), lambda: Rotate(site, PLANE, 90.0),
    ):  # fmt: skip
        with pytest.raises(SiteError, match=reason):
            make()
    assert Patch(site).site == site


def test_only_a_pattern_has_keys():
    assert Patch(Site("pattern", 0, 1), "last", keys="subject").keys == "subject"
    with pytest.raises(SiteError, match=r"L0\.H1: only a pattern has keys"):
        Patch(Site("z", 0, 1), keys="subject")


def test_one_direction_for_each_pair():
    both = torch.stack([V, 2 * V])
    assert torch.allclose(Ablate(Site("resid_pre", 1), both).direction, torch.stack([V, V]) / 5)
    with pytest.raises(UndefinedError, match=r"pair 1"):
        unit(torch.stack([V, 0 * V]))


def test_directions_are_normalised_and_vectors_are_not():
    site = Site("resid_pre", 1)
    assert torch.allclose(Ablate(site, V).direction, V / 5)
    assert torch.allclose(Clamp(site, V, 2.0).direction, V / 5)
    assert torch.equal(Add(site, V).vector, V)


@pytest.mark.parametrize("v", [torch.zeros(3), torch.full((3,), 1e-12), torch.tensor([1.0, float("nan"), 0.0])])
def test_no_direction_without_a_norm(v: torch.Tensor):
    with pytest.raises(UndefinedError, match="has no unit vector"):
        unit(v)
    with pytest.raises(UndefinedError):
        Ablate(Site("resid_pre", 1), v)


@pytest.mark.parametrize("plane", [2 * PLANE, torch.ones(2, 3) / 3**0.5, torch.eye(3)[[0, 0]]])
def test_a_plane_is_two_orthonormal_rows(plane: torch.Tensor):
    with pytest.raises(UndefinedError, match="two orthonormal rows"):
        Rotate(Site("resid_pre", 1), plane, 90.0)


def test_everywhere_is_the_first_residual_and_every_write():
    cell = ablate_everywhere(V, range(2), alpha=0.5)
    assert [i.site.label for i in cell] == ["L0.resid_pre", "L0.ATTN", "L0.MLP", "L1.ATTN", "L1.MLP"]
    assert all(isinstance(i, Ablate) and i.alpha == 0.5 and i.positions == "all" for i in cell)
