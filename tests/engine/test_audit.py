"""The certificate of a sweep holds, and an engine that is broken on purpose does not get one."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import small_models
import torch

from circuits.engine import capture, edits, generate, readout, replay, several, single, sweep
from circuits.engine.sample import sampled
from circuits.errors import AuditError, UndefinedError
from circuits.interventions import Add, Cell, Columns, Patch
from circuits.metrics import LogOdds, RefusalMetric
from circuits.model import hooks
from circuits.sites import Site, head

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

    monkeypatch.setattr(import_module("circuits.engine.worker"), "capture", wrong)


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


def _mixed_up_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(bound: Any, activation: torch.Tensor, at: Any) -> torch.Tensor:
        return edits.apply(replace(bound, value=bound.value.roll(1, 0)), activation, at)

    monkeypatch.setattr(single, "apply", swapped)
    monkeypatch.setattr(several, "apply", swapped)


SABOTAGE = {
    "corrupt keys": _corrupt_keys,
    "wrong positions": _wrong_positions,
    "no final norm": _no_final_norm,
    "leaking windows": _leaking_windows,
    "forgotten edit": _forgotten_edit,
    "mixed up pairs": _mixed_up_pairs,
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


# --- which cells are recomputed ------------------------------------------------------------------------------------------

V = torch.ones(32)
SORTS: dict[tuple[str, str], list[Cell]] = {
    ("attn_out", "single"): [(Patch(Site("attn_out", layer), "last"),) for layer in range(4)],
    ("attn_out", "several"): [(Patch(Site("attn_out", layer)),) for layer in range(4)],
    ("z", "single"): [(Patch(head(layer, 1), "subject"),) for layer in range(4)],
    ("embed", "several"): [(Patch(Site("embed"), "subject"),)],
    ("mlp_out", "single"): [(Patch(Site("mlp_out", 2), Columns((8,)), value=V),)],
    ("resid_pre", "several"): [(Add(Site("resid_pre", layer), V, "last"),) for layer in range(3)],
    ("k", "neither"): [(Patch(Site("k", 1, 0), Columns((0,))),)],
}


def _seen_on_its_path(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The path that the sweep itself takes with every cell."""
    path = ["neither"] * len(cells)
    engine = import_module("circuits.engine.values")

    def watch(name: str, which: str) -> None:
        right = getattr(engine, f"run_{name}")

        def run(replay: Any, jobs: Any, *rest: Any) -> None:
            for job in jobs:
                path[job.cell] = which
            right(replay, jobs, *rest)

        monkeypatch.setattr(engine, f"run_{name}", run)

    watch("singles", "single")
    watch("several", "several")
    task = import_module("circuits.engine.task")
    monkeypatch.setattr(task, "groups_of", lambda *_: [list(range(len(cells)))])  # in the order given
    model = small_models.model("llama")
    sweep(model, TOKENS, RefusalMetric(model, "w60"), cells, audited=False)
    return path


@pytest.mark.parametrize("repeats", [1, 60])
def test_every_sort_of_cell_is_recomputed(repeats: int, monkeypatch: pytest.MonkeyPatch):
    many = SORTS["attn_out", "single"] * repeats  # one sort may outnumber all others
    cells = [*many, *(cell for sort in SORTS.values() for cell in sort)]
    kinds = [cell[0].site.kind for cell in cells]
    path = _seen_on_its_path(cells, monkeypatch)
    assert set(zip(kinds, path, strict=True)) == SORTS.keys()
    drawn, on = sampled(TOKENS, cells)
    assert {(kinds[c], path[c]) for c in drawn} == SORTS.keys()
    assert len(set(drawn)) == len(drawn) == len(on) == len(SORTS)


def test_cells_of_several_kinds_stand_for_all_of_them():
    cells: list[Cell] = [(Patch(Site("attn_out", layer)), Patch(Site("mlp_out", layer))) for layer in range(4)]
    assert len(sampled(TOKENS, cells)[0]) == 2
    three = [*cells, (Patch(Site("z", 1)),)]
    assert 4 in sampled(TOKENS, three)[0]
    assert len(sampled(TOKENS, three)[0]) == 2


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (2, 2), (1199, 2), (1200, 3), (2000, 5), (3200, 8), (9999, 8)])
def test_one_sort_alone_takes_no_more_than_a_small_share(n: int, expected: int):
    cells: list[Cell] = [(Patch(Site("mlp_out", i % 4), "last"),) for i in range(n)]
    drawn, on = sampled(TOKENS, cells)
    assert len(set(drawn)) == len(on) == expected
    assert len(set(on)) == min(expected, TOKENS.n_pairs)


def test_cells_are_taken_where_they_may_change_something():
    columns = range(TOKENS.n_pos)
    cells: list[Cell] = [(Patch(Site("mlp_out", 1), Columns((p,))),) for p in columns for _ in range(100)]
    drawn, on = sampled(TOKENS, cells)
    for c, pair in zip(drawn, on, strict=True):
        assert TOKENS.subject[pair] <= c // 100
        assert TOKENS.mask[pair, c // 100]
    early: list[Cell] = [(Add(Site("resid_pre", 1), V, Columns((p,))),) for p in range(3)]  # acts before it as well
    drawn, on = sampled(TOKENS, early)
    assert all(TOKENS.mask[pair, c] for c, pair in zip(drawn, on, strict=True))
