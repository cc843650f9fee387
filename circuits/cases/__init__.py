"""Studies: each asks one question of one model and writes a report. Run one as `python -m circuits.cases.NAME`."""

from __future__ import annotations

import pkgutil


def names() -> list[str]:
    """The cases that can be run."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
