"""Sweep after sweep in one process: memory stays flat, and numbers stay what they were, bit for bit."""

from __future__ import annotations

import small_models
from bench.soak import MB, Series, kinds, soak

SWEEPS = 25


def test_memory_is_flat_and_numbers_stay():
    made = kinds(small_models.model("gemma2"), small_models.even())
    found = soak(made, SWEEPS)
    assert found.moved == []
    assert len(found.resident) == SWEEPS
    assert found.flat(found.resident), [n // MB for n in found.resident]
    assert all(found.flat(series) for series in [found.cuda] if series)


def test_what_grows_or_moves_is_seen():
    grows = Series([100 * MB + i * MB for i in range(40)])
    assert not grows.flat(grows.resident)
    assert Series().flat([100 * MB] * 10 + [104 * MB] * 30)
    turn = iter(range(10))
    assert soak({"one": lambda: bytes([next(turn) // 4])}, 6).moved == ["one in sweep 5", "one in sweep 6"]
