"""A cell as a folder: operations in JSON that a person can read, directions in safetensors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from torch import Tensor

from circuits.engine.transform import fits
from circuits.errors import OutputError, SiteError
from circuits.interventions import Cell, Columns, Intervention, Patch, Where
from circuits.model import Model
from circuits.model.edit_file import FORMAT, MOST_OPERATIONS, OPERATIONS_FILE, OPS, TENSORS_FILE, VERSION, at_home

_NO_PAIRS: Final = -1
"""A number of pairs that no parameter has: what is one per pair does not fit."""


def save_edits(path: str | Path, cell: Cell, *, model: Model, note: str = "") -> Path:
    """Write `edits.json` and `directions.safetensors` to the folder `path`, made where it is missing; returns it.

    They say on which model (name, hash, layers, width) the edits were found. Read them with `load_edits`. Raises
    SiteError, before anything is written, for what does not fit the model, and for what belongs to one set of prompts and
    cannot stay: patches from another run, parameters that are one per pair. Raises OutputError where the folder cannot be
    written.
    """
    from safetensors.torch import save

    if not 0 < len(cell) <= MOST_OPERATIONS:
        raise SiteError(f"{len(cell)} interventions to store; give 1 to {MOST_OPERATIONS}, e.g. ablate_everywhere(…)")
    kept = _Kept()
    operations = [_operation(i, model, kept) for i in cell]
    raw = save(kept.tensors)
    shape = model.shape
    data: dict[str, Any] = {
        "format": FORMAT, "version": VERSION, "note": note,
        "model": {"name": model.name, "hash": model.hash, "n_layers": shape.n_layers, "d_model": shape.d_model},
        "directions_sha256": hashlib.sha256(raw).hexdigest(), "operations": operations,
    }  # fmt: skip
    folder = at_home(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TENSORS_FILE).write_bytes(raw)
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / OPERATIONS_FILE).write_text(text + "\n", encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise OutputError(f"cannot write edits to {folder}: {error}; choose another folder") from error
    return folder


@final
@dataclass
class _Kept:
    """Every tensor once: a direction ablated at fifty sites is one direction."""

    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    _names: dict[Any, str] = field(default_factory=dict[Any, str])

    def name(self, t: Tensor) -> str:
        t = t.detach().cpu().contiguous().clone()
        key = (t.dtype, tuple(t.shape), t.double().numpy().tobytes())
        if key not in self._names:
            self._names[key] = f"t{len(self._names)}"
            self.tensors[self._names[key]] = t
        return self._names[key]


def _operation(i: Intervention, model: Model, kept: _Kept) -> dict[str, Any]:
    check(i, model)
    op = type(i).__name__.lower()
    tensor_name, number_name = OPS[op]
    entry: dict[str, Any] = {"op": op, "site": i.site.label, tensor_name: kept.name(getattr(i, tensor_name))}
    if number_name:
        entry[number_name] = float(getattr(i, number_name))
    entry["positions"] = _spelled(i.positions)
    if isinstance(i, Patch) and i.keys is not None:
        entry["keys"] = _spelled(i.keys)
    return entry


def check(i: Intervention, model: Model) -> None:
    """Raise SiteError where an intervention does not fit a model, or belongs to the prompts it was made for."""
    model.parts.locate(i.site)
    count = model.shape.count(i.site)
    if i.site.index is not None and not 0 <= i.site.index < count:
        raise SiteError(f"{i.site.label}: this model has {count} there, counted from 0")
    tail = model.shape.tail(i.site, 0)
    if not isinstance(i, Patch):
        fits(i, tail[-1], _NO_PAIRS)
        return
    if i.value is None:
        raise SiteError(f"{i.site.label}: a patch from another run ends with that run; give it a value to keep")
    if i.value.ndim and (i.site.kind == "pattern" or tuple(i.value.shape) != tail):
        asked = "one number" if i.site.kind == "pattern" else f"one number, or of shape {tail}"
        raise SiteError(
            f"{i.site.label}: a value of shape {tuple(i.value.shape)} belongs to its prompts; one that stays is {asked}"
        )
    if not i.value.isfinite().all():
        raise SiteError(f"{i.site.label}: value is not finite")


def _spelled(where: Where) -> Any:
    if isinstance(where, Columns):
        return {"columns": list(where.columns)}
    return where if isinstance(where, str | int) else [int(p) for p in where]
