"""What `make bench` runs: measures, prints, and makes docs/benchmark.md.

    python tests/bench [--only sites tricks …] [--sample 12] [--repeats 2] [--out docs/benchmark.md]
    python tests/bench --small [--layers 2]              try it out: nothing is written unless --out says where

Both sides of a ratio are measured in one process, in turn, on the same pairs of the same random model; the other
library is timed on a random sample of its cells, each of which is a forward pass of the same length. Without --only
everything is measured that this machine can and that takes minutes; `memory` (gemma-2b's true shape) has to be asked
for, and `gpu` needs a device. What is not measured stays on the page as it was measured last.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads

import certificate
import generation
import gpu
import growth
import memory
import others
import paths
import sites
import torch
import tricks
from models import GEMMA_2B, SMALL, Size
from page import PAGE, write

TINY_GROWTH = replace(SMALL, layers=2, vocab=500, length=10, differs=4)


def main() -> None:
    """Measure what was asked for, section by section, and make the page."""
    args = _arguments()
    layers = {"layers": args.layers} if args.layers else {}
    size, large = (replace(s, **layers) for s in ((SMALL, SMALL) if args.small else (Size(), GEMMA_2B)))
    grown = replace(TINY_GROWTH if args.small else growth.BASE, **layers)
    sampled = {"sample": args.sample, "repeats": args.repeats}
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "sites": lambda: sites.measure(size, **sampled, only=args.sites),
        "tricks": lambda: tricks.measure(size),
        "growth": lambda: growth.measure(grown, **sampled),
        "others": lambda: others.measure(size, **sampled),
        "paths": lambda: paths.measure(size, **sampled),
        "generation": lambda: generation.measure(size, repeats=args.repeats),
        "audit": lambda: certificate.measure(size, repeats=args.repeats + 1),
        "memory": lambda: memory.measure(large, dtype=args.dtype),
        "gpu": lambda: gpu.measure(large),
    }
    unknown = set(args.only) - set(sections)
    if unknown:
        raise SystemExit(f"--only {', '.join(sorted(unknown))}: the sections are {', '.join(sections)}")
    by_default = [name for name in sections if name != "memory" and (name != "gpu" or torch.cuda.is_available())]
    page = args.out or (None if args.small else PAGE)
    for name in args.only or by_default:
        print(f"\n{name}", flush=True)
        found = sections[name]()
        print(found["about"])
        if page is not None:  # after every section: what took minutes is not lost to what comes after it
            write(page, {name: found}, _command(sys.argv[1:]))


def _command(given: list[str]) -> str:
    """How `make` is told the same, without where the page goes."""
    kept = [a for i, a in enumerate(given) if "--out" not in (a, given[max(0, i - 1)]) and not a.startswith("--out=")]
    return f'make bench ARGS="{shlex.join(kept)}"' if kept else "make bench"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="SECTION", help="sections to measure")
    parser.add_argument("--sites", nargs="+", default=[], help="of the section sites: these sweeps alone")
    parser.add_argument("--sample", type=int, default=12, help="time theirs on this many cells of a sweep (0: all)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side, the fastest of which counts")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32", help="of the section memory")
    parser.add_argument("--small", action="store_true", help="small models, to try it out")
    parser.add_argument("--layers", type=int, default=0, help="another number of blocks")
    parser.add_argument("--out", type=Path, default=None, help="the page; its data goes next to it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
