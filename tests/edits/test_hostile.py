"""Folders of edits that are torn, wrong or hostile give a CircuitError that names the place, and nothing else."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import small_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from circuits.edits import load_edits, save_edits
from circuits.errors import CircuitError
from circuits.interventions import Aim, Clamp, ablate_everywhere
from circuits.linalg import plane
from circuits.model.edit_file import read_stored
from circuits.sites import Site

V, W = (v.clone() for v in torch.randn(2, 32, generator=torch.Generator().manual_seed(9)))
Z = V[:8].clone()


@cache
def _good() -> tuple[dict[str, Any], bytes]:
    cell = (
        *ablate_everywhere(V, range(2)),
        Aim(Site("resid_pre", 1), plane(V, W), 20.0),
        Clamp(Site("q", 1, 0), V[:8], 1.0),
    )
    with TemporaryDirectory() as folder:
        save_edits(folder, cell, model=small_models.model("llama"))
        return json.loads((Path(folder) / "edits.json").read_text()), (
            Path(folder) / "directions.safetensors"
        ).read_bytes()


def _write(folder: Path, data: Any, raw: bytes, *, signed: bool = True) -> Path:
    if signed and isinstance(data, dict):
        data = data | {"directions_sha256": hashlib.sha256(raw).hexdigest()}
    text = data if isinstance(data, str) else json.dumps(data)
    (folder / "edits.json").write_text(text)
    (folder / "directions.safetensors").write_bytes(raw)
    return folder


def _with(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: data | changes


def _first(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: data | {"operations": [data["operations"][0] | changes, *data["operations"][1:]]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: '{"format": ', "is not JSON"),
        (lambda _: "[" * 100_000, "is not JSON"),
        (lambda _: "9" * 10_000, "is not JSON"),
        (lambda _: "[]", "must be an object"),
        (lambda d: json.dumps(d).replace("1.0", "NaN", 1), "NaN is no number"),
        (_with(format="weights"), "format 'weights'"),
        (_with(version=2), "version 2; this release reads"),
        (_with(version=True), "version True"),
        (_with(model=None), "model is None; it must be an object"),
        (_with(model={"name": "m", "hash": "h", "n_layers": 0, "d_model": 32}), "n_layers of the model is 0"),
        (_with(model={"name": "m", "hash": "h", "n_layers": 10**400, "d_model": 32}), "a number of many digits"),
        (_with(model={"name": "m", "hash": "h", "n_layers": 1, "d_model": 32}), "L1.ATTN is beyond the 1 layers"),
        (_with(model={"name": "m", "hash": "h", "n_layers": 2, "d_model": 31}), r"\(32,\); it must be floats of shape \(31,\)"),
        (_with(model={"name": "m\n", "hash": "h", "n_layers": 2, "d_model": 32}), "must be one line"),
        (_with(operations=[]), "0 operations"),
        (_with(operations=[{}] * 10_001), "10001 operations"),
        (_with(operations=[7]), "operation 0: 7 stands there"),
        (_first(op="exec"), "unknown op 'exec'; known: ablate"),
        (_first(site="L0.weights"), "is no site"),
        (_first(site="L" + "9" * 5000 + ".MLP"), "is no site"),
        (_first(site="L٣.MLP"), "is no site"),
        (_first(direction="../../etc/passwd"), "there is no tensor"),
        (_first(direction=["t0"]), "it must be text"),
        (_first(direction="t1"), r"shape \(2, 32\); it must be floats of shape \(32,\)"),
        (_first(file="/etc/passwd"), "ablate takes no 'file'"),
        (_first(alpha="1"), "alpha is '1'"),
        (_first(alpha=10**400), "alpha is a number of many digits"),
        (_first(alpha=True), "alpha is True"),
        (_first(positions="everywhere"), "positions 'everywhere'"),
        (_first(positions=[]), "positions"),
        (_first(positions={"columns": "all"}), "positions"),
        (_first(positions=[1.5]), "positions"),
    ],
)  # fmt: skip
def test_operations_that_are_wrong(change: Any, said: str, tmp_path: Path):
    data, raw = _good()
    with pytest.raises(CircuitError, match=said):
        load_edits(_write(tmp_path, change(data), raw))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "no safetensors file"),
        (pickle.dumps({"t0": [1.0]}), "no safetensors file"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "no safetensors file"),
        (save({"t0": V / 0, "t1": torch.ones(2, 32), "t2": Z}), "not finite"),
        (save({"t0": V.long(), "t1": torch.ones(2, 32), "t2": Z}), "torch.int64 of shape"),
        (save({"t0": 0 * V, "t1": torch.ones(2, 32), "t2": Z}), "no unit vector"),
        (save({"t0": V, "t1": torch.ones(2, 32), "t2": Z}), "two orthonormal rows"),
        (save({"t0": V}), "there is no tensor 't1'"),
    ],
)
def test_directions_that_are_wrong(raw: bytes, said: str, tmp_path: Path):
    with pytest.raises(CircuitError, match=said):
        load_edits(_write(tmp_path, _good()[0], raw))


def test_files_that_do_not_belong_together(tmp_path: Path):
    data, _ = _good()
    with pytest.raises(CircuitError, match="is not the one that edits.json was written with"):
        load_edits(_write(tmp_path, data, save({"t0": W, "t1": plane(V, W), "t2": Z}), signed=False))


def test_files_that_are_not_there(tmp_path: Path):
    for nowhere in (tmp_path / "nowhere", "", "\0", "~nobody-of-this-name/edits"):
        with pytest.raises(CircuitError, match=r"no folder of edits|edits\.json is missing|home directory"):
            load_edits(nowhere)
    with pytest.raises(CircuitError, match="edits.json is missing"):
        load_edits(tmp_path)
    (tmp_path / "edits.json").write_text(json.dumps(_good()[0]))
    with pytest.raises(CircuitError, match="directions.safetensors is missing"):
        load_edits(tmp_path)
    (tmp_path / "directions.safetensors").mkdir()
    with pytest.raises(CircuitError, match="directions.safetensors is missing"):
        load_edits(tmp_path)


def test_a_link_out_of_the_folder(tmp_path: Path):
    inside = tmp_path / "edits"
    inside.mkdir()
    data, raw = _good()
    _write(inside, data, raw)
    (inside / "directions.safetensors").rename(tmp_path / "outside")
    (inside / "directions.safetensors").symlink_to(tmp_path / "outside")
    with pytest.raises(CircuitError, match="a link out of its folder"):
        load_edits(inside)


def test_huge_files_are_not_read(tmp_path: Path):
    data, raw = _good()
    _write(tmp_path, data, raw)
    with (tmp_path / "directions.safetensors").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: takes no room
    with pytest.raises(CircuitError, match="1099511627776 bytes; at most"):
        load_edits(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["t0", "L0.MLP", "all", "aim"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=120)
@given(st.data())
def test_whatever_stands_there_only_a_circuit_error_comes_out(data: st.DataObject):
    """One entry of a good file is replaced by anything, or bytes of either file are."""
    good, raw = _good()
    changed: Any = json.loads(json.dumps(good))
    where: Any = changed if data.draw(st.booleans()) else data.draw(st.sampled_from(changed["operations"]))
    where = changed["model"] if data.draw(st.integers(0, 5)) == 0 else where
    key = data.draw(st.sampled_from(sorted(where)))
    where[key] = data.draw(JSON)
    torn = bytearray(raw)
    for _ in range(data.draw(st.integers(0, 2))):
        torn[data.draw(st.integers(0, len(torn) - 1))] = data.draw(st.integers(0, 255))
    torn = torn[: data.draw(st.integers(0, len(torn)))] if data.draw(st.booleans()) else torn
    with TemporaryDirectory() as folder:
        _write(Path(folder), changed, bytes(torn), signed=key != "directions_sha256")
        try:
            stored = read_stored(folder)
            load_edits(folder)
        except CircuitError:
            return
        assert all(o.tensor.isfinite().all() and o.site.layer < stored.n_layers for o in stored.operations)
