"""Time and floating-point operations of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """What a call returns and the seconds it took, work queued on a device included."""
    _settle()
    start = time.perf_counter()
    out = function()
    _settle()
    return out, time.perf_counter() - start


def in_turn(*functions: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of the fastest of a few runs of each, taken in turn: whatever else the machine does hits all alike."""
    seconds = [[timed(function)[1] for function in functions] for _ in range(repeats)]
    return [min(column) for column in zip(*seconds, strict=True)]


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Flops(TorchDispatchMode):
    """Counts the operations of matrix products in its context: two for each multiplication."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(function: Callable[[], Any]) -> int:
    """How many a call runs."""
    with Flops() as counted:
        function()
    return counted.count
