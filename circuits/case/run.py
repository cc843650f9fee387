"""A case's run on disk: the folder that follows from its inputs, what is kept there, and how the try ended.

    with Run(args, progress, case="rotation_plane", model=model, tokens=tokens, metric=metric) as run:
        …                                     # run.folder; the engine keeps its blocks there

The same inputs give the same folder. A complete run is opened instead of computed (`Unchanged`), a killed one goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import final

import torch

from circuits.case.config import effective
from circuits.case.progress import Progress
from circuits.case.unchanged import Unchanged
from circuits.engine.identify import code_version, contents
from circuits.engine.kept import Kept, keep
from circuits.files import writable
from circuits.metrics import Metric
from circuits.model import Model
from circuits.model.identity import tokenizer_hash, weights_hash
from circuits.prompts import TokenPairs
from circuits.result import versions
from circuits.runs.record import Record, Status, Try, read_if_any


@final
class Run:
    """A folder, and this process's try at filling it. Raises Unchanged where it is filled, unless --again is given."""

    def __init__(
        self, args: argparse.Namespace, progress: Progress, *, case: str, model: Model, tokens: TokenPairs, metric: Metric
    ) -> None:
        self._args, self._progress, self._stack, self._model = args, progress, ExitStack(), model
        self._record = _record(args, case, model, tokens, metric)
        self.folder = self._place(case, model)
        before = read_if_any(self.folder)
        if args.again:
            shutil.rmtree(self.folder / "kept", ignore_errors=True)
        elif before is not None and before.identity == self._record.identity:
            self._record = replace(self._record, tries=before.tries)
            self._look_back(before)
        self._record = replace(self._record, tries=(*self._record.tries, Try.now(args.command)))
        self._kept: Kept | None = None

    def __enter__(self) -> Run:
        self._began = time.perf_counter()
        self._record.write(self.folder)
        self._kept = self._stack.enter_context(keep(self.folder))
        try:
            self._call_workers()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _call_workers(self) -> None:
        """Have sweeps computed by workers where --ray asks for it."""
        if self._args.ray is None:
            return
        from circuits.remote import ray_workers

        workers = self._stack.enter_context(
            ray_workers(
                self._model, address=None if self._args.ray == "local" else self._args.ray,
                workers=self._args.ray_workers, trust_remote_code=self._args.trust_remote_code,
            )
        )  # fmt: skip
        self._progress.say("workers", workers.line)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stack.close()
        status: Status = "complete" if error is None else "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        kept = self._kept or Kept(self.folder)
        said = "" if error is None else f"{type(error).__name__}: {error}"
        if kept.found:
            self._progress.say("kept", kept.line)
        last = self._record.tries[-1].ending(
            status, time.perf_counter() - self._began, kept.found, kept.made, said[:500]
        )
        self._record = replace(self._record, tries=(*self._record.tries[:-1], last))
        if error is None or self.folder.is_dir():
            self._record.write(self.folder)

    @property
    def record(self) -> Record:
        """What the run is made from."""
        return self._record

    def _place(self, case: str, model: Model) -> Path:
        if self._args.out is not None:
            return writable(Path(self._args.out), otherwise="choose another --out")
        told = json.dumps(self._record.identity, sort_keys=True)
        name = f"{model.name.replace('/', '--')}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
        return writable(Path("runs") / case / name, otherwise="choose another --out")

    def _look_back(self, before: Record) -> None:
        last, index = before.tries[-1] if before.tries else None, self.folder / "index.html"
        wanted = not self._args.no_images and not (self.folder / "figures").is_dir()
        if last is None:
            return
        if before.status == "complete" and index.is_file() and not wanted and self._args.figures is None:
            raise Unchanged(index, last.ended)
        if last.alive:
            self._progress.say("run", f"process {last.pid} is at the same run: both write the same, neither harms the other")
        elif before.status != "complete":
            self._progress.say("run", f"goes on where it {before.status} on {last.started}")


def _record(
    args: argparse.Namespace, case: str, model: Model, tokens: TokenPairs, metric: Metric
) -> Record:
    configuration = effective(args)
    named = {k: Path(v) for k, v in configuration.items() if isinstance(v, str) and k != "model" and Path(v).exists()}
    return Record(
        case=case,
        model={
            "title": model.title, "weights": weights_hash(model), "tokenizer": tokenizer_hash(model.tokenizer),
            "dtype": str(model.dtype).removeprefix("torch."), "device": _device(model), "edits": model.edits,
        },
        prompts=f"{tokens.n_pairs} pairs {contents(tokens)}", metric=f"{metric.name} ({contents(metric)})",
        configuration=configuration, files={k: _of_file(path) for k, path in named.items()},
        seed=args.seed, threads=torch.get_num_threads(), code=code_version(), packages=versions(),
    )  # fmt: skip


def _of_file(path: Path) -> str:
    """Sha256 of a file, or of all files of a folder with their names."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    hashed = hashlib.sha256()
    for file in files:
        data = file.read_bytes()
        hashed.update(f"{file.relative_to(path).as_posix()}:{len(data)}:".encode() + data)
    return hashed.hexdigest()[:16]


def _device(model: Model) -> str:
    if model.device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(model.device)})"
    return model.device.type
