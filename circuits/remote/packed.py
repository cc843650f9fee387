"""What is sent to another process, as bytes: what cannot be sent is named before anything is."""

from __future__ import annotations

import pickle
from typing import Any, Final

from circuits.engine.task import Task
from circuits.errors import CircuitError

_UNSENDABLE: Final = (pickle.PicklingError, TypeError, AttributeError, ValueError, NotImplementedError, RuntimeError)
_UNREADABLE: Final = (
    pickle.UnpicklingError,
    ImportError,
    AttributeError,
    TypeError,
    ValueError,
    RuntimeError,
    EOFError,
)


def need_ray() -> Any:
    """Ray. Raises CircuitError naming the extra where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise CircuitError(
            f"workers on several GPUs or machines need the package ray ({error})\npip install 'circuit-patching[ray]'"
        ) from error
    return ray


def packed(what: object, name: str) -> bytes:
    """The bytes of an object that every worker can make again. Raises CircuitError saying which one cannot be sent."""
    pickler: Any = need_ray().cloudpickle
    try:
        return pickler.dumps(what)
    except _UNSENDABLE as error:
        raise CircuitError(
            f"{name} cannot be sent to workers: {_first_line(error)}\n"
            "hold numbers, text and tensors in it; open files or connections where they are used; or measure without workers"
        ) from error


def packed_task(task: Task) -> bytes:
    """A task. Raises CircuitError naming its metric or the cell that cannot be sent."""
    try:
        return packed(task, "the sweep")
    except CircuitError as error:
        packed(task.metric, f"the metric {task.metric.name}")
        for i, cell in enumerate(task.cells):
            packed(cell, f"cell {i} ({', '.join(each.site.label for each in cell)})")
        raise error from error.__cause__


def unpacked(data: bytes, name: str) -> Any:
    """The object. Raises CircuitError saying what is not installed where this runs."""
    try:
        return pickle.loads(data)  # noqa: S301  from the process that started this one
    except _UNREADABLE as error:
        raise CircuitError(
            f"{name} does not read back on a worker: {_first_line(error)}\n"
            "what it is made of has to be importable there: define it in the script or notebook itself, or install its "
            "module on every node"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
