"""What an edit costs on harmless text: identities, a slow loop, and the bundled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_models
import tiny
import torch
from oracle import Edit, ablated, formula, run

from circuits.engine.logits import continued
from circuits.errors import CircuitError, SiteError
from circuits.interventions import Ablate, Add, Patch, ablate_everywhere
from circuits.linalg import random_directions
from circuits.measure.capability import MEASURES, CapabilityCost, capability_cost
from circuits.model import load
from circuits.prompts.instructions import Instruction, InstructionSet, diverse_instructions
from circuits.sites import Site

V = torch.randn(32, generator=torch.Generator().manual_seed(5))
SAID = [("w1 w2 w3", "harmless"), ("w4", "harmful"), ("w5 w6 w7 w8 w9", "harmless"), ("w2 w1", "harmless")]
CELLS = {
    "nothing": (),
    "everywhere": ablate_everywhere(V, range(4)),
    "added": (Add(Site("resid_pre", 2), V),),
    "zero": (Patch(Site("mlp_out", 1), value=torch.zeros(32)),),
}
NEW = 4


def edits(name: str, n: int) -> list[Edit]:
    match name:
        case "nothing":
            return []
        case "added":
            return [Edit("resid_pre", 2, formula(range(n), lambda a: a + V))]
        case "zero":
            return [Edit("mlp_out", 1, formula(range(n), torch.zeros_like))]
        case _:
            remove = formula(range(n), ablated(V))
            written = [Edit(kind, layer, remove) for layer in range(4) for kind in ("attn_out", "mlp_out")]
            return [Edit("resid_pre", 0, remove), *written]


def prompts() -> Any:
    return InstructionSet(tuple(Instruction(*said) for said in SAID), "few").tokenize(tiny.tokenizer())


@pytest.fixture(scope="module")
def cost() -> CapabilityCost:
    return capability_cost(small_models.model("gemma2"), prompts(), CELLS, max_new_tokens=NEW)


def test_it_is_a_slow_loop_over_tokens(cost: CapabilityCost):
    hf, harmless = small_models.raw("gemma2"), prompts().only(prompts().labelled("harmless"))
    text = continued(small_models.model("gemma2"), harmless, max_new_tokens=NEW)
    for i in range(3):
        ids, n = text.ids[i][text.mask[i]], int(harmless.mask[i].sum())
        before = run(hf, ids)[0].double().log_softmax(-1)
        for c, name in enumerate(CELLS):
            after = run(hf, ids, edits(name, len(ids)))[0].double().log_softmax(-1)
            kls, ratios = [], []
            for t in range(1, len(ids)):  # <bos> is predicted by nothing
                kls.append(float((before[t - 1].exp() * (before[t - 1] - after[t - 1])).sum()))
                ratios.append(float(before[t - 1, ids[t]] - after[t - 1, ids[t]]))
            assert float(cost.kl[c, i]) == pytest.approx(np.mean(kls), rel=1e-4, abs=1e-7)
            assert float(cost.log_ratio[c, i]) == pytest.approx(np.mean(ratios), rel=1e-4, abs=1e-6)
            assert float(cost.kl_continuation[c, i]) == pytest.approx(np.mean(kls[n - 1 :]), rel=1e-4, abs=1e-7)
            assert float(cost.log_ratio_continuation[c, i]) == pytest.approx(
                np.mean(ratios[n - 1 :]), rel=1e-4, abs=1e-6
            )
        own = [-float(before[t - 1, ids[t]]) for t in range(1, len(ids))]
        assert float(cost.nll[i]) == pytest.approx(np.mean(own), rel=1e-5)
        assert cost.tokens[i] == len(ids) - 1


def test_no_edit_costs_exactly_nothing_and_kl_is_never_negative(cost: CapabilityCost):
    for measure in MEASURES:
        assert (getattr(cost, measure)[0] == 0).all()
    assert (cost.kl >= 0).all()
    assert (cost.kl[1:] > 1e-4).all()


def test_only_harmless_prompts_are_measured(cost: CapabilityCost):
    assert cost.prompts == tuple(text for text, label in SAID if label == "harmless")
    assert len(cost.texts) == 3


@pytest.mark.parametrize("architecture", ["gpt_neox", "qwen3"])
def test_batches_do_not_matter(architecture: str):
    model = small_models.model(architecture)
    whole, apart = (capability_cost(model, prompts(), CELLS, max_new_tokens=NEW, max_memory=m) for m in (None, 1))
    for measure in (*MEASURES, "nll"):
        assert torch.allclose(getattr(whole, measure), getattr(apart, measure), atol=1e-5)


def test_the_null_stands_beside_its_edit(says: Callable[..., None]):
    model = small_models.model("llama")
    drawn = [ablate_everywhere(v, range(4)) for v in random_directions(3, 32, seed=0)]
    both = {"a": CELLS["everywhere"], "b": CELLS["added"]}
    found = capability_cost(model, prompts(), both, null={"a": drawn}, max_new_tokens=NEW)
    assert found.cells == ("a", "b", "null of a #0", "null of a #1", "null of a #2")
    table = found.to_summary().set_index("cell")
    assert list(table.index) == ["a", "b"]
    kl = found.kl.double().numpy()
    assert table.loc["a", "null_kl"] == pytest.approx(kl[2:].mean())
    assert table.loc["a", "null_kl_low"] == pytest.approx(kl[2:].mean(1).min())
    assert table.loc["a", "null_kl_high"] == pytest.approx(kl[2:].mean(1).max())
    assert table.loc["b", "null_draws"] == 0
    assert np.isnan(table.loc["b", "null_kl"])
    assert table.loc["a", "kl_low"] <= table.loc["a", "kl"] <= table.loc["a", "kl_high"]
    assert table.loc["a", "perplexity_ratio"] == pytest.approx(float(found.log_ratio[0].double().mean().exp()))
    frame = found.to_frame()
    assert len(frame) == 15
    assert set(frame["null_of"]) == {"", "a"}
    says(found.figure(), model.name)


def test_a_single_prompt_has_no_interval_and_a_figure(says: Callable[..., None]):
    model = small_models.model("llama")
    one = InstructionSet((Instruction("w1 w2", "harmless"),), "one").tokenize(tiny.tokenizer())
    found = capability_cost(model, one, {"a": CELLS["added"]}, max_new_tokens=NEW)
    assert np.isnan(found.to_summary()["kl_low"]).all()
    says(found.figure(), model.name)


def test_it_is_saved(cost: CapabilityCost, tmp_path: Any):
    path = cost.save(tmp_path)
    assert path.name == "capability_cost.csv"
    assert len(path.read_text().splitlines()) == 1 + 4 * 3


BAD = [
    ({}, {}, "no edits"),
    ({"a": ()}, {"b": [()]}, "null of b"),
    ({"a": (Ablate(Site("resid_pre", 1), V, "last"),)}, {}, "a: L1.resid_pre is edited at 'last'"),
    ({"a": (Patch(Site("mlp_out", 1)),)}, {}, "patched by position"),
    ({"a": (Patch(Site("mlp_out", 1), value=torch.zeros(6, 32)),)}, {}, "patched by position"),
    ({"a": (Ablate(Site("mlp_out", 9), V),)}, {}, "layers 0 to 3"),
    ({"a": ()}, {"a": [(Ablate(Site("mlp_out", 9), V),)]}, "layers 0 to 3"),
]


@pytest.mark.parametrize(("cells", "null", "said"), BAD)
def test_what_is_wrong_is_said_before_anything_runs(
    cells: dict[str, Any], null: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
):
    model = small_models.model("llama")
    monkeypatch.setattr(model.hf, "forward", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(SiteError, match=said):
        capability_cost(model, prompts(), cells, null=null)


def test_there_must_be_harmless_prompts_and_new_tokens():
    model = small_models.model("llama")
    with pytest.raises(CircuitError, match="no prompt is labelled harmless"):
        capability_cost(model, prompts().only(prompts().labelled("harmful")), CELLS)
    with pytest.raises(CircuitError, match="max_new_tokens is 0"):
        capability_cost(model, prompts(), CELLS, max_new_tokens=0)


def test_a_random_direction_of_the_bundled_model_costs_next_to_nothing():
    model = load(device="cpu")
    some = diverse_instructions().of_source("grammar").labelled("harmless")[:12].tokenize(model)
    random = ablate_everywhere(random_directions(1, model.shape.d_model, seed=3)[0], range(model.shape.n_layers))
    stream = (Patch(Site("resid_pre", 4), value=torch.zeros(model.shape.d_model)),)
    found = capability_cost(model, some, {"random": random, "stream": stream}, max_new_tokens=12)
    small, large = found.kl_continuation.mean(1).tolist()
    assert 0 < small < 0.01
    assert large > 1, "without what the first blocks wrote nothing can be known"
    assert found.nll.mean() < 3
