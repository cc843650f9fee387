"""Reads the bundled questions for lm-eval, from beside this file: no hub, no cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def _read(name: str) -> Any:
    from datasets import Dataset, DatasetDict

    lines = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return DatasetDict({"test": Dataset.from_list([json.loads(line) for line in lines])})


def harm(**_: object) -> Any:
    """The split `test` of circuits_harm."""
    return _read("harm")


def kinds(**_: object) -> Any:
    """The split `test` of circuits_kinds."""
    return _read("kinds")
