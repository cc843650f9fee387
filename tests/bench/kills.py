"""A case killed at random moments, again and again, and what it finds in the end beside a run left alone.

    make kills                       # 50 kills of `circuits.cases.rotation_plane`
    make kills ARGS="--kills 10 --case single_direction"

Every process is the same command. It is killed by SIGKILL after a time drawn anew, and started again, until it comes to its
end; then in a new folder, until there were enough kills. All files in data/ have to be equal, byte for byte.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--case", default="rotation_plane")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, root = random.Random(args.seed), Path(tempfile.mkdtemp(prefix="kills-"))
    began = time.monotonic()
    _process(args.case, root / "alone").wait()
    whole = time.monotonic() - began
    print(f"left alone: {whole:.1f} s")
    kills, complete, resumed = 0, 0, 0
    folder = root / "0"
    while kills < args.kills:
        process = _process(args.case, folder)
        try:
            code = process.wait(rng.uniform(0.2, 1.1) * whole)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            print(f"kill {kills:>3}  blocks kept: {len(list((folder / 'kept').glob('*.safetensors')))}", flush=True)
            continue
        if code:
            print(f"exit code {code}")
            return 1
        resumed += _blocks_found(folder)
        different = _differences(root / "alone", folder)
        complete += 1
        print(f"complete {complete}, after {kills} kills in all; files that differ: {different or 'none'}", flush=True)
        if different:
            return 1
        folder = root / str(complete)
    print(f"{kills} kills, {complete} runs that came to their end, {resumed} blocks found by them, no file differs")
    return 0


def _process(case: str, out: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", f"circuits.cases.{case}", "--no-images", "--out", str(out)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def _blocks_found(folder: Path) -> int:
    return json.loads((folder / "run.json").read_text())["tries"][-1]["found"]


def _differences(a: Path, b: Path) -> list[str]:
    names = sorted(path.name for folder in (a, b) for path in (folder / "data").iterdir())
    _, mismatch, errors = filecmp.cmpfiles(a / "data", b / "data", sorted(set(names)), shallow=False)
    verdicts = [json.loads((folder / "manifest.json").read_text())["verdicts"] for folder in (a, b)]
    return mismatch + errors + (["verdicts"] if verdicts[0] != verdicts[1] else [])


if __name__ == "__main__":
    sys.exit(main())
