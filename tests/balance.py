"""Which worker of pytest-xdist runs what: files that share what is expensive together, and the longest first.

A long file that comes last keeps one worker busy while all others are done.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadFileScheduling

TOGETHER = {
    file: family
    for family, files in {
        "studies": (
            "cases/test_studies.py", "cases/test_studies_bad_input.py", "cases/test_single_direction.py",
            "cases/test_rotation_plane.py", "cases/test_incapability.py", "cases/test_gemma2_replication.py",
        ),
        "upstream": ("cases/test_upstream.py", "cases/test_upstream_edges.py"),
        "downstream": ("cases/test_downstream.py", "cases/test_downstream_direction.py"),
    }.items()
    for file in files
}  # fmt: skip
"""Files that read one run, which every process makes for itself, and the name of the family that they make up."""

SECONDS = {
    "notebooks/test_run.py": 150, "docs/test_measurements.py": 120, "remote/test_workers.py": 95, "studies": 95,
    "cases/test_connections.py": 75, "docs/test_blocks.py": 75, "cases/test_figures.py": 45, "cases/test_gemma_refusal.py": 35,
    "runs/test_survives.py": 35, "measure/test_ground_truth.py": 30, "engine/test_identify.py": 30, "cases/test_repair.py": 25,
    "hostile/test_processes.py": 25, "hostile/test_pages.py": 25, "report/circuit/test_shown.py": 25, "upstream": 20,
    "docs/test_site.py": 20, "harness/test_evaluate.py": 20, "cases/test_together.py": 15, "measure/test_clusters.py": 15,
    "downstream": 13,
}  # fmt: skip
"""How long a worker has for the longest families, folders and files, roughly; all others take less."""


def unit(nodeid: str) -> str:
    """What one worker runs as a whole: a file, or a family of them."""
    file = nodeid.partition("::")[0].removeprefix("tests/")
    return TOGETHER.get(file, file)


def seconds(nodeid: str) -> int:
    """Of the unit of a test; 0 for those of which no one has to know."""
    name = unit(nodeid)
    return SECONDS.get(name, SECONDS.get(name.rpartition("/")[0], 0))


class LongestFirst(LoadFileScheduling):
    """As `--dist loadfile`, but for families, and in the order in which the tests are collected."""

    def __init__(self, config: Any, log: Any = None) -> None:
        config.option.loadscopereorder = False  # by number of tests, which says little of time
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
