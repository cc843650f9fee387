"""In reduced precision a sweep is judged by what rounding costs the slow way, not by a share of the metric's size."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import pytest
import small_models
import tiny
import torch

from circuits import toy_refusal_pairs
from circuits.engine import edits, several, single, source, sweep
from circuits.engine.certificate import Certificate
from circuits.engine.precision import FACTOR, rounding
from circuits.engine.sample import sampled
from circuits.errors import AuditError
from circuits.interventions import Add, Cell, Columns, Patch
from circuits.metrics import LogOdds, Metric, RefusalMetric
from circuits.model import Model, load
from circuits.prompts import TokenPairs
from circuits.sites import Site, head

DTYPES: list[Any] = ["bfloat16", "float16"]
audit = import_module("circuits.engine.audit")


@cache
def _model(name: str, dtype: Any) -> tuple[Model, TokenPairs, str]:
    """A model, pairs for it, and the token of its metric."""
    if name == "bundled":
        model = load(dtype=dtype, device="cpu")
        return model, toy_refusal_pairs().tokenize(model).select(range(12)), "I"
    model = load(str(small_models.folder(name)), device="cpu", dtype=dtype, tokenizer=tiny.tokenizer())
    return model, small_models.uneven(), "w60"


def _mixed(model: Model, tokens: TokenPairs) -> list[Cell]:
    """Both paths of a sweep, several kinds of site, and an edit that takes nothing from the source run."""
    layers = range(model.shape.n_layers)
    up = torch.ones(model.shape.d_model)
    return [
        *((Patch(Site("resid_pre", layer), Columns((c,))),) for layer in layers for c in range(tokens.n_pos)),
        *((Patch(head(layer, 1)),) for layer in layers),
        *((Patch(Site("attn_out", layer), "last"), Patch(Site("mlp_out", layer), "last")) for layer in layers),
        (Add(Site("resid_pre", 1), up, "last"),),
    ]


def _heads(model: Model, positions: Any) -> list[Cell]:
    """Every head by itself."""
    return [
        (Patch(head(layer, h), positions),) for layer in range(model.shape.n_layers) for h in range(model.shape.n_heads)
    ]


def _all_writes(model: Model) -> list[Cell]:
    """What attention writes in all blocks at once, and in all but the first."""
    return [tuple(Patch(Site("attn_out", layer)) for layer in range(i, model.shape.n_layers)) for i in (0, 1)]


# --- a right sweep passes, and the certificate says what was measured --------------------------------------------------


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["bundled", "gemma2", "llama", "gpt_neox"])
def test_a_right_sweep_passes(name: str, dtype: Any, linear: bool, direction: Any):
    model, tokens, token = _model(name, dtype)
    metric: Metric = RefusalMetric(model, token) if linear else LogOdds(model, token)
    swept = sweep(model, tokens, metric, _mixed(model, tokens), direction=direction)
    found = swept.certificate
    assert found.gap == pytest.approx((swept.source - swept.base).abs().mean().item(), rel=1e-5)
    assert 0 < found.from_fp32 <= found.allowed
    rounded = torch.finfo(model.dtype).eps / 2 * torch.cat([swept.base, swept.source]).abs().max().item()
    assert found.allowed == pytest.approx(max(FACTOR * found.slow_from_fp32, rounded), rel=1e-5)
    said = re.search(rf"{dtype}: rounding moves audited cells by up to (\S+) % of the gap \(the slow", found.line)
    assert said is not None
    assert float(said[1]) == pytest.approx(100 * found.from_fp32 / found.gap, rel=0.06)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gemma2", "llama"])
def test_the_distances_are_those_of_the_same_weights_in_fp32(name: str, dtype: Any):
    model, tokens, token = _model(name, dtype)
    wide, _, _ = _model.__wrapped__(name, dtype)
    wide.hf.float()
    cells = _mixed(model, tokens)
    swept = sweep(model, tokens, LogOdds(model, token), cells)
    exact = sweep(wide, tokens, LogOdds(wide, token), cells)
    of, on = sampled(tokens, cells)
    assert swept.certificate.sampled == len(of)
    cells_off = (swept.value[of, on] - exact.value[of, on]).abs().max().item()
    assert swept.certificate.from_fp32 == pytest.approx(cells_off, rel=1e-2)

    def forward(m: Model, ids: Any) -> Any:
        return LogOdds(m, token).bind(tokens)(m.logits(ids, tokens.mask, keep=1)[None, :, -1])[0]

    base = (forward(model, tokens.corrupt) - forward(wide, tokens.corrupt)).abs()
    run_from = (forward(model, tokens.clean) - forward(wide, tokens.clean)).abs()[on]
    prompts = max(base.max().item(), run_from.max().item())  # all five base prompts are among the eight taken
    slow = swept.certificate.slow_from_fp32
    assert prompts * 0.99 <= slow <= 1.01 * max(prompts, cells_off + swept.certificate.oracle)


# --- a wrong one does not, where a share of the metric's size would have let it -----------------------------------------


Sabotage = Callable[[pytest.MonkeyPatch], None]


def _shifted(activation: Any, share: float) -> Any:
    """Off by a share of its largest entry, everywhere."""
    return activation + share * activation.abs().amax(-1, keepdim=True)


def _edit_off_by(share: float) -> Sabotage:
    def wrong(bound: Any, activation: Any, at: Any) -> Any:
        new = edits.apply(bound, activation, at)
        return torch.where(new == activation, new, _shifted(new, share))

    return partial(_both_paths, wrong)


def _taken_from_another_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(bound: Any, activation: Any, at: Any) -> Any:
        return edits.apply(replace(bound, value=bound.value.roll(1, 0)), activation, at)

    _both_paths(wrong, monkeypatch)


def _both_paths(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (single, several):
        monkeypatch.setattr(path, "apply", wrong)


def _source_off_by(share: float) -> Sabotage:
    def wrong(*args: Any) -> Any:
        run = source.source_of(*args)
        return replace(run, seen={site: _shifted(t, share) for site, t in run.seen.items()})

    return lambda monkeypatch: monkeypatch.setattr(import_module("circuits.engine.worker"), "source_of", wrong)


_heads_at_last: Any = partial(_heads, positions="last")
WRONG: list[Any] = [
    pytest.param("bundled", "bfloat16", _heads_at_last, "denoise", _taken_from_another_pair, id="another pair"),
    pytest.param("bundled", "bfloat16", _all_writes, "noise", _edit_off_by(0.02), id="2 % off"),
    pytest.param("bundled", "bfloat16", _all_writes, "noise", _source_off_by(0.04), id="source 4 % off"),
    pytest.param("bundled", "float16", _all_writes, "noise", _edit_off_by(0.02), id="2 % off in fp16"),
    pytest.param("gemma2", "float16", _all_writes, "denoise", _edit_off_by(0.02), id="2 % off in a tiny Gemma 2"),
]


@pytest.mark.parametrize(("name", "dtype", "cells", "direction", "sabotage"), WRONG)
def test_a_wrong_sweep_fails_where_5_percent_of_the_metric_let_it(
    name: str, dtype: Any, cells: Any, direction: Any, sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch
):
    model, tokens, token = _model(name, dtype)
    before = [p.clone() for p in model.hf.parameters()]
    run = partial(sweep, model, tokens, RefusalMetric(model, token), cells(model), direction=direction)
    run()
    sabotage(monkeypatch)
    with pytest.raises(AuditError, match="failed its from-fp32 check by .*do not use these numbers"):
        run()
    assert all(torch.equal(p, b) for p, b in zip(model.hf.parameters(), before, strict=True))
    monkeypatch.setattr(audit, "fits_in_fp32", lambda _: False)
    assert "certificate ok" in run().certificate.line


# --- without room for fp32 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_room_for_fp32_the_line_says_what_is_not_certified(dtype: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit, "fits_in_fp32", lambda _: False)
    model, tokens, token = _model("bundled", dtype)
    swept = sweep(model, tokens, RefusalMetric(model, token), _heads(model, "last"))
    found = swept.certificate
    assert math.isnan(found.from_fp32)
    assert math.isnan(found.slow_from_fp32)
    share = 5 * max(1.0, swept.base.abs().max().item()) / (swept.source - swept.base).abs().mean().item()
    said = re.search(r"effects below (\S+) % of the gap are not certified", found.line)
    assert said is not None
    assert float(said[1]) == pytest.approx(share, rel=0.06)
    assert f"all in {dtype}" in found.line


# --- the judgement and the line by themselves ------------------------------------------------------------------------------


def test_the_limit_is_set_by_the_slow_way_and_by_one_rounding():
    bf16 = torch.bfloat16
    far = rounding(bf16, torch.tensor([0.1, -0.4]), torch.tensor([0.0, -0.2, 0.1]), 8.0)
    assert (far.cells, far.slow, far.allowed) == pytest.approx((0.4, 0.2, 0.6))
    exact = rounding(bf16, torch.tensor([0.01]), torch.tensor([0.0]), 8.0)
    last_place = (torch.tensor(8.0).bfloat16() - torch.tensor(7.99999).bfloat16().float()).abs().item()
    assert last_place == 0  # what is half a unit from 8 or less becomes 8
    assert exact.allowed == 8.0 * 2**-8
    assert rounding(torch.float16, torch.tensor([0.0]), torch.tensor([0.0]), 8.0).allowed == 8.0 * 2**-11


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_never_allowed(bad: float):
    assert rounding(torch.float16, torch.tensor([0.1]), torch.tensor([bad, 0.1]), 8.0).allowed == 0.0
    assert rounding(torch.float16, torch.tensor([0.1, bad]), torch.tensor([0.1]), 8.0).cells == math.inf


FP32 = Certificate(
    cells=40, token_layers=100, fired=12, readout=3e-7, self_patch=0.0, patch_all=1e-7, additivity=2e-7, oracle=4e-7,
    allowed=1e-3, gap=2.0, sampled=2, looped_token_layers=900,
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_line_of_full_precision_speaks_of_no_rounding(dtype: str):
    assert replace(FP32, dtype=dtype).line == (
        "certificate ok: 40 cells; all hooks fired (12); largest deviation of: self-patch 0e+00, patch-all 1e-07, "
        "residual additivity 2e-07, readout 3e-07, slow oracle on 2 cells 4e-07; 9.0× fewer token-layers than a loop"
    )


def test_two_runs_that_do_not_differ_have_no_gap_to_share():
    rounded = replace(FP32, dtype="bfloat16", from_fp32=0.016, slow_from_fp32=0.4, allowed=1.2)
    assert "bfloat16: rounding moves audited cells by up to 0.8 % of the gap (the slow way by 20 %, allowed 60 %);" in (
        rounded.line
    )
    assert "by up to 2e-02 in the metric (the slow way by 4e-01, allowed 1e+00);" in replace(rounded, gap=0.0).line
