"""The certificate of a sweep holds, and an engine that is broken on purpose does not get one."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
import small_models
import torch

from circuits.engine import capture, generate, readout, replay, several, single, sweep
from circuits.errors import AuditError, UndefinedError
from circuits.interventions import Cell, Columns, Patch
from circuits.metrics import LogOdds, RefusalMetric
from circuits.model import hooks
from circuits.sites import Site

TOKENS = small_models.uneven()
CELLS: list[Cell] = [(Patch(Site("attn_out", layer), Columns((p,))),) for layer in range(4) for p in range(5, 10)]
HOOKED = hooks.hooked
GROUPS: list[Cell] = [tuple(Patch(Site("mlp_out", layer), "all") for layer in (a, a + 1)) for a in range(3)]


def _run(cells: list[Cell], *, linear: bool = True, architecture: str = "llama") -> Any:
    model = small_models.model(architecture)
    metric = RefusalMetric(model, "w60") if linear else LogOdds(model, "w60")
    return sweep(model, TOKENS, metric, cells, direction="noise")


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("cells", [CELLS, GROUPS], ids=["single", "groups"])
def test_a_sound_engine_is_certified(cells: list[Cell], linear: bool, architecture: str):
    certificate = _run(cells, linear=linear, architecture=architecture).certificate
    measured = (certificate.readout, certificate.self_patch, certificate.patch_all, certificate.oracle)
    assert all(math.isfinite(m) and 0 <= m <= 1e-5 for m in measured)
    assert certificate.sampled >= 1
    assert certificate.cells == len(cells)
    assert 0 < certificate.token_layers < certificate.looped_token_layers
    assert "certificate ok" in certificate.line


def test_no_claim_without_an_audit():
    model = small_models.model("llama")
    certificate = sweep(model, TOKENS, RefusalMetric(model, "w60"), CELLS, audited=False).certificate
    assert math.isnan(certificate.oracle)
    assert "not audited" in certificate.line


def _corrupt_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any, **kwargs: Any) -> Any:
        run = capture(*args, **kwargs)
        object.__setattr__(run, "kv", tuple((keys + 0.5 * torch.randn_like(keys), v) for keys, v in run.kv))
        return run

    monkeypatch.setattr(import_module("circuits.engine.sweep"), "capture", wrong)


def _wrong_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    right = replay.Replay._kwargs

    def wrong(self: Any, *args: Any) -> dict[str, Any]:
        call = right(self, *args)
        cos, sin = call["position_embeddings"]
        return call | {"position_embeddings": (cos.roll(1, -2), sin.roll(1, -2))}

    monkeypatch.setattr(replay.Replay, "_kwargs", wrong)


def _no_final_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout.Readout, "normalise", lambda _, final: final)


def _leaking_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = replay.Windows.mask

    def wrong(self: Any, base: Any, queries: Any, prefix: int) -> Any:
        mask = right(self, base, queries, prefix)
        mask[..., prefix:] = 0.0
        return mask

    monkeypatch.setattr(replay.Windows, "mask", wrong)


def _forgotten_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(_: Any, activation: torch.Tensor, __: Any) -> torch.Tensor:
        return activation

    monkeypatch.setattr(single, "apply", leave)
    monkeypatch.setattr(several, "apply", leave)


SABOTAGE = {
    "corrupt keys": _corrupt_keys,
    "wrong positions": _wrong_positions,
    "no final norm": _no_final_norm,
    "leaking windows": _leaking_windows,
    "forgotten edit": _forgotten_edit,
}


@pytest.mark.parametrize("cells", [CELLS, GROUPS], ids=["single", "groups"])
@pytest.mark.parametrize("what", list(SABOTAGE))
def test_a_broken_engine_is_not(what: str, cells: list[Cell], monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    SABOTAGE[what](monkeypatch)
    with pytest.raises(AuditError, match=r"failed its [\w-]+ check by .*do not use these numbers"):
        _run(cells)


@contextmanager
def _deaf(parts: Any, edits: Any):
    del edits
    with HOOKED(parts, {}):
        yield Counter()


@pytest.mark.parametrize("cells", [CELLS, GROUPS], ids=["single", "groups"])
def test_a_hook_that_never_fires_is_an_error(cells: list[Cell], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replay, "hooked", _deaf)
    with pytest.raises(AuditError, match="did not fire"):
        _run(cells)


@pytest.mark.parametrize("module", ["generate", "oracle"])
def test_nor_may_one_be_silent_in_completions_or_in_the_oracle(module: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(import_module(f"circuits.engine.{module}"), "hooked", _deaf)
    with pytest.raises(AuditError, match="did not fire"):
        _run(CELLS) if module == "oracle" else generate(small_models.model("llama"), TOKENS, CELLS[0], max_new_tokens=1)


def test_numbers_that_are_none_fail(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readout.Readout, "normalise", lambda _, final: final * float("nan"))
    with pytest.raises(UndefinedError, match="cell 0 .* gives not-a-number on pair 0"):
        _run(CELLS)
