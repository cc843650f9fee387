"""Runs below a folder, and the one that a few letters name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from circuits.errors import CircuitError
from circuits.runs.record import NAME, Record, read


@final
@dataclass(frozen=True)
class Found:
    """A run's folder and its record, or what is wrong with it."""

    folder: Path
    record: Record | None
    problem: str = ""

    @property
    def id(self) -> str:
        """How it is called in lists: its folder's name."""
        return self.folder.name


def runs_below(root: Path) -> list[Found]:
    """Every run below a folder, the oldest first. Folders are followed three deep, links are not."""
    found: list[Found] = []
    for depth in ("*", "*/*", "*/*/*"):
        for path in root.glob(f"{depth}/{NAME}"):
            if path.parent.is_symlink():
                continue
            try:
                found.append(Found(path.parent, read(path.parent)))
            except CircuitError as error:
                found.append(Found(path.parent, None, str(error)))
    return sorted(found, key=lambda f: (_begun(f), str(f.folder)))


def named(name: str, root: Path) -> Found:
    """The run whose folder this is, or whose id begins or ends so. Raises CircuitError for none, and for several."""
    if (Path(name) / NAME).is_file():
        return Found(Path(name), read(Path(name)))
    every = runs_below(root)
    hits = [f for f in every if f.id == name] or [f for f in every if f.id.startswith(name) or f.id.endswith(name)]
    if len(hits) == 1 and hits[0].record is not None:
        return hits[0]
    if len(hits) == 1:
        raise CircuitError(hits[0].problem)
    if hits:
        listed = "\n".join(f"  {f.folder}" for f in hits)
        raise CircuitError(f"{len(hits)} runs are called {name!r}\n{listed}\ngive more of the id, or the folder")
    raise CircuitError(f"no run {name!r} below {root}; `circuits runs list` shows {len(every)}")


def _begun(found: Found) -> str:
    return found.record.tries[0].started if found.record is not None and found.record.tries else ""
