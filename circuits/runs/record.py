"""run.json: what a run was made from, and every try at it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, final, get_args

from circuits.errors import CircuitError, OutputError
from circuits.files import write_whole

NAME: Final = "run.json"
_NAMED: Final = ("model", "device", "dtype", "metric")
Status = Literal["running", "complete", "failed", "stopped"]


@final
@dataclass(frozen=True)
class Try:
    """One process that worked on a run."""

    host: str
    pid: int
    command: str
    started: str
    status: Status = "running"
    ended: str = ""
    seconds: float = 0.0
    found: int = 0
    """Blocks that were kept from before."""
    made: int = 0
    """Blocks that it computed."""
    error: str = ""

    @classmethod
    def now(cls, command: str) -> Try:
        """A try by the process that asks, which begins."""
        return cls(socket.gethostname(), os.getpid(), command, _clock())

    def ending(self, status: Status, seconds: float, found: int, made: int, error: str = "") -> Try:
        """The same, at its end."""
        return replace(
            self, status=status, ended=_clock(), seconds=round(seconds, 3), found=found, made=made, error=error
        )

    @property
    def alive(self) -> bool:
        """Whether its process still runs, as far as this machine can tell."""
        if self.status != "running" or self.host != socket.gethostname() or self.pid == os.getpid():
            return False
        with contextlib.suppress(PermissionError):
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
        return True


@final
@dataclass(frozen=True)
class Record:
    """All that decides a number, each by its content; what does not (times, processes) stands in `tries`."""

    case: str
    model: Mapping[str, str]
    """title, weights (sha256), tokenizer (sha256), dtype, device, edits."""
    prompts: str
    """How many pairs, and the sha256 of their token ids, padding and text."""
    metric: str
    configuration: Mapping[str, Any]
    """Every option that can change a result; the same as a TOML file for --config."""
    files: Mapping[str, str]
    """Option -> sha256 of the file it names."""
    seed: int
    threads: int
    code: str
    packages: Mapping[str, str]
    python: str = field(default_factory=platform.python_version)
    machine: str = field(default_factory=lambda: f"{platform.system()} {platform.machine()}")
    tries: tuple[Try, ...] = ()

    @property
    def status(self) -> Status:
        """That of the last try; a process that is gone was stopped."""
        if not self.tries:
            return "stopped"
        last = self.tries[-1]
        return "stopped" if last.status == "running" and not (last.alive or last.pid == os.getpid()) else last.status

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be equal for two runs to be the same. A path counts by what the file holds."""
        told = asdict(self)
        del told["tries"]
        # what these name is told by its content
        told["configuration"] = {k: v for k, v in self.configuration.items() if k not in (*self.files, *_NAMED)}
        return json.loads(json.dumps(told, sort_keys=True))

    def write(self, folder: Path) -> None:
        """Write run.json, whole. Raises OutputError."""
        told = asdict(self) | {"status": self.status}
        write_whole(folder / NAME, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> Record:
    """Read a folder's run.json. Raises CircuitError where there is none, or it is none."""
    path = folder / NAME
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitError(f"{folder} holds no run: cannot read {NAME} ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise CircuitError(f"{path} is damaged ({error}); run the same command again: its blocks are kept") from error
    try:
        tries = tuple(Try(**entry) for entry in told.pop("tries"))
        told.pop("status", None)
        record = Record(**told, tries=tries)
        _require_kinds(record)
    except (TypeError, KeyError, AttributeError) as error:
        raise CircuitError(f"{path} is no record of a run ({error}); run the same command again") from error
    return record


def read_if_any(folder: Path) -> Record | None:
    """The record, or None where a run was never begun; a damaged one counts as none: the run writes it anew."""
    try:
        return read(folder)
    except CircuitError:
        return None


def size(folder: Path) -> int:
    """Bytes of all files in a folder. Raises OutputError where it cannot be read."""
    try:
        return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError as error:
        raise OutputError(f"cannot read {folder}: {error.strerror or error}") from error


def _require_kinds(record: Record) -> None:
    for name in ("model", "configuration", "files", "packages"):
        if not isinstance(getattr(record, name), dict):
            raise TypeError(f"{name} is not a table")
    for entry in record.tries:
        texts: list[Any] = [entry.host, entry.command, entry.started, entry.status, entry.ended, entry.error]
        numbers: list[Any] = [entry.pid, entry.seconds, entry.found, entry.made]
        if not (all(type(text) is str for text in texts) and all(type(number) in {int, float} for number in numbers)):
            raise TypeError("a try is not one")
        if entry.status not in get_args(Status) or type(entry.pid) is not int or not 0 < entry.pid < 1 << 31:
            raise TypeError(f"a try has the status {entry.status!r} and the process {str(entry.pid)[:20]}")


def _clock() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z")
