"""Checkpoints, autoencoders, results and the terminal: what they name or say leads nowhere and steers nothing."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from hostile.test_code import Evil

from circuits.case.progress import Progress
from circuits.errors import CircuitError, ModelError, OutputError
from circuits.files import writable, write_whole
from circuits.measure.residual import patch_residual
from circuits.metrics import RefusalMetric
from circuits.model import load
from circuits.runs.record import Record, Try, read
from circuits.sae.place import resolve_sae

STEERS = "\x1b[2J\x9b31m\u202e\r"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_models.folder("llama"), tmp_path / "model"))


def _refused(folder: Path | str) -> str:
    with pytest.raises(ModelError) as refusal:
        load(str(folder), device="cpu")
    return str(refusal.value)


def _changed(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "shard", ["evil.bin", "../model/model.safetensors", "/etc/passwd", "a/model.safetensors", 3, None]
)
def test_an_index_that_lists_anything_but_safetensors_beside_it(shard: Any, folder: Path, tmp_path: Path):
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "evil.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    weights = {"weight_map": {"lm_head.weight": shard}, "metadata": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    assert "which is no safetensors file beside it and is not read" in _refused(folder)
    assert not (tmp_path / "ran").exists()


def test_an_index_of_shards_is_read(folder: Path):
    model = small_models.raw("llama")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert torch.equal(load(str(folder), device="cpu").W_U, small_models.model("llama").W_U)


def test_an_adapter_is_no_model(folder: Path):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/etc", "peft_type": "LORA"}))
    assert "is an adapter of another model" in _refused(folder)


@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation"])
def test_a_kernel_of_the_hub_is_not_fetched(name: str, folder: Path):
    _changed(folder / "config.json", **{name: "evil/kernel"})
    assert "asks for the kernel 'evil/kernel'" in _refused(folder)


def test_weights_under_another_name_are_not_read(folder: Path):
    _changed(folder / "config.json", transformers_weights="adapter_model.bin")
    assert "names weights of its own" in _refused(folder)


@pytest.mark.parametrize(
    ("name", "data"),
    [("config.json", b"3"), ("config.json", b"[" * 100_000), ("tokenizer.json", b"{}"), ("tokenizer_config.json", b"[]"),
     ("generation_config.json", b"3"), ("model.safetensors.index.json", b"[]")],
)  # fmt: skip
def test_files_of_a_checkpoint_that_are_damaged(name: str, data: bytes, folder: Path):
    (folder / name).write_bytes(data)
    assert "does not load" in _refused(folder)


@pytest.mark.parametrize(
    "change", [{"hidden_size": "x"}, {"num_hidden_layers": -1}, {"num_attention_heads": 0}, {"rope_parameters": 3},
               {"model_type": ["x"]}, {"dtype": "evil"}, {"hidden_act": "__import__"}],
)  # fmt: skip
def test_configurations_that_are_wrong(change: dict[str, Any], folder: Path):
    _changed(folder / "config.json", **change)
    assert "does not load" in _refused(folder) or "has no attention heads" in _refused(folder)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000 + "/y", "~nobody-of-this-name/x", "\0", "a/.."])
def test_names_of_models_and_autoencoders_that_cannot_be(name: str):
    assert len(_refused(name)) < 6000
    with pytest.raises(ModelError):
        resolve_sae(name, None)


@pytest.mark.parametrize("sae_id", ["../other", "/etc", "a/../../other", "x" * 300, "\0"])
def test_ids_of_autoencoders_that_lead_out(sae_id: str, tmp_path: Path):
    (tmp_path / "saes").mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelError, match="no folder inside|has no autoencoder"):
        resolve_sae(str(tmp_path / "saes"), sae_id)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", "..", "nul\0"])  # noqa: S108
def test_a_result_stays_in_its_folder(name: str, tmp_path: Path):
    model = small_models.model("llama")
    resid = patch_residual(model, small_models.even(), RefusalMetric(model, "w60"))
    with pytest.raises(OutputError, match="is no name of a file"):
        resid.save(tmp_path / "in", name=name)
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(OutputError):
        write_whole(tmp_path / "nul\0", "text")
    with pytest.raises(OutputError):
        writable(tmp_path / "nul\0")
    assert write_whole(tmp_path / "name", "caf\udce9").read_bytes() == b"caf\\udce9"


@pytest.mark.parametrize(
    "change", [{"pid": 10**30}, {"pid": -1}, {"pid": 1.5}, {"status": "odd"}, {"status": {}}, {"host": 3}]
)
def test_records_of_runs_that_none_wrote(change: dict[str, Any], tmp_path: Path):
    made = Record("case", {}, "p", "m", {}, {}, 0, 1, "code", {}, tries=(Try.now("x"),))
    made.write(tmp_path)
    assert read(tmp_path).status == "running"
    told = json.loads((tmp_path / "run.json").read_text())
    told["tries"][0] |= change
    (tmp_path / "run.json").write_text(json.dumps(told))
    with pytest.raises(CircuitError, match="is no record of a run"):
        read(tmp_path)


def test_neither_errors_nor_progress_steer_a_terminal(capsys: pytest.CaptureFixture[str]):
    progress = Progress(total=1)
    progress.say("pairs", STEERS)
    progress.step("name", lambda: 1, lambda _: STEERS)
    said = capsys.readouterr().out + str(CircuitError(f"{STEERS}\ntwo lines"))
    assert all(c.isprintable() or c == "\n" for c in said)
    assert "\\x1b[2J" in said
    assert "\ntwo lines" in said
