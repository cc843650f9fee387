"""Pairing is nothing to a mean and something to others; other prompts cost what their own difference costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import small_models
import torch
from oracle import Edit

from circuits.engine import partners
from circuits.errors import AuditError, CircuitError, UndefinedError
from circuits.linalg import cosine
from circuits.measure.prompt_sets import PromptSets, compare, compare_prompt_sets
from circuits.metrics import RefusalMetric
from circuits.prompts import PairSet, TokenPairs
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.instructions import Instruction, InstructionSet

MODEL = small_models.model("llama")


def _texts(n: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[f"w{i}" for i in rng.integers(1, 40, size=rng.integers(3, 7))] for _ in range(n)]


def _pairs(n: int) -> TokenPairs:
    rows = [(" ".join([*t, "w60", "w70"]), " ".join([*t, "w61", "w70"])) for t in _texts(n, 0)]
    return PairSet.from_pairs(rows, name="made up").tokenize(MODEL)


def _others(n: int) -> InstructionTokens:
    said = [
        Instruction(" ".join([*t, "w62", "w70"]), ("harmful", "harmless")[i > 1])
        for i, t in enumerate(_texts(n + 2, 1))
    ]
    return InstructionSet(tuple(said), "others").tokenize(MODEL)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _planted(monkeypatch: Any, both: torch.Tensor, others: torch.Tensor, **given: Any) -> PromptSets:
    """`both`: clean, then corrupt residuals."""
    found = iter([both, others])
    monkeypatch.setattr(compare, "last_residuals", lambda _model, _prompts: next(found))
    return compare_prompt_sets(MODEL, _pairs(len(both) // 2), _others(len(others)), **given)


@pytest.fixture(scope="module")
def planted() -> PromptSets:
    """One concept (δ = 6), content that pairs share (size 3 per coordinate), and others whose wording differs (size 6)."""
    n, d = 40, 60
    content, axes = 3 * _noise(n, 1, d), torch.eye(d)
    clean = content + 6 * axes[0] + 0.3 * _noise(n, 1, d, seed=1)
    corrupt = content + 0.3 * _noise(n, 1, d, seed=2)
    others = 3 * _noise(50, 1, d, seed=3) + 6 * axes[1]
    with pytest.MonkeyPatch.context() as patch:
        return _planted(patch, torch.cat([clean, corrupt]), others, sizes=[20], seeds=12)


def _table(found: PromptSets, size: int) -> Any:
    table = found.to_summary()
    return table[(table["size"] == size) & (table["layer"] == 0)].set_index(["set", "estimator"])


def test_a_mean_does_not_see_the_pairing(planted: PromptSets):
    table = _table(planted, 40)
    for name in ("matched", "shuffled"):
        assert table.loc[(name, "mean"), "cosine"] == pytest.approx(1, abs=1e-12)
        assert table.loc[(name, "mean"), "low"] == pytest.approx(1, abs=1e-12)
    assert planted.identity < 1e-12
    frame = planted.to_frame()
    own, mixed = (
        frame[(frame["estimator"] == "mean") & (frame["set"] == s)]["cosine"].to_numpy()
        for s in ("matched", "shuffled")
    )
    np.testing.assert_allclose(own, mixed, atol=1e-12)


def test_other_estimators_do(planted: PromptSets):
    """Within pairs only concept and noise are left; shuffled, the contents' differences are larger than the concept."""
    table = _table(planted, 40)
    for estimator, loss in (("unit mean", 1e-3), ("first PC", 0.05), ("median", 0.05)):
        assert table.loc[("matched", estimator), "cosine"] > 0.99
        assert table.loc[("shuffled", estimator), "cosine"] < table.loc[("matched", estimator), "cosine"] - loss
        assert table.loc[("shuffled", estimator), "high"] < table.loc[("matched", estimator), "low"]
    # contents 3·√2 per coordinate against a mean of 6: most of the variance is not the concept's
    assert table.loc[("shuffled", "first PC"), "cosine"] < table.loc[("shuffled", "unit mean"), "cosine"]


def test_on_equal_terms_unmatched_prompts_cost_what_their_wording_costs(planted: PromptSets):
    """Matched halves: δ²/(δ² + 60 · .18/20). Others: half noise 18/20 in each of 60 dimensions, and 6 along another axis."""
    table = _table(planted, 20)
    assert table.loc[("matched", "mean"), "cosine"] == pytest.approx(36 / (36 + 60 * 0.18 / 20), abs=0.01)
    expected = 36 / np.sqrt((36 + 60 * 0.18 / 20) * (36 + 36 + 60 * 18 / 20))
    assert table.loc[("unmatched", "mean"), "cosine"] == pytest.approx(expected, abs=0.06)
    loss = planted.loss_frame()
    row = loss[(loss["set"] == "unmatched") & (loss["estimator"] == "mean") & (loss["size"] == 20)].iloc[0]
    gap = table.loc[("matched", "mean"), "cosine"] - table.loc[("unmatched", "mean"), "cosine"]
    assert row["loss"] == pytest.approx(gap, abs=1e-12)
    assert row["low"] > 0
    assert set(table["over"]) == {"subsets"}
    assert planted.used.sum(1).tolist() == list(planted.sizes)


def test_estimators_are_the_slow_ones():
    d = _noise(9, 2, 5)
    made = {name: make(d) for name, make in partners.ESTIMATORS.items()}
    for layer in range(2):
        x = d[:, layer]
        torch.testing.assert_close(made["median"][layer], torch.from_numpy(np.median(x.numpy(), axis=0)))
        torch.testing.assert_close(made["unit mean"][layer], torch.stack([v / v.norm() for v in x]).mean(0))
        first = torch.linalg.svd(x, full_matrices=False).Vh[0]
        assert abs(float(made["first PC"][layer] @ first)) == pytest.approx(1, abs=1e-5)
        assert float(made["first PC"][layer] @ x.mean(0)) > 0
    even = _noise(4, 1, 3)
    torch.testing.assert_close(
        partners.ESTIMATORS["median"](even)[0], torch.from_numpy(np.median(even[:, 0].numpy(), axis=0))
    )


def test_partners_are_whose_they_should_be():
    rng = np.random.default_rng(0)
    for n in (3, 8):
        order = partners.deranged(n, rng)
        assert sorted(order) == list(range(n))
        assert all(i != j for i, j in enumerate(order))
    clean, corrupt = torch.zeros(4, 1, 9), torch.eye(4, 9)[:, None]
    others = torch.eye(9)[4:][:, None]
    made = partners.by_partners(clean, corrupt, others, rng)
    assert made["matched"]["mean"][0, :4].tolist() == [-0.25] * 4
    assert made["unmatched"]["mean"][0, :4].tolist() == [0] * 4
    assert sorted(made["unmatched"]["mean"][0, 4:].tolist()) == [-0.25] * 4 + [0]


@pytest.fixture(scope="module")
def real() -> PromptSets:
    metric = RefusalMetric(MODEL, _rising())
    return compare_prompt_sets(
        MODEL, _pairs(8), _others(9), seeds=3, null_directions=6, metric=metric, layer=2, effect_seeds=2
    )


def _rising() -> str:
    """A token whose logit is higher after the clean prompts: any serves, the model is random."""
    tokens = _pairs(8)
    clean, corrupt = (MODEL.logits(ids, tokens.mask, keep=1)[:, 0] for ids in (tokens.clean, tokens.corrupt))
    gap = ((clean - clean.mean(-1, keepdim=True)) - (corrupt - corrupt.mean(-1, keepdim=True))).mean(0)
    return MODEL.tokenizer.convert_ids_to_tokens(int(gap[4:].argmax()) + 4)


def test_on_a_model_cosines_and_effects_are_the_oracles(real: PromptSets):
    raw, tokens = small_models.raw("llama"), _pairs(8)
    of = MODEL.tokenizer.get_vocab()[_rising()]

    def at(ids: torch.Tensor, i: int) -> torch.Tensor:
        return oracle.run(raw, ids[i][tokens.mask[i]], keep=[("resid_pre", 2)])[1]["resid_pre", 2][-1]

    difference = torch.stack([at(tokens.clean, i) - at(tokens.corrupt, i) for i in range(8)])
    torch.testing.assert_close(real.reference[2].float(), difference.mean(0), atol=1e-5, rtol=1e-4)
    cells = list(zip(real.sets, real.estimators, real.sizes, real.seeds, strict=True))
    half = cells.index(("matched", "unit mean", 4, 1))
    some = real.used[half]
    v = torch.stack([x / x.norm() for x in difference[some]]).mean(0)
    assert real.cosine[half, 2].item() == pytest.approx(cosine(v, difference[~some].mean(0)).item(), abs=1e-5)
    assert real.effect is not None
    assert real.clean is not None
    for i in (0, 5):
        ids = tokens.clean[i][tokens.mask[i]]
        change = oracle.formula(range(len(ids)), oracle.ablated(v))
        edits = [Edit("resid_pre", 0, change), *[Edit(k, n, change) for n in range(4) for k in ("attn_out", "mlp_out")]]
        assert real.effect[half, i].item() == pytest.approx(
            oracle.against_mean(oracle.run(raw, ids, edits)[0][-1], of), abs=5e-5
        )
        assert real.clean[i].item() == pytest.approx(oracle.against_mean(oracle.run(raw, ids)[0][-1], of), abs=5e-5)


def test_effects_are_held_out_where_pairs_are_left(real: PromptSets):
    table = real.effect_summary().set_index(["set", "estimator", "size"])
    assert real.effect is not None
    assert real.clean is not None
    assert real.corrupt is not None
    gap = float((real.clean - real.corrupt).mean())
    whole = table.loc[("matched", "mean", 8)]
    assert (whole["held_out"], whole["n"], whole["seeds"]) == (False, 8, 1)
    cells = [
        c
        for c in range(len(real.sets))
        if (real.sets[c], real.estimators[c], real.sizes[c]) == ("shuffled", "median", 4)
    ]
    removed = ((real.clean - real.effect[cells[:2]]) / gap).double()
    free = ~real.used[cells[:2]]
    by_pair = [removed[free[:, i], i].mean().item() for i in range(8) if free[:, i].any()]
    row = table.loc[("shuffled", "median", 4)]
    assert row["held_out"]
    assert row["n"] == len(by_pair)
    assert row["removed"] == pytest.approx(np.mean(by_pair), abs=1e-6)
    # directions that are one give effects that are one
    assert table.loc[("shuffled", "mean", 8), "removed"] == pytest.approx(whole["removed"], abs=1e-4)


def _caption(figure: Any) -> str:
    return " ".join(a.text for a in figure.layout.annotations if a.text).replace("<br>", " ")


def test_figures_say_what_was_compared(real: PromptSets, planted: PromptSets, says: Callable[..., None]):
    assert real.undefined == (0,)
    for figure in (real.figure(), real.size_figure(2), real.effect_figure()):
        says(figure, MODEL.name)
        assert "a difference of means does not depend on the pairing" in _caption(figure)
    with pytest.raises(UndefinedError, match="no effect was measured"):
        planted.effect_summary()


def test_partners_among_the_others_are_left_out():
    tokens, others = _pairs(6), _others(7)
    known = [Instruction(p.corrupt, "harmless") for p in tokens.pairs][:2]
    both = InstructionSet((*others.instructions, *known), "others").tokenize(MODEL)
    found = compare_prompt_sets(MODEL, tokens, both, seeds=2, null_directions=2)
    assert found.excluded == 2
    assert "2 other prompts left out" in _caption(found.figure())


def test_what_cannot_be_compared_is_refused(monkeypatch: Any):
    pairs, others = _pairs(6), _others(7)
    with pytest.raises(CircuitError, match="5 pairs; give at least 6"):
        compare_prompt_sets(MODEL, _pairs(5), others)
    with pytest.raises(CircuitError, match="4 other harmless prompts for 6 pairs"):
        compare_prompt_sets(MODEL, pairs, _others(4))
    with pytest.raises(CircuitError, match=r"sizes \[6\]: choose 3 to 5"):
        compare_prompt_sets(MODEL, pairs, others, sizes=[6, 3])
    with pytest.raises(CircuitError, match="both a metric and the layer"):
        compare_prompt_sets(MODEL, pairs, others, layer=2)
    with pytest.raises(CircuitError, match="out of range"):
        compare_prompt_sets(MODEL, pairs, others, layer=9, metric=RefusalMetric(MODEL, "w1"))
    with pytest.raises(UndefinedError, match="layer 0 has no direction to ablate"):
        compare_prompt_sets(MODEL, pairs, others, layer=0, metric=RefusalMetric(MODEL, "w1"))
    with monkeypatch.context() as patch, pytest.raises(UndefinedError, match="no direction"):
        _planted(patch, torch.ones(12, 4, 8), torch.ones(7, 4, 8))
    with monkeypatch.context() as patch:
        patch.setitem(partners.ESTIMATORS, "mean", lambda d: d[: len(d) // 2].mean(0))
        with pytest.raises(AuditError, match="pairing otherwise moved"):
            compare_prompt_sets(MODEL, pairs, others, seeds=2)
