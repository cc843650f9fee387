"""What runs in a worker's process: it reads the model as the driver did, and does jobs on it one at a time.

What goes wrong with a job itself is an answer like any other: the driver raises it as it was raised here.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from circuits.engine.identify import code_version
from circuits.engine.task import Block, Task
from circuits.engine.worker import Answer, Closing, Worker
from circuits.errors import CircuitError, ModelError
from circuits.model import Model, load
from circuits.model.identity import tokenizer_hash, weights_hash
from circuits.model.load import DTypeName
from circuits.remote.packed import need_ray, unpacked
from circuits.result import versions

_TASKS: Final = 4
"""Tasks held at once: a worker goes from one to the next, and seldom back."""


@final
@dataclass(frozen=True)
class Spec:
    """How a worker reads the model, and computes with it."""

    path: str
    dtype: DTypeName
    device: str
    edits: str | None
    trust_remote_code: bool
    threads: int
    """Products are added up in an order that depends on how many share them."""
    precision: str
    """torch's float32_matmul_precision."""
    deterministic: bool

    @classmethod
    def of(cls, model: Model, *, edits: str | None, trust_remote_code: bool) -> Spec:
        """The same as a model's, in a process that sees one GPU of its own at most."""
        config: Any = model.hf.config
        path = model.name if model.origin == "bundled" else str(config.name_or_path)
        dtype: Any = str(model.dtype).removeprefix("torch.")
        return cls(
            path, dtype, model.device.type, edits, trust_remote_code, torch.get_num_threads(),
            torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
        )  # fmt: skip


@final
@dataclass(frozen=True)
class Here:
    """Where a worker runs, and with what."""

    node: str
    pid: int
    code: str
    versions: Mapping[str, str]

    @classmethod
    def now(cls) -> Here:
        return cls(platform.node(), os.getpid(), code_version(), versions())


@final
@dataclass(frozen=True)
class Held:
    """What a worker holds, by contents."""

    weights: str
    tokenizer: str

    @classmethod
    def of(cls, model: Model) -> Held:
        return cls(weights_hash(model), tokenizer_hash(model.tokenizer))


def tensors_of(model: Model) -> dict[str, Tensor]:
    """Every parameter and buffer by name, on the CPU: what `weights_hash` covers."""
    return {name: t.detach().cpu() for name, t in [*model.hf.named_parameters(), *model.hf.named_buffers()]}


@final
class Holder:
    """An actor: the model, the worker on it, and the tasks it was given last."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._tasks: dict[int, Task] = {}
        """The same object for every job of a task: the worker keeps its runs by it."""

    def hello(self) -> Here:
        """Where this is."""
        return Here.now()

    def open(self, spec: Spec, tokenizer: bytes | None, weights: bytes | None) -> Held | CircuitError:
        """Read the model, or say why not. `tokenizer` instead of the folder's own, `weights` instead of its numbers."""
        torch.set_num_threads(spec.threads)
        torch.set_float32_matmul_precision(spec.precision)
        torch.use_deterministic_algorithms(spec.deterministic)
        try:
            model = load(
                spec.path, dtype=spec.dtype, device=spec.device, edits=spec.edits, trust_remote_code=spec.trust_remote_code,
                tokenizer=None if tokenizer is None else unpacked(tokenizer, "the tokenizer"),
            )  # fmt: skip
            if weights is not None:
                _put(model, unpacked(weights, "the weights"))
        except CircuitError as error:
            return error
        self._worker = Worker(model)
        return Held.of(model)

    def do(self, key: int, task: list[Any], what: bytes) -> Answer | CircuitError:
        """One job of the task of this key; `task` holds the reference to its bytes, read where it is not known here."""
        if self._worker is None:
            raise RuntimeError("a worker was given a job before its model")
        try:
            if key not in self._tasks:
                while len(self._tasks) >= _TASKS:
                    self._tasks.pop(next(iter(self._tasks)))
                self._tasks[key] = unpacked(need_ray().get(task[0]), "the sweep")
            job: Block | Closing = unpacked(what, "a block")
            return self._worker.do(self._tasks[key], job)
        except CircuitError as error:
            return error

    def release(self) -> None:
        """Let runs and tasks go."""
        self._tasks.clear()
        if self._worker is not None:
            self._worker.release()


def _put(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite parameters and buffers in place. Raises ModelError where the model read here has others."""
    mine = dict([*model.hf.named_parameters(), *model.hf.named_buffers()])
    other = sorted(
        name for name in mine.keys() | tensors.keys()
        if name not in mine or name not in tensors or mine[name].shape != tensors[name].shape
    )  # fmt: skip
    if other:
        raise ModelError(f"{model.name}: {other[0]} is not as in the weights sent; the folder holds another model")
    with torch.no_grad():
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)
