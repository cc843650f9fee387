"""A case's run on disk: the folder that follows from its inputs, what is kept there, and how the try ended.

    with Run(args, progress, case="rotation_plane", model=model, tokens=tokens, metric=metric) as run:
        …                                     # run.folder; the engine keeps its blocks there

The same inputs give the same folder. A complete run is opened instead of computed (`Unchanged`), a killed one goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch

from circuits.case.config import NAMES_OR_PATHS, PATHS, effective
from circuits.case.progress import Progress
from circuits.case.unchanged import Unchanged
from circuits.engine.generate import ends
from circuits.engine.identify import code_version, contents
from circuits.engine.kept import Kept, keep
from circuits.errors import OutputError
from circuits.files import writable
from circuits.judges.endpoint import MODEL, URL
from circuits.metrics import Metric
from circuits.model import Model
from circuits.model.identity import tokenizer_hash, weights_hash
from circuits.prompts import TokenPairs
from circuits.report.folder import NOT_ASKED
from circuits.result import versions
from circuits.runs.record import Record, Status, Try, read_if_any

_COMPUTE_TOO = ("numpy", "scipy", "scikit-learn", "pandas", "tokenizers", "sae-lens", "lm-eval")
"""Packages that results depend on besides those that every result names."""


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
        same = before is not None and before.identity == self._record.identity
        if before is not None and same:
            self._record = replace(self._record, tries=before.tries)
        elif before is not None:
            self._take_over(before)
        if args.again:
            self._forget()
        elif before is not None and same:
            self._look_back(before)
        self._record = replace(self._record, tries=(*self._record.tries, Try.now(vars(args).get("command", ""))))
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

    def _take_over(self, before: Record) -> None:
        """Clear what another run left in a folder named by --out. Raises OutputError where it is still at work."""
        if before.tries and before.tries[-1].alive:
            raise OutputError(
                f"{self.folder}: process {before.tries[-1].pid} writes another run there; choose another --out, or wait"
            )
        results = (p for p in (self.folder / "data").glob("*") if p.suffix in (".csv", ".safetensors", ".json"))
        for left in (*results, *(self.folder / name for name in ("index.html", "report.json"))):
            left.unlink(missing_ok=True)

    def _forget(self) -> None:
        """Remove all kept blocks. Raises OutputError where one stays: it would be read back."""
        for block in (self.folder / "kept").glob("*.safetensors"):
            try:
                block.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"cannot remove {block}: {error.strerror}; choose another --out") from error

    def _whole(self) -> bool:
        """Whether results, all files of the report and the pictures asked for are there."""
        try:
            told: Any = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
            listed, images = [str(name) for name in told["files"]], str(told["images"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        wanted = not self._args.no_images and images == NOT_ASKED
        there = all((self.folder / name).is_file() for name in listed)
        return there and not wanted and any((self.folder / "data").glob("*.csv"))

    def _look_back(self, before: Record) -> None:
        last, index = before.tries[-1] if before.tries else None, self.folder / "index.html"
        if last is None:
            return
        asks = getattr(self._args, "judge", False)  # an endpoint that did not answer is asked again; answers are kept
        if before.status == "complete" and self._whole() and self._args.figures is None and not asks:
            raise Unchanged(index, last.ended)
        if last.alive:
            self._progress.say("run", f"process {last.pid} is at the same run: both write the same, neither harms the other")
        elif before.status != "complete":
            self._progress.say("run", f"goes on where it {before.status} on {last.started}")


def _record(
    args: argparse.Namespace, case: str, model: Model, tokens: TokenPairs, metric: Metric
) -> Record:
    configuration = effective(args)
    if configuration.get("judge"):  # another judge gives other scores
        configuration |= {name.lower(): os.environ.get(name, "") for name in (URL, MODEL)}
    paths = {k: configuration.get(k) for k in (*PATHS, *NAMES_OR_PATHS) if k != "model"}
    named = {k: Path(v) for k, v in paths.items() if isinstance(v, str) and Path(v).exists()}
    return Record(
        case=case,
        model={
            "title": model.title, "weights": weights_hash(model), "tokenizer": tokenizer_hash(model.tokenizer),
            "dtype": str(model.dtype).removeprefix("torch."), "device": _device(model), "edits": model.edits,
            "replies end with": " ".join(map(str, ends(model))),
        },
        prompts=f"{tokens.n_pairs} pairs {contents(tokens)}", metric=f"{metric.name} ({contents(metric)})",
        configuration=configuration, files={k: _of_file(path) for k, path in named.items()},
        seed=args.seed, threads=torch.get_num_threads(), code=code_version(), packages=versions(_COMPUTE_TOO),
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
