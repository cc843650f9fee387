"""Which job a worker is given next: one that shares its kept runs where there is one, else of the longest row of jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Sequence
from typing import final

from circuits.engine.task import Block
from circuits.engine.worker import Job


@final
class Jobs:
    """The jobs that are left, in groups that share what both runs keep, and on whom each has failed."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._group = [_group(job, place) for place, job in enumerate(jobs)]
        self._left: dict[Hashable, deque[int]] = {}
        for place, group in enumerate(self._group):
            self._left.setdefault(group, deque()).append(place)
        self._last: dict[int, Hashable] = {}
        self._failed: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._left.values()))

    def take(self, worker: int, others: Collection[int] = ()) -> int | None:
        """The next job of a worker; None where none is left for it.

        A job that failed on it is left to `others`, as long as there is one that it has not failed on.
        """
        mine = self._last.get(worker)
        shared = [group for at, group in self._last.items() if at != worker]
        order = sorted(
            self._left, key=lambda group: (group != mine, -len(self._left[group]) / (1 + shared.count(group)))
        )
        for group in order:
            for place in self._left[group]:
                failed = self._failed.get(place, [])
                if worker in failed and any(other not in failed for other in others):
                    continue
                self._left[group].remove(place)
                if not self._left[group]:
                    del self._left[group]
                self._last[worker] = group
                return place
        return None

    def again(self, place: int, failed_on: int | None = None) -> int:
        """Put a job back, before all others of its group; returns how often it has failed."""
        if failed_on is not None:
            self._failed.setdefault(place, []).append(failed_on)
        self._left.setdefault(self._group[place], deque()).appendleft(place)
        return len(self._failed.get(place, []))


def _group(job: Job, place: int) -> Hashable:
    task, what = job
    return (task, what.sites) if isinstance(what, Block) else (task, place)
