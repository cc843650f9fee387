"""Files that are either there whole or not there: what is written survives a kill at any moment.

1. The text goes to a file of another name in the same folder, and to the disk (fsync).
2. One rename puts it in place; who reads sees the old file or the new one, never a part.

Processes that write the same name at the same time each have a temporary file of their own; the last rename stays.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import socket
from pathlib import Path

from circuits.errors import OutputError

_turn = itertools.count()
PART = ".part"


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file atomically, its folder too where it is missing. Raises OutputError saying what to do."""
    # halves of surrogate pairs come with names of files that are no UTF-8
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    # in containers every process may have one number: a part that a kill left must not stop who comes after
    turn = f"{next(_turn)}{secrets.token_hex(4)}"
    part = path.parent / f".{path.name[:40]}.{_here()}-{os.getpid()}-{turn}{PART}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(_explained(path, error)) from error
    except ValueError as error:  # a NUL in the path, text that is no UTF-8
        raise OutputError(f"cannot write {path}: {error}; choose another name") from error
    return path


def clear_parts(folder: Path) -> None:
    """Remove what writers of this machine left that live no more."""
    for part in folder.glob(f".*{PART}"):
        host, _, rest = part.name.removesuffix(PART).rpartition(".")[2].rpartition("-")[0].rpartition("-")
        if host == _here() and rest.isdigit() and not _alive(int(rest)):
            with contextlib.suppress(OSError):
                part.unlink()


def writable(folder: Path, *, otherwise: str = "choose another folder") -> Path:
    """Make a folder and prove that it can be written. Raises OutputError."""
    probe = folder / f".writing-{_here()}-{os.getpid()}-{next(_turn)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise OutputError(f"cannot write {folder}: {getattr(error, 'strerror', None) or error}; {otherwise}") from error
    return folder


def _explained(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"cannot write {path}: no space left there\n"
            "free some and run the same again: what was finished is kept, the rest is computed"
        )
    return f"cannot write {path}: {error.strerror or error}; choose another folder"


def _here() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum())[:24] or "host"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OSError):
        return True
    return True
