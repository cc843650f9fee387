"""Good answers kept on disk, so that a sweep that stopped goes on for free."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, final

from circuits.errors import OutputError
from circuits.judges.rubric import read_answer


def key_of(*asked: object) -> str:
    """The sha256 of everything an answer depends on."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@final
class Answers:
    """Scores by key, in one SQLite file; several threads and processes may write to it. Without a path: in memory.

    It holds hashes and numbers: no prompt, no completion, no secret. Raises OutputError for a file that is none, or that
    holds what no judge answers: such a file was changed, and no row of it can be trusted.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if path is None else Path(path)
        self._seen: dict[str, dict[str, float]] = {}
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open(self._path)) as db, db:
                db.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, scores TEXT NOT NULL)")
                rows = db.execute("SELECT key, scores FROM answers").fetchall()
            self._seen = {key: _scores(key, said) for key, said in rows}
        except (OSError, sqlite3.Error, ValueError) as error:
            raise OutputError(f"cannot keep answers in {self._path}: {error}; choose another file") from error

    def get(self, key: str) -> dict[str, float] | None:
        """The scores kept under a key; None where there are none."""
        return self._seen.get(key)

    def put(self, key: str, scores: Mapping[str, float]) -> None:
        """Keep scores under a key, at once. Raises OutputError where the file cannot be written any more."""
        self._seen[key] = dict(scores)
        if self._path is None:
            return
        try:
            with closing(self._open(self._path)) as db, db:
                db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(self._seen[key])))
        except sqlite3.Error as error:
            raise OutputError(f"cannot keep an answer in {self._path}: {error}; free some space there") from error

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=60)
        # views and triggers of a file from elsewhere get no function with effects
        db.execute("PRAGMA trusted_schema = OFF")
        return db


def _scores(key: Any, said: Any) -> dict[str, float]:
    """The scores of one row, in range. Raises ValueError for anything else."""
    found = read_answer(said) if isinstance(key, str) and isinstance(said, str) else "a row is no text"
    if isinstance(found, str):
        raise ValueError(found)  # noqa: TRY004  the caller tells it as damage of the file
    return found
