"""Ablate, Add, Clamp, Rotate, values of one's own and mixtures of them equal their formulas in whole forward passes."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import small_models
import torch
from oracle import Edit, PairOracle

from circuits.engine import sweep
from circuits.interventions import Ablate, Add, Clamp, Patch, Rotate, ablate_everywhere
from circuits.metrics import RefusalMetric
from circuits.sites import Site, head

GENERATOR = torch.Generator().manual_seed(3)
V, W = torch.randn(2, 32, generator=GENERATOR) * 3
PLANE = torch.linalg.qr(torch.stack([V, W]).T).Q.T.contiguous()


def _at(pair: PairOracle, kind: str, layer: int, where: Any, f: Any) -> Edit:
    return Edit(kind, layer, oracle.formula(pair.positions(where), f))


def _of_head(pair: PairOracle, layer: int, index: int, where: Any, f: Any) -> Edit:
    return Edit("z", layer, oracle.formula(pair.positions(where), f, index))


def _everywhere(pair: PairOracle, alpha: float = 1.0) -> list[Edit]:
    remove = oracle.ablated(V, alpha)
    return [
        _at(pair, "resid_pre", 0, "all", remove),
        *[_at(pair, kind, layer, "all", remove) for layer in range(4) for kind in ("attn_out", "mlp_out")],
    ]


def _cases(d_head: int) -> dict[str, tuple[tuple[Any, ...], Any]]:
    """Cells of every kind of edit, and the formulas that they stand for; `z` is along a head."""
    z = torch.randn(d_head, generator=torch.Generator().manual_seed(4))
    return {
        "ablate": ((Ablate(Site("resid_pre", 1), V),), lambda p: [_at(p, "resid_pre", 1, "all", oracle.ablated(V))]),
        "ablate some of it": (
            (Ablate(Site("mlp_out", 2), V, "subject", alpha=0.4),),
            lambda p: [_at(p, "mlp_out", 2, "subject", oracle.ablated(V, 0.4))],
        ),
        "ablate everywhere": (ablate_everywhere(V, range(4)), _everywhere),
        "ablate everywhere, more than all": (ablate_everywhere(V, range(4), alpha=1.5), lambda p: _everywhere(p, 1.5)),
        "ablate in a head": (
            (Ablate(head(1, 2), z, "post_subject"),),
            lambda p: [_of_head(p, 1, 2, "post_subject", oracle.ablated(z))],
        ),
        "add": (
            (Add(Site("resid_pre", 2), V, scale=-2.0),),
            lambda p: [_at(p, "resid_pre", 2, "all", lambda a: a - 2 * V)],
        ),
        "add after the last block": (
            (Add(Site("resid_post", 3), W, "last"),),
            lambda p: [_at(p, "resid_post", 3, "last", lambda a: a + W)],
        ),
        "clamp": (
            (Clamp(Site("attn_out", 0), V, 6.0, -2),),
            lambda p: [_at(p, "attn_out", 0, -2, oracle.clamped(V, 6.0))],
        ),
        "rotate": (
            (Rotate(Site("resid_post", 1), PLANE, 70.0),),
            lambda p: [_at(p, "resid_post", 1, "all", oracle.rotated(*PLANE, 70.0))],
        ),
        "rotate back": (
            (Rotate(Site("resid_pre", 1), PLANE, -200.0, "last"),),
            lambda p: [_at(p, "resid_pre", 1, "last", oracle.rotated(*PLANE, -200.0))],
        ),
        "a value of one's own": (
            (Patch(Site("mlp_out", 1), "last", V),),
            lambda p: [_at(p, "mlp_out", 1, "last", lambda _: V)],
        ),
        "a head's value": ((Patch(head(2, 3), "all", z),), lambda p: [_of_head(p, 2, 3, "all", lambda _: z)]),
        "two edits of one site, in order": (
            (Add(Site("resid_pre", 2), W), Ablate(Site("resid_pre", 2), V), Add(Site("resid_pre", 2), V, "last")),
            lambda p: [
                _at(p, "resid_pre", 2, "all", lambda a: a + W),
                _at(p, "resid_pre", 2, "all", oracle.ablated(V)),
                _at(p, "resid_pre", 2, "last", lambda a: a + V),
            ],
        ),
        "a patch under ablation": (
            (*ablate_everywhere(V, range(4)), Patch(head(2, 1), "last"), Patch(Site("resid_pre", 1), "subject")),
            lambda p: [*_everywhere(p), p.from_source("z", 2, "last", 1), p.from_source("resid_pre", 1, "subject")],
        ),
        # before the first difference the source equals the base run, but not the base run as edited here
        "a patch before the first difference, under ablation": (
            (Ablate(Site("resid_pre", 0), V), Patch(Site("mlp_out", 2), "all"), Patch(head(3, 0), "all")),
            lambda p: [
                _at(p, "resid_pre", 0, "all", oracle.ablated(V)),
                p.from_source("mlp_out", 2, "all"),
                p.from_source("z", 3, "all", 0),
            ],
        ),
        "a patch above a value of one's own": (
            (Patch(Site("attn_out", 0), "all", V), Patch(Site("attn_out", 2), "all")),
            lambda p: [_at(p, "attn_out", 0, "all", lambda _: V), p.from_source("attn_out", 2, "all")],
        ),
    }


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_edits_equal_their_formulas(architecture: str, direction: Any):
    model, tokens = small_models.model(architecture), small_models.uneven()
    token = model.tokenizer.get_vocab()["w60"]
    cases = _cases(model.shape.d_head)
    cells = [cell for cell, _ in cases.values()]
    swept = sweep(model, tokens, RefusalMetric(model, "w60"), cells, direction=direction, audited=False)
    pairs = [PairOracle(small_models.raw(architecture), tokens, i, direction) for i in range(tokens.n_pairs)]
    for (name, (_, edits)), values in zip(cases.items(), swept.value, strict=True):
        expected = torch.tensor([oracle.against_mean(pair.logits(edits(pair)), token) for pair in pairs])
        assert (values - expected).abs().max() <= 1e-5, name
        assert (values - swept.base).abs().max() > 1e-4, f"{name}: did nothing"


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_ablated_everywhere_no_residual_holds_the_direction(architecture: str):
    hf, tokens = small_models.raw(architecture), small_models.uneven()
    pair = PairOracle(hf, tokens, 0, "noise")
    streams = [kind for kind in ("resid_mid", "resid_post") if kind in oracle.kinds(hf)]
    keep = [("resid_pre", 0), *[(kind, layer) for layer in range(4) for kind in streams]]
    _, before = oracle.run(hf, pair.base, (), keep)
    _, after = oracle.run(hf, pair.base, _everywhere(pair), keep)
    unit = V / V.norm()
    for key in keep:
        assert (before[key] @ unit).abs().max() > 1e-2
        assert (after[key] @ unit).abs().max() <= 1e-5 * after[key].norm(dim=-1).max()


def test_an_audited_sweep_takes_mixed_cells():
    model = small_models.model("gemma2")
    cells = [cell for cell, _ in _cases(8).values()]
    swept = sweep(model, small_models.uneven(), RefusalMetric(model, "w60"), cells * 30)
    assert swept.certificate.oracle <= 1e-4
