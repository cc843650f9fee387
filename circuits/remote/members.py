"""The workers: started, equal to the driver or refused, lost and started again.

A worker that dies, or whose node goes, is said once and started again, up to `RESTARTS` times; its jobs are the caller's
to give to others. At the start every failure is an error, so that what is wrong with the cluster shows before any work.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Final, Literal, final

from circuits.engine.worker import Answer
from circuits.errors import CircuitError, ModelError
from circuits.remote.holder import Held, Here, Holder, Spec

RESTARTS: Final = 3
"""Of one worker."""
PLACED: Final = 300.0
"""Seconds that a worker may wait for a place on the cluster."""
_TICK: Final = 5.0
_RAISED: Final = re.compile(r"[\w.]*(Error|Exception)\b")
_log = getLogger(__name__)


@final
@dataclass(frozen=True, eq=False)
class Done:
    """An answer, or what is wrong with the job itself."""

    member: Member
    place: int
    answer: Answer | CircuitError


@final
@dataclass(frozen=True, eq=False)
class Undone:
    """Jobs to be given to others, in the order given: their worker died at the first of them, or only that one failed."""

    member: Member
    places: Sequence[int]
    error: Exception


@final
@dataclass(eq=False)
class Member:
    """One worker."""

    index: int
    actor: Any = None
    state: Literal["placing", "loading", "ready", "gone"] = "gone"
    here: Here | None = None
    starts: int = 0
    since: float = 0.0

    @property
    def name(self) -> str:
        where = "" if self.here is None else f" ({self.here.node}, process {self.here.pid})"
        return f"worker {self.index + 1}{where}"


@final
@dataclass(frozen=True, eq=False)
class Supplies:
    """What every worker is started with; `tokenizer` and `weights` are references, or None."""

    spec: Spec
    tokenizer: Any
    weights: Any
    options: dict[str, Any]
    """Of the actor: CPUs, GPUs, how they are spread."""
    held: Callable[[], Held]
    """What the driver's model holds."""


@final
class Members:
    """All workers, and everything they were asked that is not answered yet."""

    def __init__(self, ray: Any, n: int, supplies: Supplies) -> None:
        self._ray, self._supplies = ray, supplies
        self._actor: Any = ray.remote(Holder)
        self._waits: dict[Any, tuple[Member, str | int]] = {}
        self._started, self._opened = False, Held("", "")
        self.all = [Member(i) for i in range(n)]

    @property
    def ready(self) -> list[Member]:
        return [member for member in self.all if member.state == "ready"]

    def start(self) -> None:
        """Start every worker and wait for them. Raises CircuitError, or ModelError where one holds another model."""
        for member in self.all:
            self._start(member)
        while len(self.ready) < len(self.all):
            self.wait()
        self._started, self._opened = True, self._supplies.held()

    def require_unchanged(self) -> None:
        """Raise ModelError where the driver's model is no longer the one that the workers were opened with."""
        if self._supplies.held() != self._opened:
            raise ModelError(
                "the model was changed after its workers were started, and they hold what it was before\n"
                "leave ray_workers and enter it again, with send_weights=True"
            )

    def stop(self) -> None:
        """End every worker."""
        self._waits.clear()
        for member in self.all:
            self._end(member)

    def submit(self, member: Member, place: int, key: int, task: Any, what: bytes) -> None:
        """Give a ready worker a job."""
        self._waits[member.actor.do.remote(key, [task], what)] = member, place

    def at(self, member: Member) -> list[int]:
        """The jobs a worker has, in the order given."""
        return [what for who, what in self._waits.values() if who is member and isinstance(what, int)]

    def forget(self) -> None:
        """Take back every job that is not answered; one that runs runs on, unheard."""
        for ref, (_, what) in list(self._waits.items()):
            if isinstance(what, int):
                del self._waits[ref]
                self._ray.cancel(ref)

    def release(self) -> None:
        """Have every worker let its runs go."""
        for member in self.ready:
            member.actor.release.remote()

    def wait(self) -> Done | Undone | None:
        """What happened next to a job; None where it was something else. Raises CircuitError where all workers are gone."""
        if all(member.state == "gone" for member in self.all):
            raise CircuitError(
                f"all {len(self.all)} workers are gone, each started {RESTARTS + 1} times; see the log for why\n"
                "what was measured within `keep(folder)` is kept: the same again goes on from there"
            )
        done, _ = self._ray.wait(list(self._waits), num_returns=1, timeout=_TICK)
        if not done:
            self._require_places()
            return None
        member, what = self._waits[done[0]]
        errors = self._ray.exceptions
        try:
            value = self._ray.get(done[0])
        except errors.RayTaskError as error:
            del self._waits[done[0]]
            if isinstance(what, int):
                return Undone(member, (what,), error)
            raise CircuitError(f"{member.name} did not start: {told(error)}") from error
        except errors.RayError as error:
            return self._lose(member, error)
        del self._waits[done[0]]
        if isinstance(what, int):
            return Done(member, what, value)
        self._greet(member, value)
        return None

    def _start(self, member: Member) -> None:
        supplies = self._supplies
        member.actor = self._actor.options(**supplies.options).remote()
        member.state, member.here, member.since = "placing", None, time.monotonic()
        member.starts += 1
        self._waits[member.actor.hello.remote()] = member, "hello"
        self._waits[member.actor.open.remote(supplies.spec, supplies.tokenizer, supplies.weights)] = member, "open"

    def _greet(self, member: Member, value: Here | Held | CircuitError) -> None:
        """A worker has told where it is, then what it holds."""
        if isinstance(value, Here):
            member.here = value
            member.state = "loading" if member.state == "placing" else member.state
            wrong = _other_code(member, value)
        elif isinstance(value, CircuitError):
            wrong = type(value)(
                f"{member.name} cannot read the model: {value}\n"
                f"{self._supplies.spec.path} has to be readable on every node, under this name"
            )
        else:
            wrong = _other_model(member, value, self._supplies.held())
            member.state = "ready" if wrong is None else member.state
        if wrong is None:
            return
        if not self._started:
            raise wrong
        _log.warning("%s is not used again: %s", member.name, wrong)
        self._drop(member)
        self._end(member)

    def _lose(self, member: Member, error: Exception) -> Undone:
        places, why = self.at(member), told(error)
        self._drop(member)
        name, again = member.name, member.starts <= RESTARTS
        self._end(member)
        if not self._started:
            raise CircuitError(
                f"{name} died while it started: {why}\n"
                "it needs the memory of the model, and this package installed on its node"
            ) from error
        then = f"it is started again ({member.starts} of {RESTARTS})" if again else "it is not started again"
        _log.warning("%s is lost, its jobs are done by others; %s: %s", name, then, why)
        if again:
            self._start(member)
        return Undone(member, places, error)

    def _drop(self, member: Member) -> None:
        for ref in [ref for ref, (who, _) in self._waits.items() if who is member]:
            del self._waits[ref]

    def _end(self, member: Member) -> None:
        if member.actor is not None:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(member.actor, no_restart=True)
        member.actor, member.state = None, "gone"

    def _require_places(self) -> None:
        """Raise CircuitError where nobody works and somebody waits for a place on the cluster for too long."""
        waiting = [member for member in self.all if member.state == "placing"]
        busy = any(member.state == "loading" or (self._started and member.state == "ready") for member in self.all)
        if waiting and not busy and time.monotonic() - min(member.since for member in waiting) > PLACED:
            asked = self._supplies.options
            raise CircuitError(
                f"{waiting[0].name} got no place on the cluster in {PLACED:.0f} s: it asks for {asked['num_cpus']} CPUs and "
                f"{asked['num_gpus']} GPUs on one node\ngive fewer workers, or less for each"
            )


def _other_code(member: Member, here: Here) -> CircuitError | None:
    mine = Here.now()
    if here.code != mine.code:
        return CircuitError(
            f"{member.name} has another version of this package, {here.code} instead of {mine.code}: its numbers may differ\n"
            "install the same on every node"
        )
    other = [
        f"{name} {here.versions.get(name)} instead of {v}"
        for name, v in mine.versions.items()
        if here.versions.get(name) != v
    ]
    if other:
        return CircuitError(
            f"{member.name} has {', '.join(other)}: its numbers may differ\ninstall the same on every node"
        )
    return None


def _other_model(member: Member, theirs: Held, mine: Held) -> ModelError | None:
    if theirs.weights != mine.weights:
        return ModelError(
            f"{member.name} read other weights than those held here (sha256 {theirs.weights}, here {mine.weights})\n"
            "its files differ, or the weights were changed in memory: give edits=folder for stored edits, or "
            "send_weights=True to send the weights as they are"
        )
    if theirs.tokenizer != mine.tokenizer:
        return ModelError(
            f"{member.name} has another tokenizer than the one held here\nmake the model's folders the same"
        )
    return None


def told(error: Exception) -> str:
    """What happened, without where in Ray: the exception raised on the worker, or else how Ray begins to tell of it."""
    cause: Any = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {_lines(cause)[0]}"
    lines = _lines(error)
    return lines[-1] if _RAISED.match(lines[-1]) else lines[0]


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
