"""What computes: cores, threads that wait without spinning, GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from circuits.command.doctor.check import Check

_OMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")


def checks() -> Iterator[Check]:
    """OpenMP's settings, CPU threads, CUDA devices, MPS."""
    yield waiting(cores())
    # From here on as a case would: the checks that compute must not wait for threads that spin.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    yield threads(torch.get_num_threads(), cores())
    yield _cuda()
    mps = torch.backends.mps.is_available()
    found = "there; --device auto does not take it, and no test has run on it" if mps else "none"
    yield Check("mps", "ok", found, details={"available": mps})


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(used: int, available: int) -> Check:
    """Threads of torch against cores."""
    found = f"{available} core{'s' * (available > 1)} to use; torch runs on {used} thread{'s' * (used > 1)}"
    details = {"cores": available, "threads": used}
    if used > available:
        return Check(
            "cpu", "note", found, f"threads without a core of their own wait: OMP_NUM_THREADS={available}", details
        )
    return Check("cpu", "ok", found, details=details)


def waiting(available: int) -> Check:
    """Whether torch's idle threads spin, which takes the core that others need."""
    settings = {name: os.environ.get(name) for name in _OMP}
    found = ", ".join(f"{name}={value}" for name, value in settings.items() if value is not None) or "no setting"
    passive = (settings["OMP_WAIT_POLICY"] or "").upper() == "PASSIVE"
    if available > 1 and settings["OMP_NUM_THREADS"] != "1" and not passive:
        return Check(
            "openmp", "note", f"{found}; idle threads spin",
            "cases set OMP_WAIT_POLICY=PASSIVE themselves; set it before Python starts for notebooks and scripts of your own",
            settings,
        )  # fmt: skip
    return Check("openmp", "ok", found, details=settings)


def _cuda() -> Check:
    import torch

    built = torch.version.cuda
    if not torch.cuda.is_available():
        details: dict[str, object] = {"built": built, "devices": []}
        if built is None:
            return Check("cuda", "ok", "none: this torch is built for the CPU alone", details=details)
        return Check(
            "cuda", "note", f"torch is built for CUDA {built} and sees no device",
            "where there is one: does nvidia-smi list it, is its driver new enough, is CUDA_VISIBLE_DEVICES empty?", details,
        )  # fmt: skip
    devices = [(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in range(torch.cuda.device_count())]
    said = [f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free" for name, free, total in devices]
    found = [{"name": name, "free": free, "total": total} for name, free, total in devices]
    return Check("cuda", "ok", f"CUDA {built}: {'; '.join(said)}", details={"built": built, "devices": found})
