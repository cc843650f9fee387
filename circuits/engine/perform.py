"""Who computes the parts of a sweep: this process, or whoever stands in for it. What is kept is not computed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import TypeVar, final

import torch
from torch import Tensor

from circuits.engine.certificate import Certificate
from circuits.engine.identify import contents
from circuits.engine.kept import keeping, key_of
from circuits.engine.precision import fits_in_fp32
from circuits.engine.progress import listening
from circuits.engine.task import Block, Task
from circuits.engine.worker import Closed, Closing, Executor, Job, Measured, Worker
from circuits.model import Model

A = TypeVar("A", Measured, Closed)
_elsewhere: ContextVar[tuple[Model, Executor] | None] = ContextVar("elsewhere", default=None)


@contextmanager
def executed_by(model: Model, executor: Executor) -> Generator[None]:
    """Have sweeps of a model computed elsewhere for the length of the context; those of other models stay here."""
    token = _elsewhere.set((model, executor))
    try:
        yield
    finally:
        _elsewhere.reset(token)


@final
class Perform:
    """Answers to all jobs of one sweep."""

    def __init__(self, model: Model, tasks: Sequence[Task]) -> None:
        self._model, self._tasks = model, tasks
        given = _elsewhere.get()
        self._here = given is None or given[0] is not model
        self._executor: Executor = Worker(model) if given is None or self._here else given[1]

    def measure(self, jobs: Sequence[tuple[int, Block]]) -> list[Measured]:
        """The metric of every block's cells."""
        sizes = [len(block.cells) * self._tasks[task].tokens.n_pairs for task, block in jobs]
        if self._here and len(jobs) == 1:  # its batches tell how far it is
            return self._answers(jobs, "sweep", _packed, _measured, lambda _: None)
        with listening(lambda _: None) as outside:
            return self._answers(jobs, "sweep", _packed, _measured, lambda i: outside(sizes[i] / sum(sizes)))

    def close(self, jobs: Sequence[tuple[int, Closing]]) -> list[Closed]:
        """The two runs of every task, and its audit."""
        with listening(lambda _: None):
            return self._answers(jobs, "audit", _packed_end, _closed, lambda _: None)

    def _answers(
        self, jobs: Sequence[Job], kind: str, pack: Callable[[A], Mapping[str, Tensor]],
        unpack: Callable[[Mapping[str, Tensor]], A], tell: Callable[[int], None],
    ) -> list[A]:  # fmt: skip
        kept = keeping()
        around = {} if kept is None else {task: self._around(self._tasks[task]) for task in {job[0] for job in jobs}}
        keys = [] if kept is None else [key_of(kind, around[job[0]], *self._asked(job)) for job in jobs]
        found: dict[int, A] = {}
        for i, key in enumerate(keys):
            known = None if kept is None else kept.get(key)
            if kept is not None and known is not None:
                found[i] = unpack(known)
                kept.found += 1
                tell(i)
        left = [i for i in range(len(jobs)) if i not in found]
        if left:
            for place, answer in self._executor(self._tasks, [jobs[i] for i in left]):
                i = left[place]
                found[i] = answer  # pyright: ignore[reportArgumentType]  an executor answers a block with Measured, …
                if kept is not None:
                    kept.put(keys[i], pack(found[i]))
                    kept.made += 1
                tell(i)
        return [found[i] for i in range(len(jobs))]

    def _asked(self, job: Job) -> tuple[object, ...]:
        """What an answer depends on besides its task."""
        task, what = self._tasks[job[0]], job[1]
        if isinstance(what, Block):
            return (sorted(site.label for site in what.sites), [task.cells[i] for i in what.cells])
        return (what, fits_in_fp32(self._model))  # with more memory an audit finds more

    def _around(self, task: Task) -> str:
        """What all answers of a task depend on; the formula of a metric is that of what it binds to."""
        bound = task.metric.bind(task.tokens)
        return contents(self._model, task.tokens, task.metric, bound, task.direction, task.max_memory)


def _packed(measured: Measured) -> dict[str, Tensor]:
    return {"value": measured.value, "counts": torch.tensor([measured.token_layers, measured.fired])}


def _measured(tensors: Mapping[str, Tensor]) -> Measured:
    token_layers, fired = tensors["counts"].tolist()
    return Measured(tensors["value"], token_layers, fired)


def _packed_end(closed: Closed) -> dict[str, Tensor]:
    told = json.dumps(asdict(closed.certificate)).encode()
    return {"base": closed.base, "source": closed.source, "certificate": torch.tensor(list(told), dtype=torch.uint8)}


def _closed(tensors: Mapping[str, Tensor]) -> Closed:
    told = json.loads(bytes(tensors["certificate"].tolist()))
    return Closed(tensors["base"], tensors["source"], Certificate(**told))
