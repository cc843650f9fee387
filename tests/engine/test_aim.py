"""Aim sets the angle of the part in a plane and keeps its length; Rotate turns it on; both as their formulas say."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import small_models
import torch
from oracle import Edit, PairOracle

from circuits.engine import generate, read, sweep
from circuits.engine.transform import transform
from circuits.errors import SiteError, UndefinedError
from circuits.interventions import Ablate, Add, Aim, Patch, Rotate, ablate_everywhere
from circuits.linalg import plane
from circuits.metrics import RefusalMetric
from circuits.sites import Site, head, neuron

TOKENS = small_models.uneven()
V, W = torch.randn(2, 32, generator=torch.Generator().manual_seed(6))
PLANE = plane(V, W)
OLD = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(7))
RESID = Site("resid_pre", 2)


def _aimed(rows: torch.Tensor, degrees: float) -> Any:
    """Written another way than the engine's: the part in the plane is taken out, and put back at the angle."""

    def f(a: torch.Tensor) -> torch.Tensor:
        inside = a @ rows.T @ rows
        angle = torch.deg2rad(torch.tensor(degrees))
        return (
            a - inside + inside.norm(dim=-1, keepdim=True) * (torch.cos(angle) * rows[0] + torch.sin(angle) * rows[1])
        )

    return f


@pytest.mark.parametrize("degrees", [0.0, 37.0, 90.0, 180.0, -100.0, 400.0])
def test_the_angle_is_set_and_the_length_and_the_rest_are_kept(degrees: float):
    new = transform(Aim(RESID, PLANE, degrees), OLD, None)
    x, y = (new @ PLANE.T).unbind(-1)
    length = (OLD @ PLANE.T).norm(dim=-1)
    assert torch.allclose(torch.hypot(x, y), length, rtol=1e-5)
    gap = torch.atan2(y, x) - torch.deg2rad(torch.tensor(degrees))
    assert torch.sin(gap).abs().max() <= 1e-5
    assert torch.cos(gap).min() > 0.99
    project = torch.eye(32) - PLANE.T @ PLANE
    assert torch.allclose(new @ project, OLD @ project, atol=1e-6)
    assert torch.allclose(new.norm(dim=-1), OLD.norm(dim=-1), rtol=1e-6), "a rotation keeps the whole norm too"
    assert torch.allclose(transform(Aim(RESID, PLANE, degrees), new, None), new, atol=1e-6), "twice is once"


def test_turns_by_nothing_and_by_half():
    for full in (0.0, 360.0, -720.0):
        assert (transform(Rotate(RESID, PLANE, full), OLD, None) - OLD).abs().max() <= 1e-5
    inside = OLD @ PLANE.T @ PLANE
    assert torch.allclose(transform(Rotate(RESID, PLANE, 180.0), OLD, None), OLD - 2 * inside, atol=1e-5)
    # to turn to an angle is to turn by what is missing to it
    own = torch.rad2deg(torch.atan2(OLD[..., 0, :] @ PLANE[1], OLD[..., 0, :] @ PLANE[0]))
    first = OLD[:, :1]
    turned = transform(Rotate(RESID, PLANE, 50.0 - own), first, None)
    assert torch.allclose(turned, transform(Aim(RESID, PLANE, 50.0), first, None), atol=1e-5)


def test_ablation_and_addition_are_points_of_the_plane():
    x, y = (OLD @ PLANE.T).unbind(-1)
    ablated = transform(Ablate(RESID, PLANE[0]), OLD, None) @ PLANE.T
    assert torch.allclose(ablated, torch.stack([0 * x, y], -1), atol=1e-5)
    added = transform(Add(RESID, PLANE[0], scale=2.5), OLD, None) @ PLANE.T
    assert torch.allclose(added, torch.stack([x + 2.5, y], -1), atol=1e-5)


def test_what_has_no_part_in_the_plane_stays():
    outside = OLD - OLD @ PLANE.T @ PLANE
    assert torch.allclose(transform(Aim(RESID, PLANE, 70.0), outside, None), outside, atol=1e-6)
    zero = torch.zeros(1, 1, 32)
    assert torch.equal(transform(Aim(RESID, PLANE, 70.0), zero, None), zero)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_other_precisions(dtype: torch.dtype):
    found = transform(Aim(RESID, PLANE.to(dtype), 120.0), (300 * OLD).to(dtype), None)
    expected = 300 * _aimed(PLANE, 120.0)(OLD)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() <= (1e-3 if dtype == torch.float64 else 2e-2 * 300)


def _cases(d_head: int) -> dict[str, tuple[tuple[Any, ...], Any]]:
    z = torch.linalg.qr(torch.randn(d_head, 2, generator=torch.Generator().manual_seed(4))).Q.T.contiguous()

    def at(p: PairOracle, kind: str, layer: int, where: Any, f: Any, index: int | None = None) -> Edit:
        return Edit(kind, layer, oracle.formula(p.positions(where), f, index))

    every = tuple(Aim(Site("resid_pre", layer), PLANE, 45.0) for layer in range(4))
    removed = oracle.ablated(V)
    everywhere = [("resid_pre", 0), *[(kind, layer) for layer in range(4) for kind in ("attn_out", "mlp_out")]]
    return {
        "one layer": ((Aim(RESID, PLANE, 200.0),), lambda p: [at(p, "resid_pre", 2, "all", _aimed(PLANE, 200.0))]),
        "after the last block": (
            (Aim(Site("resid_post", 3), PLANE, -30.0, "last"),),
            lambda p: [at(p, "resid_post", 3, "last", _aimed(PLANE, -30.0))],
        ),
        "every layer": (every, lambda p: [at(p, "resid_pre", i, "all", _aimed(PLANE, 45.0)) for i in range(4)]),
        "a head": ((Aim(head(1, 2), z, 10.0, -2),), lambda p: [at(p, "z", 1, -2, _aimed(z, 10.0), 2)]),
        "with other edits": (
            (*ablate_everywhere(V, range(4)), Aim(Site("mlp_out", 3), PLANE, 10.0), Patch(head(2, 1), "last")),
            lambda p: [
                *[at(p, kind, layer, "all", removed) for kind, layer in everywhere],
                at(p, "mlp_out", 3, "all", _aimed(PLANE, 10.0)), p.from_source("z", 2, "last", 1),
            ],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "qwen3", "gpt_neox"])
def test_it_equals_its_formula_in_whole_forward_passes(architecture: str):
    model = small_models.model(architecture)
    token, cases = model.tokenizer.get_vocab()["w60"], _cases(model.shape.d_head)
    swept = sweep(model, TOKENS, RefusalMetric(model, "w60"), [cell for cell, _ in cases.values()])
    pairs = [PairOracle(small_models.raw(architecture), TOKENS, i, "denoise") for i in range(TOKENS.n_pairs)]
    for (name, (_, edits)), values in zip(cases.items(), swept.value, strict=True):
        expected = torch.tensor([oracle.against_mean(pair.logits(edits(pair)), token) for pair in pairs])
        assert (values - expected).abs().max() <= 1e-5 * max(1, expected.abs().max()), name
        assert (values - swept.base).abs().max() > 1e-4, f"{name}: did nothing"


def test_one_angle_and_one_plane_for_each_pair():
    model = small_models.model("llama")
    metric, n = RefusalMetric(model, "w60"), TOKENS.n_pairs
    degrees = torch.linspace(-90, 200, n)
    own = torch.stack([plane(V.roll(i), W) for i in range(n)])
    together = sweep(model, TOKENS, metric, [(Aim(RESID, own, degrees),)])
    for i in range(n):
        alone = sweep(model, TOKENS.select([i]), metric, [(Aim(RESID, own[i], float(degrees[i])),)])
        assert alone.value.item() == pytest.approx(together.value[0, i].item(), abs=5e-6)


def test_generated_tokens_are_aimed_too():
    model = small_models.model("llama")
    cell = tuple(Aim(Site("resid_pre", layer), plane(V, W), 77.0) for layer in range(4))
    seen = read(model, TOKENS, cell, [Site("resid_pre", 3)]).seen[Site("resid_pre", 3)][TOKENS.mask]
    x, y = (seen @ PLANE.T).unbind(-1)
    assert torch.allclose(torch.rad2deg(torch.atan2(y, x)), torch.tensor(77.0), atol=1e-2)
    assert generate(model, TOKENS, cell, max_new_tokens=4) != generate(model, TOKENS, (), max_new_tokens=4)


def test_what_it_cannot_mean():
    for make in (Aim, Rotate):
        with pytest.raises(UndefinedError, match="two orthonormal rows"):
            make(RESID, 2 * PLANE, 9.0)
        with pytest.raises(SiteError, match="has no directions"):
            make(Site("pattern", 1), PLANE, 9.0)
        with pytest.raises(SiteError, match="one neuron"):
            make(neuron(0, 3), PLANE, 9.0)
    model = small_models.model("llama")
    with pytest.raises(SiteError, match="degrees is not finite"):
        sweep(model, TOKENS, RefusalMetric(model, "w60"), [(Aim(RESID, PLANE, torch.tensor(torch.nan)),)])
