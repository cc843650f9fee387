"""Computes the parts of a sweep on one model, here or in another process. It keeps the two runs that it used last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from circuits.engine.audit import audit
from circuits.engine.capture import Run, capture
from circuits.engine.certificate import Certificate
from circuits.engine.edits import sites_of
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay
from circuits.engine.sample import Sample
from circuits.engine.source import source_of
from circuits.engine.task import Block, Task
from circuits.engine.values import values
from circuits.model import Model
from circuits.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """The metric of a block's cells, and what it took."""

    value: Float[Tensor, "cell pair"]
    token_layers: int
    fired: int


@final
@dataclass(frozen=True, eq=False)
class Closing:
    """What is done when all cells of a task are measured: the metric of its two runs, and an audit of a sample."""

    sample: Sample | None
    """None: not audited."""
    certificate: Certificate


@final
@dataclass(frozen=True, eq=False)
class Closed:
    """The metric of the run patched into and of the run patched from, and what was found about the cells."""

    base: Float[Tensor, " pair"]
    source: Float[Tensor, " pair"]
    certificate: Certificate


Job = tuple[int, Block | Closing]
"""Which task, and what of it."""
Answer = Measured | Closed


@runtime_checkable
class Executor(Protocol):
    """Whoever computes jobs, in any order."""

    def __call__(self, tasks: Sequence[Task], jobs: Sequence[Job]) -> Iterable[tuple[int, Answer]]:
        """Answers as they come, each with the place of its job."""
        ...


@final
class Worker:
    """One model, and the runs of the task it worked on last."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._kept: list[_Runs] = []

    def __call__(self, tasks: Sequence[Task], jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        """Every job, in this order, in this process."""
        for place, (task, what) in enumerate(jobs):
            yield place, self.do(tasks[task], what)

    def do(self, task: Task, what: Block | Closing) -> Answer:
        """One job. Raises AuditError where an audit fails."""
        if isinstance(what, Block):
            runs = self._runs(task, what.sites)
            before = runs.replay.token_layers, runs.replay.fired
            cells = [task.cells[i] for i in what.cells]
            value = values(runs.replay, task.tokens, runs.readout, cells, runs.source).cpu()
            return Measured(value, runs.replay.token_layers - before[0], runs.replay.fired - before[1])
        sample, certificate = what.sample, what.certificate
        runs = self._runs(task, frozenset(sites_of(sample.cells if sample is not None else [])))
        if sample is not None:
            sample = Sample(sample.cells, sample.on, sample.value.to(self.model.device))
            certificate = audit(
                runs.replay, runs.source, task.tokens, runs.readout, task.metric, sample, values, certificate
            )
        base, source = (runs.readout(run.resid[-1][None, :, -1])[0].cpu() for run in (runs.replay.base, runs.source))
        return Closed(base, source, certificate)

    def release(self) -> None:
        """Let the runs go."""
        self._kept.clear()

    def _runs(self, task: Task, sites: frozenset[Site]) -> _Runs:
        """The two runs of a task with these sites, again where they are kept; what was kept before is let go first."""
        if self._kept and self._kept[0].task is task and sites <= self._kept[0].sites:
            return self._kept[0]
        self._kept.clear()
        tokens = task.tokens
        ids = (tokens.corrupt, tokens.clean)
        base_ids, source_ids = ids if task.direction == "denoise" else ids[::-1]
        base = capture(self.model, base_ids, tokens.mask, set(sites))
        replay = Replay(self.model, base, max_memory=task.max_memory)
        source = source_of(replay, source_ids, set(sites), tokens.first_difference)
        readout = Readout(self.model, task.metric.bind(tokens))
        self._kept.append(_Runs(task, sites, replay, source, readout))
        return self._kept[0]


@final
@dataclass(frozen=True, eq=False)
class _Runs:
    task: Task
    sites: frozenset[Site]
    replay: Replay
    source: Run
    readout: Readout
