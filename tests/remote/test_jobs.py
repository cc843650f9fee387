"""Which job goes to whom: every job once, shared runs first, a failed job to somebody else."""

from __future__ import annotations

from circuits.engine.certificate import Certificate
from circuits.engine.task import Block
from circuits.engine.worker import Closing
from circuits.remote.jobs import Jobs
from circuits.sites import Site

ONE, OTHER = frozenset({Site("z", 1)}), frozenset({Site("z", 2)})


def blocks(*sites):
    return [(0, Block((i,), each)) for i, each in enumerate(sites)]


def test_every_job_is_taken_once_by_any_number_of_workers():
    jobs = Jobs(blocks(ONE, OTHER, ONE, OTHER, ONE))
    taken = [jobs.take(i % 3) for i in range(6)]
    assert sorted(taken[:5]) == [0, 1, 2, 3, 4]
    assert taken[5] is None
    assert len(jobs) == 0


def test_a_worker_stays_with_the_runs_it_has():
    jobs = Jobs(blocks(ONE, OTHER, ONE, OTHER, OTHER))
    first, second = jobs.take(0), jobs.take(1)
    assert {first, second} == {1, 0}  # the longer row of jobs first, then the one that nobody is at
    assert [jobs.take(0), jobs.take(0)] == [3, 4]
    assert jobs.take(0) == 2  # nothing of its own is left: what is left anywhere


def test_parts_of_the_pairs_are_groups_of_their_own_and_audits_are_free():
    end = Closing(None, Certificate(cells=1, token_layers=1))
    jobs = Jobs([(0, Block((0,), ONE)), (1, Block((0,), ONE)), (0, Block((1,), ONE)), (0, end), (1, end)])
    assert jobs.take(0) == 0
    assert jobs.take(1) in (1, 3, 4)
    assert jobs.take(0) == 2


def test_a_failed_job_is_left_to_others_while_there_are_any():
    jobs = Jobs(blocks(ONE, ONE))
    assert jobs.take(0, [0, 1]) == 0
    assert jobs.again(0, failed_on=0) == 1
    assert jobs.take(0, [0, 1]) == 1  # not the one that it failed on
    assert jobs.take(0, [0, 1]) is None
    assert jobs.take(1, [0, 1]) == 0
    assert jobs.again(0, failed_on=1) == 2
    assert jobs.take(0, [0, 1]) == 0  # it has failed on everybody: anybody may try


def test_a_lost_job_goes_first_and_is_not_blamed():
    jobs = Jobs(blocks(ONE, ONE, ONE))
    assert [jobs.take(0), jobs.take(0)] == [0, 1]
    assert jobs.again(1) == 0
    assert jobs.take(0, [0, 1]) == 1
