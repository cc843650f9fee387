"""What `make fuzz` runs: damaged files and texts into every reader; nothing but a value or a CircuitError may come out.

    python tests/bench/fuzz.py [--readers pairs.csv graphml …] [--inputs 100000] [--seed 0] [--keep runs/fuzz]

Where atheris is installed the inputs are guided by coverage of the package, and damage from `hostile.mutate` is its mutator;
elsewhere damage is drawn from the seed alone. Each reader runs in a process of its own. An input that breaks one is kept as a
file, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import atexit
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
ROOM = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  in memory where that is possible


def main() -> int:
    """Fuzz every reader in turn and print the table."""
    args = _arguments()
    if args.one:
        _one(args)
        return 0
    guided = importlib.util.find_spec("atheris") is not None
    print(f"{'guided by coverage (atheris)' if guided else 'drawn from the seed'}; seed {args.seed}", flush=True)
    print(
        f"{'reader':<24}{'inputs':>9}{'accepted':>10}{'refused':>9}{'seconds':>9}{'slowest':>9}{'MB more':>9}",
        flush=True,
    )
    names = args.readers or _names()
    if importlib.util.find_spec("pydot") is None:
        print(f"{'dot':<24}left out: pydot is not installed, and without it nothing of this format is read", flush=True)
    failed = False
    for name in names:
        with tempfile.TemporaryDirectory(dir=ROOM) as work:
            command = [sys.executable, __file__, "--one", name, "--inputs", str(args.inputs), "--seed", str(args.seed)]
            done = subprocess.run([*command, "--work", work], capture_output=True, text=True, check=False)
            told = Path(work) / "tally.json"
            if not told.is_file():
                print(f"{name:<24}ended with {done.returncode}: {done.stderr[-2000:]}", flush=True)
                failed = True
                continue
            row: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
        inputs = row["accepted"] + row["refused"] + row["other"]
        print(f"{name:<24}{inputs:>9,}{row['accepted']:>10,}{row['refused']:>9,}{row['seconds']:>9.0f}{row['slowest']:>9.2f}"
              f"{row['mb']:>9.0f}", flush=True)  # fmt: skip
        failed |= bool(row["broken"]) or inputs < args.inputs
        for number, (what, data) in enumerate(row["broken"].items()):
            args.keep.mkdir(parents=True, exist_ok=True)
            kept = args.keep / f"{name.replace(chr(39), '').replace(' ', '-')}-{number}"
            kept.write_bytes(bytes.fromhex(data))
            print(f"    BROKEN {what}  -> {kept}", flush=True)
    return int(failed)


def _names() -> list[str]:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from hostile.readers import readers; print('\\n'.join(readers()))"
    )
    found = subprocess.run([sys.executable, "-c", code, str(TESTS)], capture_output=True, text=True, check=True)
    return found.stdout.splitlines()


def _one(args: argparse.Namespace) -> None:
    """All inputs of one reader; writes what became of them to `tally.json` when the process ends."""
    sys.path.insert(0, str(TESTS))
    atheris: Any = import_module("atheris") if importlib.util.find_spec("atheris") else None
    if atheris is None:
        module = import_module("hostile.readers")
    else:
        with atheris.instrument_imports(include=["circuits", "json", "csv"]):
            module = import_module("hostile.readers")
    mutated = import_module("hostile.mutate").mutated
    reader, tally, work = module.readers()[args.one], module.Tally(), Path(args.work)
    corpus, room = work / "corpus", work / "room"
    corpus.mkdir()
    room.mkdir()
    for number, seed in enumerate(reader.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
        tally.feed(reader, seed, room)
    if tally.refused or tally.broken:
        raise SystemExit(f"a good input was refused: {tally}")
    before, start = _peak_mb(), time.perf_counter()
    fed = len(reader.seeds)

    def say() -> None:
        row = {
            "accepted": tally.accepted, "refused": tally.refused, "other": fed - tally.accepted - tally.refused,
            "seconds": time.perf_counter() - start, "slowest": tally.slowest, "mb": _peak_mb() - before,
            "broken": {what: data.hex() for what, data in tally.broken.items()},
        }  # fmt: skip
        (work / "tally.json").write_text(json.dumps(row), encoding="utf-8")

    atexit.register(say)
    rng = random.Random(args.seed)
    if atheris is None:
        for _ in range(args.inputs):
            fed += 1
            tally.feed(reader, mutated(rng.choice(reader.seeds), reader.kind, rng), room)
        return

    def one(data: bytes) -> None:
        nonlocal fed
        fed += 1
        tally.feed(reader, data, room)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.2:
            return atheris.Mutate(data, most)
        # half of them from a good input: what coverage keeps is mostly broken already, and seldom read to its end
        near = not data or draw.random() < 0.5
        grown = mutated(draw.choice(reader.seeds) if near else data, reader.kind, draw)
        return grown[:most]

    longest = 4 * max(map(len, reader.seeds)) + 20_000
    flags = [
        f"-atheris_runs={args.inputs}",
        f"-seed={args.seed + 1}",
        f"-max_len={longest}",
        "-timeout=60",
        "-rss_limit_mb=6000",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one, custom_mutator=mutator)
    atheris.Fuzz()


def _peak_mb() -> float:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--readers", nargs="*", help="only these")
    parser.add_argument("--inputs", type=int, default=100_000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where inputs that break a reader go")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
