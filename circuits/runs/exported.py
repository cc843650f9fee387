"""A run as one zip file: its record, results and report; without the blocks, which only its own machine goes on from."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Final

from circuits.errors import OutputError
from circuits.files import write_whole
from circuits.runs.found import Found

_LEFT_OUT: Final = ("kept",)
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def export_run(run: Found, target: Path) -> tuple[Path, int]:
    """Write the zip, whole; returns it and how many files it holds. The same run gives the same bytes.

    Raises OutputError where the file is there already, or cannot be written. Links are not followed.
    """
    if target.exists():
        raise OutputError(f"{target} exists; name another file with --to, or remove it")
    files = sorted(
        path for path in run.folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.relative_to(run.folder).parts[0] not in _LEFT_OUT
        and not path.name.startswith(".")
    )  # fmt: skip
    made = BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            entry = zipfile.ZipInfo(f"{run.id}/{path.relative_to(run.folder).as_posix()}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return write_whole(target, made.getvalue()), len(files)
