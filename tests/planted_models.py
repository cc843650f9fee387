"""Planted circuits shared by all tests of a session: each written and loaded once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from circuits.model import Model, load
from circuits.organisms import planted
from circuits.prompts import TokenPairs

KINDS = planted.KINDS


@cache
def written(kind: planted.Kind) -> tuple[planted.Truth, Path]:
    """What is known of a circuit, and the folder of its checkpoint; nobody writes there."""
    home = Path(tempfile.mkdtemp(prefix=f"planted-{kind}-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return planted.write(kind, home), home


def truth(kind: planted.Kind) -> planted.Truth:
    return written(kind)[0]


@cache
def model(kind: planted.Kind) -> Model:
    return load(str(written(kind)[1]), device="cpu")


@cache
def tokens(kind: planted.Kind) -> TokenPairs:
    return planted.pairs().tokenize(model(kind))
