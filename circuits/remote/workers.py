"""ray_workers(): sweeps of a model computed by workers, for the length of a context."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from circuits.engine.perform import executed_by
from circuits.errors import CircuitError, ModelError
from circuits.model import Model
from circuits.remote.cluster import connected, room
from circuits.remote.holder import Held, Spec, tensors_of
from circuits.remote.members import Members, Supplies
from circuits.remote.packed import need_ray, packed
from circuits.remote.pool import Pool


@contextmanager
def ray_workers(
    model: Model, *, address: str | None = None, workers: int | None = None, gpus_per_worker: float | None = None,
    cpus_per_worker: float | None = None, edits: str | Path | None = None, trust_remote_code: bool = False,
    send_weights: bool = False,
) -> Generator[Pool]:  # fmt: skip
    """Have sweeps of `model` computed by workers within the context; all else stays in this process.

        with ct.ray_workers(model, workers=2), keep("runs/mine"):
            ct.patch_residual(model, tokens, metric)

    `address`: None starts a cluster on this machine, which ends with the context; "auto", "host:port" or "ray://host:port"
    (which needs ray[client]) joins one. Each worker is a process that reads the model itself, as `load` did here (its path
    has to be readable on every node; give `edits` and `trust_remote_code` again), and is refused unless all its weights are
    the same.
    `send_weights` also sends those held here, for a model changed in memory. `workers`: None takes as many as there is room
    for. `gpus_per_worker`: 1 for a model on CUDA, else 0; a part of one shares a GPU. `cpus_per_worker`: torch's threads for
    a model on the CPU, else 1.

    The same blocks are computed with the same number of threads, so numbers are equal to those computed here, bit by bit
    on like processors. A worker that is lost is started again and its jobs are done by others; Ctrl-C ends all of them.

    Raises CircuitError without ray, a cluster, or room on it; ModelError naming the worker that cannot read the model or
    reads another one.
    """
    need_ray()
    size = _size(model.device, gpus_per_worker, cpus_per_worker)
    _check(model, workers, size, edits=edits, send_weights=send_weights)
    path = None if edits is None else str(Path(edits).resolve())
    spec = Spec.of(model, edits=path, trust_remote_code=trust_remote_code)
    # the class of a tokenizer that came as code exists only where that code was run: workers then read their own
    tokenizer = None if trust_remote_code else packed(model.tokenizer, "the tokenizer")
    weights = packed(tensors_of(model), "the weights") if send_weights else None
    cpus, gpus = size
    with connected(address, cpus=_cpus(workers, cpus), gpus=None if gpus else 0) as ray:
        fit = room(ray.nodes(), cpus, gpus)
        n = fit if workers is None else workers
        if n < 1 or n > fit:
            raise CircuitError(
                f"the cluster has room for {fit} workers of {cpus:g} CPUs and {gpus:g} GPUs, {workers or 'at least 1'} are "
                "asked for\ngive fewer workers, or less for each (gpus_per_worker, cpus_per_worker)"
            )

        def held() -> Held:
            return Held.of(model)

        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        tokenizer_at, weights_at = (None if data is None else ray.put(data) for data in (tokenizer, weights))
        members = Members(ray, n, Supplies(spec, tokenizer_at, weights_at, options, held))
        try:
            members.start()
            pool = Pool(ray, members)
            with executed_by(model, pool):
                yield pool
        finally:
            members.stop()


def _size(device: torch.device, gpus: float | None, cpus: float | None) -> tuple[float, float]:
    """CPUs and GPUs of a worker."""
    on_gpu = device.type == "cuda"
    gpus = (1.0 if on_gpu else 0.0) if gpus is None else gpus
    cpus = (1.0 if on_gpu else float(torch.get_num_threads())) if cpus is None else cpus
    if on_gpu != (gpus > 0) or cpus < 0 or gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise CircuitError(
            f"workers of {cpus:g} CPUs and {gpus:g} GPUs for a model on {device}: they compute on the same kind of device\n"
            "give gpus_per_worker=0 for a model on the CPU; 1, or a part of 1, for one on CUDA"
        )
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"workers take models on cpu or cuda, not {device}; load it with device='cpu'")
    if on_gpu and device.index:
        raise ModelError(
            f"the model is on {device}, and a worker's own GPU is its cuda:0, where tensors sent from here have to go\n"
            "load it with device='cuda:0'; CUDA_VISIBLE_DEVICES chooses which GPU that is"
        )
    return cpus, gpus


def _check(
    model: Model, workers: int | None, size: tuple[float, float], *, edits: str | Path | None, send_weights: bool
) -> None:
    if workers is not None and workers < 1:
        raise CircuitError(f"{workers} workers; give at least 1, or None for as many as there is room for")
    if not any(size):
        raise CircuitError("workers of no CPU and no GPU have no limit to their number; give cpus_per_worker")
    if model.edits and edits is None and not send_weights:
        raise ModelError(
            f"{model.name} was changed in memory ({model.edits}), and workers read it from its files\n"
            "give edits=folder for stored edits, or send_weights=True to send the weights as they are"
        )


def _cpus(workers: int | None, each: float) -> int | None:
    """Of a cluster started here: as many as the workers ask for, even where there are fewer; they then take turns."""
    there = os.cpu_count() or 1
    return None if workers is None else max(there, int(-(-workers * each // 1)))
