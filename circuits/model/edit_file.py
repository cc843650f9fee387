"""Stored edits, read and distrusted: a folder with `edits.json` (what is done where) and `directions.safetensors`.

    {"format": "circuits edits", "version": 1, "note": "…",
     "model": {"name": "…", "hash": "…", "n_layers": 26, "d_model": 2304},
     "directions_sha256": "…",
     "operations": [{"op": "ablate", "site": "L0.resid_pre", "direction": "t0", "alpha": 1.0, "positions": "all"}]}

Sites are spelled as `Site.label`. The names of the two files are fixed, so that nothing in one can point elsewhere. No
weights are stored, and no code: reading runs nothing. `edits.load_edits` makes interventions of what stands here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard, cast, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import CircuitError, SiteError
from circuits.sites import Site, parse

FORMAT: Final = "circuits edits"
VERSION: Final = 1
OPERATIONS_FILE: Final = "edits.json"
TENSORS_FILE: Final = "directions.safetensors"
OPS: Final[dict[str, tuple[str, str]]] = {
    "ablate": ("direction", "alpha"), "add": ("vector", "scale"), "clamp": ("direction", "value"),
    "rotate": ("plane", "degrees"), "aim": ("plane", "degrees"), "patch": ("value", ""),
}  # fmt: skip
"""Operation -> what its tensor is called, and its number ("" where it has none)."""
RESIDUAL: Final = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "result")
"""Sites whose last axis is d_model."""
MOST_OPERATIONS: Final = 10_000
_LARGEST: Final = {OPERATIONS_FILE: 16 << 20, TENSORS_FILE: 256 << 20}
"""Bytes that are read at most."""
_NAMED: Final = ("all", "last", "subject", "post_subject")
_FLOATS: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@final
@dataclass(frozen=True, eq=False)
class Operation:
    """One stored intervention."""

    op: str
    site: Site
    tensor: Float[Tensor, ...]
    number: float | None
    positions: Any
    """A name, a number, a list of numbers, or {"columns": […]}, as JSON has it; checked."""
    keys: Any

    @property
    def said(self) -> str:
        """`ablate at L9.MLP`."""
        return f"{self.op} at {self.site.label}"


@final
@dataclass(frozen=True, eq=False)
class Stored:
    """What a folder of edits holds, and what it says it was found on."""

    folder: Path
    operations: tuple[Operation, ...]
    model: str
    model_hash: str
    n_layers: int
    d_model: int
    note: str


def read_stored(path: str | Path) -> Stored:
    """Read a folder of edits. Raises CircuitError for whatever is missing, torn, of another format or out of bounds."""
    folder = at_home(path)
    try:
        there = folder.is_dir()
    except OSError as error:  # a name longer than any
        raise CircuitError(f"{_short(str(folder))} cannot be read: {error.strerror or error}") from error
    if not there:
        raise CircuitError(f"{folder} is no folder of edits; give one written by save_edits")
    try:
        text = _bytes(folder, OPERATIONS_FILE).decode("utf-8")
        data = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise CircuitError(f"{folder / OPERATIONS_FILE} is not JSON: {str(error)[:80]}; save the edits again") from None
    where = f"{folder / OPERATIONS_FILE}"
    data = _field({"": data}, "", dict, where)
    if data.get("format") != FORMAT or data.get("version") != VERSION or isinstance(data.get("version"), bool):
        raise CircuitError(
            f"{where}: format {_short(data.get('format'))}, version {_short(data.get('version'))}; this release reads "
            f"{FORMAT!r}, version {VERSION}"
        )
    model = _field(data, "model", dict, where)
    n_layers, d_model = (_count(model, name, where) for name in ("n_layers", "d_model"))
    entries = _field(data, "operations", list, where)
    if not 0 < len(entries) <= MOST_OPERATIONS:
        raise CircuitError(f"{where}: {len(entries)} operations; there must be 1 to {MOST_OPERATIONS}")
    raw = _bytes(folder, TENSORS_FILE)
    if hashlib.sha256(raw).hexdigest() != _field(data, "directions_sha256", str, where):
        raise CircuitError(f"{folder}: {TENSORS_FILE} is not the one that {OPERATIONS_FILE} was written with")
    tensors = _tensors(raw, folder)
    return Stored(
        folder=folder, model=_line(model, "name", where), model_hash=_line(model, "hash", where),
        n_layers=n_layers, d_model=d_model, note=_field(data, "note", str, where),
        operations=tuple(
            _operation(entry, f"{where}: operation {i}", tensors, n_layers, d_model) for i, entry in enumerate(entries)
        ),
    )  # fmt: skip


def at_home(path: str | Path) -> Path:
    """The path with `~` read as the home directory. Raises CircuitError for a user who has none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise CircuitError(f"{path}: {error}; write the folder out") from error


def _bytes(folder: Path, name: str) -> bytes:
    file = folder / name
    try:
        if not file.is_file():
            raise CircuitError(f"{folder}: {name} is missing; edits are a folder written by save_edits")
        if file.resolve().parent != folder.resolve():
            raise CircuitError(f"{file} is a link out of its folder; copy the file there")
        size = file.stat().st_size
        if size > _LARGEST[name]:
            raise CircuitError(f"{file} has {size} bytes; at most {_LARGEST[name]} are read")
        return file.read_bytes()
    except OSError as error:
        raise CircuitError(f"{file} cannot be read: {error.strerror or error}") from error


def _tensors(raw: bytes, folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CircuitError(
            f"{folder / TENSORS_FILE} is no safetensors file: {str(error)[:80]!r}; save the edits again"
        ) from error


def _operation(entry: Any, where: str, tensors: dict[str, Tensor], n_layers: int, d_model: int) -> Operation:
    entry = _field({"": entry}, "", dict, where)
    op = _field(entry, "op", str, where)
    if op not in OPS:
        raise CircuitError(f"{where}: unknown op {_short(op)}; known: {', '.join(OPS)}")
    label = _field(entry, "site", str, where)
    try:
        site = parse(label[:64] if re.fullmatch(r"[\w.\[\]]{1,64}", label, re.ASCII) else "?")
    except SiteError:
        raise CircuitError(
            f"{where}: {_short(label)} is no site; sites are spelled like L9.MLP or L9.resid_pre"
        ) from None
    if site.layer >= n_layers:
        raise CircuitError(f"{where}: {site.label} is beyond the {n_layers} layers of the model named there")
    tensor_name, number_name = OPS[op]
    known = {"op", "site", "positions", tensor_name, *([number_name] if number_name else ["keys"])}
    if entry.keys() - known:
        raise CircuitError(
            f"{where}: {op} takes no {_short(min(entry.keys() - known))}; it takes {', '.join(sorted(known))}"
        )
    name = _field(entry, tensor_name, str, where)
    if name not in tensors:
        raise CircuitError(f"{where}: there is no tensor {_short(name)} in {TENSORS_FILE}")
    tensor = tensors[name]
    _check_tensor(tensor, f"{where}: {tensor_name}", op, d_model if site.kind in RESIDUAL else None)
    number = _number(entry, number_name, where) if number_name else None
    return Operation(
        op, site, tensor, number, _positions(entry.get("positions", "all"), where),
        None if entry.get("keys") is None else _positions(entry["keys"], where),
    )  # fmt: skip


def _check_tensor(t: Tensor, where: str, op: str, d_model: int | None) -> None:
    size = d_model if d_model is not None else t.shape[-1] if t.ndim else 1
    fits = {"rotate": t.shape == (2, size), "aim": t.shape == (2, size), "patch": t.ndim <= 2}
    if t.dtype not in _FLOATS or not t.numel() or not fits.get(op, t.shape == (size,)):
        asked = f"(2, {size})" if op in ("rotate", "aim") else f"({size},)"
        raise CircuitError(f"{where} is {t.dtype} of shape {tuple(t.shape)}; it must be floats of shape {asked}")
    if op == "patch" and d_model is not None and t.ndim and t.shape[-1] != d_model:
        raise CircuitError(f"{where} has shape {tuple(t.shape)}; its last axis must be {d_model}")
    if not t.isfinite().all():
        raise CircuitError(f"{where} is not finite")


def _positions(given: Any, where: str) -> Any:
    numbers = given.get("columns") if isinstance(given, dict) and list(given) == ["columns"] else given
    several = cast("list[Any]", numbers) if isinstance(numbers, list) else []
    if isinstance(numbers, str) and numbers is given and numbers in _NAMED:
        return given
    if (0 < len(several) <= MOST_OPERATIONS and all(map(_whole, several))) or (_whole(numbers) and numbers is given):
        return given
    raise CircuitError(
        f"{where}: positions {_short(given)}; write {', '.join(_NAMED)}, a number, a list of numbers or "
        '{"columns": [numbers]}'
    )


def _whole(n: Any) -> TypeGuard[int]:
    return isinstance(n, int) and not isinstance(n, bool) and abs(n) < 1 << 31


def _number(entry: dict[str, Any], name: str, where: str) -> float:
    given = entry.get(name)
    if isinstance(given, bool) or not isinstance(given, int | float) or not -1e30 <= given <= 1e30:
        raise CircuitError(f"{where}: {name} is {_short(given)}; it must be a finite number")
    return float(given)


def _count(data: dict[str, Any], name: str, where: str) -> int:
    given = data.get(name)
    if not _whole(given) or given < 1:
        raise CircuitError(f"{where}: {name} of the model is {_short(given)}; it must be a whole number of at least 1")
    return given


def _field(data: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if type(data.get(name)) is not kind:
        what = f"{name} is {_short(data.get(name))}" if name else f"{_short(data.get(name))} stands there"
        words = {dict: "an object", list: "a list", str: "text"}
        raise CircuitError(f"{where}: {what}; it must be {words[kind]}")
    return data[name]


def _line(data: dict[str, Any], name: str, where: str) -> str:
    """Text that will stand in a title."""
    text = _field(data, name, str, where)
    if not text.isprintable() or not 0 < len(text) <= 200:
        raise CircuitError(
            f"{where}: {name} of the model is {_short(text)}; it must be one line of at most 200 characters"
        )
    return text


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 63 else "a number of many digits"
    return text if len(text) <= 40 else f"{text[:37]}…"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"{_short(twice)} stands twice in one object")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")
