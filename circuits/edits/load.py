"""A stored cell, back as interventions, with the model it was found on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from circuits.edits.save import check
from circuits.errors import CircuitError
from circuits.interventions import Ablate, Add, Aim, Cell, Clamp, Columns, Intervention, Patch, Rotate, Where
from circuits.model import Model
from circuits.model.edit_file import Operation, read_stored
from circuits.model.orthogonal import require_size


@final
@dataclass(frozen=True, eq=False)
class Edits:
    """Interventions that were stored, and what they were found on."""

    cell: Cell
    model: str
    """Its name."""
    model_hash: str
    n_layers: int
    d_model: int
    note: str
    differs: str = ""
    """What is different about the model they were loaded for; "" where nothing is, or none was given."""


def load_edits(path: str | Path, model: Model | None = None) -> Edits:
    """Read a folder written by `save_edits`; bit for bit what was saved.

    With a model, its size must be that of the model they were found on, and every site must exist in it; other weights
    are said (a warning, and `differs`), not refused. Raises CircuitError for files that are missing, torn or hostile,
    ModelError for a model of other width or depth, SiteError for a site that it lacks.
    """
    stored = read_stored(path)
    cell = tuple(_intervention(operation, f"{stored.folder}: {operation.said}") for operation in stored.operations)
    differs = ""
    if model is not None:
        require_size(model, stored)
        for i in cell:
            check(i, model)
        if model.hash != stored.model_hash:
            differs = f"found on {stored.model} (hash {stored.model_hash}), used on {model.name} (hash {model.hash})"
            warnings.warn(
                f"{stored.folder}: {differs}: a direction of one model may mean nothing in another", stacklevel=2
            )
    return Edits(cell, stored.model, stored.model_hash, stored.n_layers, stored.d_model, stored.note, differs)


def _intervention(o: Operation, where: str) -> Intervention:
    at, number, t = _where(o.positions), o.number, o.tensor
    try:
        match o.op, number:
            case "patch", _:
                return Patch(o.site, at, t, keys=None if o.keys is None else _where(o.keys))
            case "ablate", float(alpha):
                return _with_direction(Ablate(o.site, t, at, alpha), t)
            case "add", float(scale):
                return Add(o.site, t, at, scale)
            case "clamp", float(value):
                return _with_direction(Clamp(o.site, t, value, at), t)
            case "rotate", float(degrees):
                return Rotate(o.site, t, degrees, at)
            case "aim", float(degrees):
                return Aim(o.site, t, degrees, at)
            case _:
                pass
    except CircuitError as error:
        raise CircuitError(f"{where}: {error}") from error
    raise CircuitError(f"{where}: no such operation")


def _with_direction(i: Any, stored: Any) -> Any:
    """A stored unit vector as it is: normalised again it could differ in the last bit. Any other is normalised."""
    if abs(float(stored.double().norm()) - 1) < 1e-3:
        object.__setattr__(i, "direction", stored)
    return i


def _where(given: Any) -> Where:
    if isinstance(given, dict):
        return Columns(tuple(given["columns"]))
    return tuple(given) if isinstance(given, list) else given
