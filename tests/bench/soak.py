"""What `make soak` runs: sweeps of every kind in one process, whose memory must stay flat and whose numbers must not move.

    python tests/bench/soak.py [--sweeps 200] [--architecture gemma2] [--device auto]

Kinds take turns: the residual stream, heads, cells of several positions, paths, completions. After each sweep the resident
memory is read (and CUDA's, where there is one), and the numbers are held against the first of their kind, bit for bit.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import small_models
import tiny
import torch

from circuits.engine import generate_cells, sweep
from circuits.interventions import Ablate, Cell, Patch, ablate_everywhere
from circuits.measure.heads import patch_heads
from circuits.measure.paths import patch_paths
from circuits.measure.residual import patch_residual
from circuits.metrics import RefusalMetric
from circuits.model import Model, load
from circuits.prompts import TokenPairs
from circuits.sites import Site, head

MB = 1 << 20
Kind = Callable[[], bytes]
"""One sweep; its numbers as bytes."""


@dataclass
class Series:
    """Memory in bytes after each sweep, and the sweeps whose numbers were not those of the first of their kind."""

    resident: list[int] = field(default_factory=list)
    cuda: list[int] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

    def grown(self, series: Sequence[int]) -> float:
        """Median of the last quarter less that of the second quarter, in bytes; the first is warming up."""
        n = len(series)
        return statistics.median(series[-(n // 4) :]) - statistics.median(series[n // 4 : n // 2])

    def flat(self, series: Sequence[int], *, share: float = 0.02, least: float = 8 * MB) -> bool:
        """Whether the last quarter lies within `share` of the second, or within `least` bytes."""
        n = len(series)
        return self.grown(series) <= max(least, share * statistics.median(series[n // 4 : n // 2]))


def kinds(model: Model, tokens: TokenPairs) -> dict[str, Kind]:
    """What takes turns."""
    metric = RefusalMetric(model, "w60")
    v = torch.randn(model.shape.d_model, generator=torch.Generator().manual_seed(7))
    layers = range(model.shape.n_layers)
    several: list[Cell] = [
        (
            Patch(head(layer, 1), "all"),
            Patch(Site("mlp_out", layer), "last"),
            Ablate(Site("resid_pre", layer), v, (-1, -2)),
        )
        for layer in layers
    ]
    edits: list[Cell] = [(), ablate_everywhere(v, layers)]
    return {
        "residual": lambda: _bytes(patch_residual(model, tokens, metric).value),
        "heads": lambda: _bytes(patch_heads(model, tokens, metric, direction="noise").value),
        "several positions": lambda: _bytes(sweep(model, tokens, metric, several).value),
        "paths": lambda: _bytes(
            patch_paths(model, tokens, metric, senders=["L0.H1"], receivers=["L2.q[0]", "metric"]).value
        ),
        "generate": lambda: repr(generate_cells(model, tokens, edits, max_new_tokens=4)).encode(),
    }


def soak(made: dict[str, Kind], sweeps: int, *, say: Callable[[str], object] = lambda _: None) -> Series:
    """Run `sweeps` of them in turn."""
    found, first = Series(), dict[str, bytes]()
    names = list(made)
    for i in range(sweeps):
        name = names[i % len(names)]
        numbers = made[name]()
        if first.setdefault(name, numbers) != numbers:
            found.moved.append(f"{name} in sweep {i + 1}")
        found.resident.append(resident())
        if torch.cuda.is_available():
            found.cuda.append(torch.cuda.memory_allocated())
        if (i + 1) % 25 == 0:
            say(f"{i + 1:>6} sweeps {found.resident[-1] / MB:>9.1f} MB")
    return found


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def _bytes(value: torch.Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()


def main() -> int:
    """Soak and tell; 1 where memory grew or a number moved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--architecture", choices=small_models.ARCHITECTURES, default="gemma2")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.sweeps < 20:
        parser.error("--sweeps: give 20 or more; quarters of fewer say nothing")
    folder = str(small_models.folder(args.architecture))
    model = load(folder, device=args.device, tokenizer=tiny.tokenizer())
    start = time.perf_counter()
    found = soak(kinds(model, small_models.uneven()), args.sweeps, say=lambda line: print(line, flush=True))
    print(f"{args.sweeps} sweeps of {args.architecture} on {model.device} in {time.perf_counter() - start:.0f} s")
    good = not found.moved
    print(f"numbers: {'those of the first sweep, bit for bit' if good else 'MOVED: ' + ', '.join(found.moved)}")
    for name, series in {"resident": found.resident, "CUDA": found.cuda}.items():
        if series:
            flat = found.flat(series)
            good &= flat
            low, middle, high = (f(series) / MB for f in (min, statistics.median, max))
            print(f"{name}: {low:.1f} to {high:.1f} MB, median {middle:.1f}; last quarter less second "
                  f"{found.grown(series) / MB:+.2f} MB: {'flat' if flat else 'GROWS'}")  # fmt: skip
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
