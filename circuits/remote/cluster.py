"""Where workers live: a cluster that is joined, or one on this machine that lives as long as the context.

A cluster of one's own is quiet: no dashboard, no usage statistics, no lines of other processes on the terminal. Its files
go where RAY_TMPDIR says, /tmp without it. Ray's processes listen on every network of the machine while it lives.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

from circuits.errors import CircuitError
from circuits.remote.packed import need_ray

_STORE: Final = 2**28
"""Bytes of the object store, in shared memory: it holds tasks, not weights; what does not fit goes to disk."""
_PATIENCE: Final = 10.0
"""Seconds in which a cluster that is there answers."""
_FAILED: Final = (ImportError, ConnectionError, TimeoutError, RuntimeError, ValueError, OSError)
_SILENT: Final = {"RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def connected(address: str | None, *, cpus: int | None, gpus: int | None) -> Generator[Any]:
    """Ray, connected to the cluster at `address`, or to a new one of so many CPUs and GPUs (None: what there is).

    Where Ray is connected already, that connection is used and left open. Raises CircuitError where there is no cluster,
    or where none can be started.
    """
    ray = need_ray()
    if ray.is_initialized():
        yield ray
        return
    _require_answer(address)
    try:
        with _environment(_SILENT):
            if address is None:
                ray.init(
                    address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, log_to_driver=False,
                    logging_level=logging.CRITICAL, object_store_memory=_STORE,
                )  # fmt: skip
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except _FAILED as error:
        ray.shutdown()
        raise CircuitError(_explained(address, error)) from error
    driver: Any = import_module("ray._private.worker")
    driver._worker_logs_enabled = False  # noqa: SLF001  a lost worker is told on stdout whatever `log_to_driver` says
    try:
        yield ray
    finally:
        driver._worker_logs_enabled = True  # noqa: SLF001
        ray.shutdown()


def _require_answer(address: str | None) -> None:
    """Raise CircuitError for an address where nothing listens: Ray itself would go on asking for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # None, auto, or a name that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise CircuitError(_explained(address, error)) from error


def room(nodes: list[dict[str, Any]], cpus: float, gpus: float) -> int:
    """How many workers of this size the nodes hold in all, each on one node."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return sum(int(min(_times(node, "CPU", cpus), _times(node, "GPU", gpus))) for node in alive)


def _times(node: Mapping[str, float], what: str, each: float) -> float:
    return node.get(what, 0.0) // each if each else 2.0**31


def _explained(address: str | None, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if address is None:
        return (
            f"no local Ray cluster could be started: {first}\n"
            "its files go to RAY_TMPDIR (a short path with free space; /tmp where it is not set)"
        )
    return (
        f"no Ray cluster at {address!r}: {first}\n"
        "start one with `ray start --head` and give host:port, ray://host:10001 or auto; None starts one here\n"
        "where one is: it may ask for a token, which RAY_AUTH_MODE=token sends (from ~/.ray/auth_token)"
    )


@contextmanager
def _environment(more: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
