"""Memory that runs out halves the batch and loses nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import small_models
import torch

from circuits.engine import replay, sweep
from circuits.engine.batches import in_batches
from circuits.engine.progress import listening
from circuits.interventions import Cell, Columns, Patch
from circuits.metrics import RefusalMetric
from circuits.sites import Site


@pytest.mark.parametrize("fits", [1, 2, 3, 7])
def test_every_job_is_done_once_in_order(fits: int):
    done: list[int] = []
    refused: list[int] = []

    def run(batch: list[int]) -> None:
        if len(batch) > fits:
            refused.append(len(batch))
            raise torch.OutOfMemoryError("full")
        done.extend(batch)

    shares: list[float] = []
    with listening(shares.append):
        in_batches(list(range(23)), 16, run)
    assert done == list(range(23))
    assert refused
    assert all(after < before for before, after in pairwise(refused))
    assert sum(shares) == pytest.approx(1)


def test_one_job_that_does_not_fit_is_told():
    def run(batch: list[int]) -> None:
        raise torch.OutOfMemoryError(f"{len(batch)}")

    with pytest.raises(torch.OutOfMemoryError, match="1"):
        in_batches([1, 2, 3], 3, run)


def test_other_errors_are_not_taken_for_memory():
    calls: list[int] = []

    def run(batch: list[int]) -> None:
        calls.append(len(batch))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        in_batches([1, 2, 3], 3, run)
    assert calls == [3]


def test_a_sweep_survives_it(monkeypatch: pytest.MonkeyPatch):
    model, tokens = small_models.model("gemma"), small_models.uneven()
    kinds = ("resid_pre", "mlp_out")
    cells: list[Cell] = [
        (Patch(Site(kind, layer), Columns((p,))),) for kind in kinds for layer in range(4) for p in range(10)
    ]
    cells += [tuple(Patch(Site("attn_out", layer), "last") for layer in (a, 3)) for a in range(3)]
    expected = sweep(model, tokens, RefusalMetric(model, "w60"), cells, audited=False)
    whole, refused = replay.Replay._call, []

    def small_memory(self: Any, layer: int, x: Any, *rest: Any) -> Any:
        if len(x) > 2:
            refused.append(len(x))
            raise torch.OutOfMemoryError("full")
        return whole(self, layer, x, *rest)

    monkeypatch.setattr(replay.Replay, "_call", small_memory)
    found = sweep(model, tokens, RefusalMetric(model, "w60"), cells, audited=False)
    assert refused
    assert torch.allclose(found.value, expected.value, atol=5e-6, rtol=0)
