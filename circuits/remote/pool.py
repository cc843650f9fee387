"""The engine's executor: jobs go to whoever is free, answers come in any order, what was lost is done again.

A job that somebody fails at is tried by others, three times in all. What is wrong with the job itself, such as an audit
that fails, is raised at once, as it would have been here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Final, final

from circuits.engine.task import Block, Task
from circuits.engine.worker import Answer, Closing, Job
from circuits.errors import CircuitError
from circuits.remote.holder import Here
from circuits.remote.jobs import Jobs
from circuits.remote.members import Done, Members, Undone, told
from circuits.remote.packed import packed, packed_task

TRIES: Final = 3
_AHEAD: Final = 2
"""Jobs a worker has at most: the next is there when one is done."""


@final
class Pool:
    """Workers that stand in for this process."""

    def __init__(self, ray: Any, members: Members) -> None:
        self._ray, self._members = ray, members
        self._keys = count()
        self._sent: list[tuple[Task, int, Any]] = []

    @property
    def here(self) -> list[Here]:
        """Where the workers run that are at work."""
        return [member.here for member in self._members.ready if member.here is not None]

    @property
    def line(self) -> str:
        """One line for who waits."""
        nodes = len({here.node for here in self.here})
        return f"{len(self.here)} worker{'s' * (len(self.here) != 1)} on {nodes} node{'s' * (nodes != 1)}"

    def __call__(self, tasks: Sequence[Task], jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        """Answers as they come, each with the place of its job.

        Raises CircuitError (nothing sent yet) for a metric or cell that cannot be sent; for a block on which workers failed
        three times; and where all workers are gone.
        """
        self._members.require_unchanged()
        sent = self._send(tasks)
        whats = [packed(what, "a block") for _, what in jobs]
        queue, members, left = Jobs(jobs), self._members, len(jobs)
        try:
            while left:
                self._give(queue, jobs, sent, whats)
                event = members.wait()
                if isinstance(event, Done):
                    left -= 1
                    yield event.place, _answer(event)
                elif event is not None:
                    _again(queue, event, tasks, jobs)
        finally:
            members.forget()
        if all(isinstance(what, Closing) for _, what in jobs):  # the sweep is done
            members.release()
            self._sent.clear()

    def _send(self, tasks: Sequence[Task]) -> list[tuple[Task, int, Any]]:
        """Each task once, whatever is asked of it; those of sweeps before are let go."""
        known = {id(task): (task, key, ref) for task, key, ref in self._sent}
        bytes_of = {id(task): packed_task(task) for task in tasks if id(task) not in known}
        self._sent = [
            known.get(id(task)) or (task, next(self._keys), self._ray.put(bytes_of[id(task)])) for task in tasks
        ]
        return self._sent

    def _give(
        self, queue: Jobs, jobs: Sequence[Job], sent: Sequence[tuple[Task, int, Any]], whats: Sequence[bytes]
    ) -> None:
        """One job to everyone who has none; a second one while there are more jobs than workers."""
        members = self._members
        ready = members.ready
        indices = [member.index for member in ready]
        for ahead in range(1, _AHEAD + 1):
            for member in ready:
                if len(members.at(member)) >= ahead or (ahead > 1 and len(queue) <= len(ready)):
                    continue
                place = queue.take(member.index, indices)
                if place is not None:
                    _, key, ref = sent[jobs[place][0]]
                    members.submit(member, place, key, ref, whats[place])


def _answer(done: Done) -> Answer:
    """Raises what is wrong with the job itself."""
    if isinstance(done.answer, CircuitError):
        done.answer.add_note(f"raised on {done.member.name}")
        raise done.answer
    return done.answer


def _again(queue: Jobs, undone: Undone, tasks: Sequence[Task], jobs: Sequence[Job]) -> None:
    """Put jobs back. Raises CircuitError where the first of them has failed too often."""
    for place in reversed(undone.places[1:]):
        queue.again(place)
    for place in undone.places[:1]:
        times = queue.again(place, undone.member.index)
        if times >= TRIES:
            raise CircuitError(
                f"{_named(tasks, jobs, place)} failed on workers {times} times: {told(undone.error)}\n"
                "measure it without workers to see where; where memory is short, give max_memory, or fewer workers for each GPU"
            ) from undone.error


def _named(tasks: Sequence[Task], jobs: Sequence[Job], place: int) -> str:
    """`block 5 of 14 (36 cells from L3.H2.z to L4.H7.z on 12 pairs)`."""
    at, what = jobs[place]
    task = tasks[at]
    pairs = f"on {task.tokens.n_pairs} pairs"
    if not isinstance(what, Block):
        return f"the audit of {len(task.cells)} cells {pairs}"
    labels = [i.site.label for c in (what.cells[0], what.cells[-1]) for i in task.cells[c][:1]]
    where = f" from {labels[0]} to {labels[-1]}" if labels else ""
    return f"block {place + 1} of {len(jobs)} ({len(what.cells)} cells{where} {pairs})"
