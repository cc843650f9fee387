"""How much memory a sweep takes on top of the model, on gemma-2b's true shape: what is allowed is 1.5 GB.

A process of its own, whose peak is nobody else's. The peak depends on the batch, which follows the free memory, and on
which activations the two runs keep, which are those of every block here; it does not depend on how many cells follow.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from models import Size, random_model, random_pairs
from page import Table, percent, section

from circuits.engine import sweep
from circuits.interventions import Cell, Patch
from circuits.metrics import RefusalMetric
from circuits.sites import HEADED, Site, SiteKind

ALLOWED = 1.5e9
KINDS: tuple[SiteKind, ...] = ("resid_pre", "z", "result", "post")
"""The residual stream is kept anyway; of the others, one of the usual size and the two largest."""
_RESETS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def measure(size: Size, *, dtype: str) -> dict[str, Any]:
    """The table, from a child process."""
    if not (_RESETS.exists() or torch.cuda.is_available()):
        raise SystemExit("memory: this system does not tell a process's peak; measure it on Linux or on a device")
    command = [sys.executable, __file__, json.dumps({"dtype": dtype, "size": asdict(size)})]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    table = Table(["a sweep over every block's", "on top of the model", "of what is allowed"]).head()
    for title, peak in found["peaks"].items():
        table.add(title, f"{peak / 1e9:.2f} GB", percent(peak / ALLOWED))
    return section(size.line, table=table.text, dtype=dtype, weights=f"{found['weights'] / 1e9:.2f} GB")


def _child(size: Size, dtype: str) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = random_model(size, dtype=dtype, device=device)
    tokens, metric = random_pairs(size, model), RefusalMetric(model, "w9")
    run = partial(sweep, model, tokens, metric)
    run(_few(KINDS[0], 1), audited=False)  # what is loaded or allocated once is not a sweep's
    peaks: dict[str, int] = {}
    for kind in KINDS:
        cells = _few(kind, size.layers)
        peaks[kind] = _peak(lambda cells=cells: run(cells, audited=False))
    peaks[f"{KINDS[0]}, certificate included"] = _peak(lambda: run(_few(KINDS[0], size.layers)))
    return {"weights": sum(p.numel() * p.element_size() for p in model.hf.parameters()), "peaks": peaks}


def _few(kind: SiteKind, layers: int) -> list[Cell]:
    """Every block's activation once, so that all are kept, and one cell that is replayed from the difference on."""
    index = 0 if kind in HEADED else None
    return [
        *((Patch(Site(kind, layer, index), "last"),) for layer in range(layers)),
        (Patch(Site(kind, layers - 1, index)),),
    ]  # fmt: skip


def _peak(function: Callable[[], Any]) -> int:
    """Bytes by which memory in use was higher at most, while the function ran, than before it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is given back first, or it would hide what is taken now
    _RESETS.write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("given", type=json.loads, help="dtype and size")
    given = parser.parse_args().given
    print(json.dumps(_child(Size(**given["size"]), given["dtype"])))
