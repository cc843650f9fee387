"""Interventions are values: they say at once what they cannot mean, and normalise what is a direction."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from circuits.errors import SiteError, UndefinedError
from circuits.interventions import EDITABLE, Ablate, Add, Clamp, Patch, Rotate, ablate_everywhere, unit
from circuits.sites import HOOK_NAMES, Site

V = torch.tensor([3.0, 0.0, 4.0])
PLANE = torch.eye(3)[:2]
READ_ONLY = sorted(set(HOOK_NAMES) - set(EDITABLE))


@pytest.mark.parametrize("kind", READ_ONLY)
def test_what_is_only_read_is_not_edited(kind: Any):
    site = Site(kind, 0)
    for make in (
        lambda: Patch(site), lambda: Ablate(site, V), lambda: Add(site, V), lambda: Clamp(site, V, 1.0),
        lambda: Rotate(site, PLANE, 90.0),
    ):  # fmt: skip
        with pytest.raises(SiteError, match="can be read but not edited"):
            make()


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
