"""What a model must be is said before a sweep; what it costs to be less precise is measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import oracle
import pytest
import small_models
import tiny
import torch
from safetensors.torch import load_file, save_file

from circuits.engine import batches, generate, sweep
from circuits.errors import CircuitError, ModelError, SiteError
from circuits.interventions import Ablate, Add, Clamp, Patch, Rotate
from circuits.metrics import RefusalMetric
from circuits.model import load
from circuits.prompts import PairSet
from circuits.sites import Site, head, neuron

TOKENS = small_models.uneven()
CELLS = [(Patch(Site("mlp_out", layer), "last"),) for layer in range(4)] + [(Patch(head(1, 2), "all"),)]


def _loaded(tmp_path: Path, architecture: str, change: Any) -> Any:
    """A model whose weights were changed on the way from the file, as a damaged download would be."""
    folder = Path(shutil.copytree(small_models.folder(architecture), tmp_path / "damaged"))
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_weight_that_is_no_number_is_named(tmp_path: Path):
    model = load(str(shutil.copytree(small_models.folder("llama"), tmp_path / "m")), device="cpu")
    model.hf.model.layers[2].mlp.up_proj.weight.data[3, 3] = float("nan")
    with pytest.raises(ModelError, match=r"L2\.post is not finite; its weight model\.layers\.2\.mlp\.up_proj\.weight"):
        sweep(model, TOKENS, RefusalMetric(model, "w60"), CELLS)


def test_a_damaged_file_does_not_load(tmp_path: Path):
    def damage(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.self_attn.o_proj.weight"][0, 0] = float("inf")

    with pytest.raises(ModelError):
        load(str(_loaded(tmp_path, "llama", damage)), device="cpu")


def test_a_model_over_two_devices_is_refused(tmp_path: Path):
    model = load(str(shutil.copytree(small_models.folder("llama"), tmp_path / "m")), device="cpu")
    model.hf.model.layers[3].to("meta")
    with pytest.raises(ModelError, match=r"spread over devices \(.* on cpu, model\.layers\.3.* on meta\)"):
        sweep(model, TOKENS, RefusalMetric(model, "w60"), CELLS)


def test_a_tokenizer_that_pads_right_gives_the_same_numbers():
    model, right = small_models.model("llama"), tiny.tokenizer()
    right.padding_side = "right"
    tokens = PairSet.from_pairs(small_models.UNEVEN, name="uneven").tokenize(right)
    metric = RefusalMetric(model, "w60")
    assert torch.equal(sweep(model, tokens, metric, CELLS).value, sweep(model, TOKENS, metric, CELLS).value)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reduced_precision_is_compared_with_the_same_weights_in_fp32(dtype: Any):
    folder = str(small_models.folder("llama"))
    narrow, wide = load(folder, device="cpu", dtype=dtype), load(folder, device="cpu", dtype=dtype)
    before = {name: p.clone() for name, p in narrow.hf.named_parameters()}
    swept = sweep(narrow, TOKENS, RefusalMetric(narrow, "w60"), CELLS)
    assert narrow.dtype == getattr(torch, dtype)
    assert all(torch.equal(p, before[name]) for name, p in narrow.hf.named_parameters())
    assert swept.certificate.dtype == dtype
    assert dtype in swept.certificate.line
    # the same rounded weights, all in fp32: what the certificate compares its sample with
    wide.hf.float()
    exact = sweep(wide, TOKENS, RefusalMetric(wide, "w60"), CELLS)
    largest = (swept.value - exact.value).abs().max().item()
    assert 0 < swept.certificate.from_fp32 <= largest * 1.001
    assert swept.value.dtype == torch.float32


D = torch.ones(32)
WRONG: list[tuple[Any, str]] = [
    (Ablate(Site("resid_pre", 1), torch.ones(31)), r"L1\.resid_pre: direction has shape \(31,\); it must be \(32,\)"),
    (Ablate(head(1, 0), D), r"L1\.H0: direction has shape \(32,\); it must be \(8,\)"),
    (Add(Site("k", 1, 1), torch.ones(4, 8)), r"vector has shape \(4, 8\); it must be \(8,\), or \(5, 8\)"),
    (Clamp(Site("mlp_out", 1), D, torch.ones(3)), r"value has shape \(3,\); it must be \(\), or \(5,\)"),
    (Rotate(Site("post", 1), torch.eye(32)[:2], 9.0), r"plane has shape \(2, 32\); it must be \(2, 48\)"),
    (Add(Site("mlp_out", 1), D / 0), r"vector is not finite"),
    (Patch(Site("v", 1, 2)), r"L1\.v\[2\]: this model has key-value heads 0 to 1"),
    (Patch(Site("q", 1, 4)), r"L1\.q\[4\]: this model has heads 0 to 3"),
    (Patch(neuron(1, 48)), r"L1\.N48: this model has neurons 0 to 47"),
    (Patch(Site("pattern", 1, 0), "last", keys=99), r"99"),
    (Patch(Site("mlp_out", 1), value=torch.tensor(float("nan"))), r"the value to patch is not finite"),
    (Patch(Site("pattern", 1, 0), value=torch.ones(7)), r"a value of shape \(7,\) does not broadcast to \(5, 10, 10\)"),
]


@pytest.mark.parametrize(("intervention", "message"), WRONG, ids=lambda x: "" if isinstance(x, str) else type(x).__name__)
def test_what_does_not_fit_is_said_before_anything_is_run(
    intervention: Any, message: str, monkeypatch: pytest.MonkeyPatch
):
    model = small_models.model("llama")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a forward pass was run")

    monkeypatch.setattr(model.hf, "forward", never)
    with pytest.raises(CircuitError, match=message):
        sweep(model, TOKENS, RefusalMetric(model, "w60"), [(intervention,)])


def test_what_an_architecture_lacks_is_said_with_its_reason():
    model = small_models.model("gpt_neox")
    with pytest.raises(SiteError, match=r"L1\.resid_mid: attention and MLP are parallel here"):
        sweep(model, TOKENS, RefusalMetric(model, "w60"), [(Patch(Site("resid_mid", 1), "last"),)])
    assert "no resid_mid: attention and MLP are parallel" in repr(model)
    assert "no resid_mid" not in repr(small_models.model("llama"))


def test_memory_is_limited_where_it_is_asked_for():
    model = small_models.model("llama")
    free = batches.rows_at_once(model, 5, 10, 4)
    tight = batches.rows_at_once(model, 5, 10, 4, max_memory=300_000)
    assert 1 <= tight < free
    assert batches.rows_at_once(model, 5, 10, 4, max_memory=1) == 1
    metric = RefusalMetric(model, "w60")
    little = sweep(model, TOKENS, metric, CELLS, max_memory=1)
    assert torch.allclose(little.value, sweep(model, TOKENS, metric, CELLS).value, atol=1e-5)


def test_activations_kept_in_parts_give_the_same_numbers():
    model, tokens = small_models.model("gemma2"), TOKENS
    cells = [
        (Patch(Site(kind, layer), where),)
        for where in ("subject", "all")
        for layer in (3, 0, 2, 1)
        for kind in ("post", "result")
    ]
    together, apart = batches.groups_of(model, tokens, cells), batches.groups_of(model, tokens, cells, 60_000)
    assert len(together) == 1
    assert len(apart) > 2
    assert sorted(i for group in apart for i in group) == list(range(len(cells)))
    metric = RefusalMetric(model, "w60")
    whole, parts = (sweep(model, tokens, metric, cells, max_memory=memory) for memory in (None, 60_000))
    assert torch.allclose(whole.value, parts.value, atol=1e-5)
    assert torch.equal(whole.base, parts.base)
    assert parts.certificate.sampled == whole.certificate.sampled
    assert parts.certificate.fired >= whole.certificate.fired


def test_loading_leaves_the_tokenizer_as_it_is(tmp_path: Path):
    plain = tiny.tokenizer()
    plain.bos_token = None
    before = PairSet.from_pairs([("w1 w2", "w1 w3")]).tokenize(plain)
    model = load(str(shutil.copytree(small_models.folder("llama"), tmp_path / "m")), device="cpu", tokenizer=plain)
    assert plain.bos_token is None
    assert torch.equal(PairSet.from_pairs([("w1 w2", "w1 w3")]).tokenize(model).clean, before.clean)


def test_the_embedding_is_in_no_layer():
    with pytest.raises(SiteError, match="the embedding is in no layer"):
        Site("embed", 2)


def test_a_plane_may_be_turned_in_half_precision():
    model = load(str(small_models.folder("llama")), device="cpu", dtype="bfloat16")
    plane = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(0))).Q.mT.contiguous()
    swept = sweep(model, TOKENS, RefusalMetric(model, "w60"), [(Rotate(Site("resid_pre", 2), plane, 60.0),)])
    assert (swept.value[0] - swept.base).abs().max() > 0.05


def test_not_a_number_is_told_with_its_cell():
    model = load(str(small_models.folder("llama")), device="cpu", dtype="float16")
    large = Add(Site("resid_pre", 1), torch.ones(32), "last", 6e4)
    cells = [*CELLS, (large, large)]
    with pytest.raises(CircuitError, match=r"cell 5 \(L1.resid_pre, L1.resid_pre\) gives not-a-number"):
        sweep(model, TOKENS, RefusalMetric(model, "w60"), cells)


def test_one_generated_token_after_a_prompt_of_one_is_not_the_prompt():
    model = small_models.model("llama")
    plain = tiny.tokenizer()
    plain.bos_token = None  # prompts of one token
    tokens = PairSet.from_pairs([("w1", "w3"), ("w2", "w4")]).tokenize(plain)
    assert tokens.n_pos == 1
    edit = Add(Site("resid_pre", 2), 5 * torch.randn(32, generator=torch.Generator().manual_seed(1)), "last")
    found = generate(model, tokens, (edit,), max_new_tokens=3)
    for i, text in enumerate(found):
        ids = tokens.clean[i]
        for _ in range(3):
            change = oracle.formula([0], lambda a: a + edit.vector)
            logits = oracle.run(small_models.raw("llama"), ids, [oracle.Edit("resid_pre", 2, change)])[0]
            ids = torch.cat([ids, logits[-1].argmax()[None]])
        assert text == model.tokenizer.decode(ids[1:], skip_special_tokens=True)
