"""What was computed is kept in a folder, and not computed again: for the length of a context.

    with keep("runs/mine"):
        patch_residual(model, tokens, metric)      # killed? the same lines go on where it stopped

The engine asks block by block (of a sweep's cells, of edges, of circuits, of completions). A block is one file, named
after everything it depends on (identify), written whole or not at all (files): a kill at any moment, a second process at
the same work or an upgrade in between leave nothing wrong behind. A file that does not read back is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from circuits.engine.identify import digest
from circuits.files import clear_parts, writable, write_whole

_PLACE: Final = "kept"
_SUM: Final = "sha256"
_TEXT: Final = "text"


@final
@dataclass
class Kept:
    """A folder of blocks, and how many of them were found there and made since it was opened."""

    folder: Path
    found: int = 0
    made: int = 0

    @property
    def line(self) -> str:
        """One line for who waits."""
        return f"{self.found} blocks found, {self.made} computed"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """A block, or None where it is not there or does not read back as it was written."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load((self.folder / f"{key}.safetensors").read_bytes())
        except (OSError, SafetensorError, ValueError):
            return None
        told = tensors.pop(_SUM, None)
        if told is None or bytes(told.tolist()) != _checksum(tensors):
            return None
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a block. Raises OutputError; what was written before stays."""
        from safetensors.torch import save

        whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        whole[_SUM] = torch.tensor(list(_checksum(whole)), dtype=torch.uint8)
        write_whole(self.folder / f"{key}.safetensors", save(whole))


_kept: ContextVar[Kept | None] = ContextVar("kept", default=None)


@contextmanager
def keep(folder: str | Path) -> Generator[Kept]:
    """Keep what the engine computes within the context, and take from the folder what it holds already.

    Sweeps, paths, circuits and completions are kept; gradients and activations are not (they are few passes).
    Raises OutputError where the folder cannot be written, now or later: what was finished is kept.
    """
    kept = Kept(writable(Path(folder) / _PLACE))
    clear_parts(kept.folder)
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


def keeping() -> Kept | None:
    """Where blocks are kept now; None where they are not."""
    return _kept.get()


def key_of(kind: str, *inputs: object) -> str:
    """The name of a block."""
    return f"{kind}-{digest(kind, *inputs)}"


def recall(kind: str, inputs: Sequence[object], compute: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """A block that is kept, or else computed and kept; computed, where nothing is kept."""
    kept = _kept.get()
    if kept is None:
        return compute()
    key = key_of(kind, *inputs)
    found = kept.get(key)
    if found is not None:
        kept.found += 1
        return found
    made = compute()
    kept.put(key, made)
    kept.made += 1
    return made


def recall_text(kind: str, inputs: Sequence[object], compute: Callable[[], list[str]]) -> list[str]:
    """`recall` of strings."""

    def packed() -> dict[str, Tensor]:
        return {_TEXT: torch.tensor(list(json.dumps(compute()).encode()), dtype=torch.uint8)}

    return json.loads(bytes(recall(kind, inputs, packed)[_TEXT].tolist()))


def _checksum(tensors: Mapping[str, Tensor]) -> bytes:
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name]
        hashed.update(f"{name}{tuple(t.shape)}{t.dtype}".encode())
        if t.numel():
            hashed.update(t.flatten().view(torch.uint8).numpy().data)
    return hashed.digest()
