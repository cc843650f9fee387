"""load() takes what it can prove, and says of everything else what is wrong and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny
import torch
from safetensors.torch import load_file, save_file

from circuits.engine import sweep
from circuits.errors import ModelError
from circuits.interventions import Patch
from circuits.metrics import RefusalMetric
from circuits.model import Model, bundled_models, load
from circuits.sites import Site, head


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_what_is_proved(architecture: str):
    model = small_models.model(architecture)
    exact = {name: value for name, value in model.facts.items() if not name.startswith("smallest")}
    assert set(exact) == {
        "logits against transformer-lens", "residual additivity", "attention rows", "values mixed by patterns",
        "attention without a query or key",
        "logits from the final residual",
    }  # fmt: skip
    assert all(0 <= value <= 1e-5 for value in exact.values())
    assert model.facts["smallest effect of zeroing a site"] > 1e-3
    assert model.origin == "folder"
    assert model.name in model.title


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_sizes_and_raw_logits(architecture: str):
    model, raw = small_models.model(architecture), small_models.raw(architecture)
    shape = model.shape
    assert (shape.n_layers, shape.n_heads, shape.d_model, shape.d_mlp, shape.d_vocab) == (4, 4, 32, 48, 84)
    assert shape.d_head == {"qwen3": 12}.get(architecture, 8)
    assert shape.n_kv_heads == {"gemma": 1, "gpt2": 4, "gpt_neox": 4}.get(architecture, 2)
    assert model.softcap == {"gemma2": 3.0}.get(architecture)
    ids = torch.tensor([[2, 10, 20, 30, 40, 50, 60]])
    with torch.no_grad():
        assert torch.equal(model.logits(ids, torch.ones_like(ids).bool()), raw(ids).logits)
    assert torch.equal(model.W_U, raw.lm_head.weight)
    assert not any(p.requires_grad for p in model.hf.parameters())


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_left_padding_does_not_change_logits(architecture: str):
    model, tokens = small_models.model(architecture), small_models.uneven()
    together = model.logits(tokens.clean, tokens.mask, keep=1)[:, -1]
    for i in range(tokens.n_pairs):
        alone = tokens.clean[i][tokens.mask[i]][None]
        expected = model.logits(alone, torch.ones_like(alone).bool())[0, -1]
        assert torch.allclose(together[i], expected, atol=1e-5)


def test_the_hash_tells_weights_apart(tmp_path: Path):
    other = load(str(tiny.write("gemma", tmp_path / "gemma", seed=1)), device="cpu")
    assert other.hash != small_models.model("gemma").hash
    again = load(str(small_models.folder("gemma")), device="cpu")
    assert again.hash == small_models.model("gemma").hash


def test_precision_is_what_was_asked_for():
    model = load(str(small_models.folder("llama")), device="cpu", dtype="float64")
    assert model.dtype == torch.float64
    ids = torch.tensor([[2, 10, 20, 30]])
    found = model.logits(ids, torch.ones_like(ids).bool())
    expected = small_models.model("llama").logits(ids, torch.ones_like(ids).bool())
    assert torch.allclose(found.float(), expected, atol=1e-5)
    metric, cells = RefusalMetric(model, "w60"), [(Patch(Site("mlp_out", 1), "last"),), (Patch(head(2, 1)),)]
    swept = sweep(model, small_models.even(), metric, cells)  # type: ignore[arg-type]
    assert swept.value.dtype == torch.float32
    assert swept.certificate.oracle <= 1e-6


# --- what does not load ---------------------------------------------------------------------------------------------------


def _copy(architecture: str, to: Path) -> Path:
    return Path(shutil.copytree(small_models.folder(architecture), to / "broken"))


def _refused(name: str | Path, **options: Any) -> str:
    with pytest.raises(ModelError) as refusal:
        load(str(name), device="cpu", **options)
    return str(refusal.value)


def test_an_unknown_name_with_its_near_match():
    text = _refused("gemma-2b-itt")
    assert "'gemma-2b-itt'" in text
    assert "near matches: google/gemma-2b-it" in text
    assert all(name in text for name in bundled_models())


def test_an_empty_name():
    assert "name is empty" in _refused("")
    assert "name is empty" in _refused("  ")


def test_an_empty_folder(tmp_path: Path):
    text = _refused(tmp_path)
    assert str(tmp_path) in text
    assert "config.json is missing" in text


def test_a_file(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is a file" in _refused(tmp_path / "model.safetensors")


def test_no_weights(tmp_path: Path):
    folder = _copy("llama", tmp_path)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in _refused(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin is a pickle and is not read" in _refused(folder)


def test_no_tokenizer(tmp_path: Path):
    folder = _copy("llama", tmp_path)
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in _refused(folder)


def test_a_config_that_is_no_json(tmp_path: Path):
    folder = _copy("llama", tmp_path)
    (folder / "config.json").write_text('{"model_type": ')
    assert "config" in _refused(folder)


def test_a_config_of_nothing_known(tmp_path: Path):
    folder = _copy("llama", tmp_path)
    (folder / "config.json").write_text('{"model_type": "perceptron"}')
    assert "perceptron" in _refused(folder)


def test_weights_cut_short(tmp_path: Path):
    folder = _copy("llama", tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert str(folder) in _refused(folder)


def test_weights_that_lack_a_tensor(tmp_path: Path):
    """Left alone, the missing matrix would be random numbers, and every measurement would run."""
    folder = _copy("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.2.mlp.up_proj.weight" in _refused(folder)


def test_a_tokenizer_that_is_no_json(tmp_path: Path):
    folder = _copy("llama", tmp_path)
    (folder / "tokenizer.json").write_text("{")
    assert str(folder) in _refused(folder)


def test_weights_of_another_size(tmp_path: Path):
    folder = _copy("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    assert str(folder) in _refused(folder)


def test_an_encoder(tmp_path: Path):
    import transformers as hf

    hf.BertForMaskedLM(
        hf.BertConfig(vocab_size=84, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert "BertForMaskedLM: not a decoder-only language model" in _refused(tmp_path)


def test_a_model_without_attention(tmp_path: Path):
    import transformers as hf

    hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=84, hidden_size=16, num_hidden_layers=1, state_size=4)
    ).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert "no attention heads" in _refused(tmp_path)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Connection refused", "the hub is unreachable"),
        ("401 Client Error: gated repo", "it is gated: accept its licence"),
    ],
)
def test_a_hub_id_that_cannot_be_had(message: str, reason: str, monkeypatch: pytest.MonkeyPatch):
    import transformers as hf

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(message)

    monkeypatch.setattr(hf.AutoConfig, "from_pretrained", fail)
    text = _refused("google/gemma-2b-it")
    assert "cannot get google/gemma-2b-it" in text
    assert reason in text
    assert "give the folder" in text


def test_a_device_that_is_not_there():
    with pytest.raises(ModelError, match="device 'cuda:99' is not usable here"):
        load(str(small_models.folder("llama")), device="cuda:99")


def test_a_model_whose_hooks_do_not_bite(tmp_path: Path):
    folder = _copy("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"].zero_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "overwriting L2.post does not change the logits" in _refused(folder)


@pytest.fixture(scope="module")
def bundled() -> Model:
    return load(device="cpu")


def test_the_bundled_model_says_that_it_is_not_gemma(bundled: Model):
    assert "not Gemma" in bundled.title
    assert bundled.origin == "bundled"
    assert bundled.name in bundled_models()
