"""What every test stands on: one thread, no network, and the reference data beside the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import balance
import pytest
from hypothesis import settings

# Before torch is imported: idle threads that spin take the core that the test itself needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The same examples in every run, and no time limit: a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: Any, items: list[pytest.Item]) -> None:
    """Workers are given the longest files first; one process alone runs them as they stand."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: -balance.seconds(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    return balance.LongestFirst(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference models and published data, in `shared/` within or beside the repository.

    A test that needs them is skipped, with this reason, on a machine that has none.
    """
    for folder in (ROOT / "shared", ROOT.parent / "shared"):
        if (folder / "reference").is_dir():
            return folder
    pytest.skip("no shared/ with reference data within or beside the repository")
