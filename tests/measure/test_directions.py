"""The chosen direction is the difference of means that a person would compute, scored by edits the oracle repeats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle
import pytest
import small_models
import torch
from oracle import Edit

from circuits.errors import UndefinedError
from circuits.measure.directions import DirectionChoice, choose_direction
from circuits.metrics import RefusalMetric

TOKENS = small_models.even()
MODEL = small_models.model("llama")
RAW = small_models.raw("llama")
TOKEN = MODEL.tokenizer.get_vocab()["w1"]


@pytest.fixture(scope="module")
def choice() -> DirectionChoice:
    return choose_direction(MODEL, TOKENS, RefusalMetric(MODEL, "w1"), max_kl=1.0, folds=3)


def _mean_difference(layer: int, position: int, pairs: list[int]) -> torch.Tensor:
    def at(ids: torch.Tensor) -> torch.Tensor:
        return oracle.run(RAW, ids, keep=[("resid_pre", layer)])[1]["resid_pre", layer][position]

    return torch.stack([at(TOKENS.clean[i]) - at(TOKENS.corrupt[i]) for i in pairs]).mean(0)


def _metric(ids: torch.Tensor, edits: list[Edit]) -> float:
    return oracle.against_mean(oracle.run(RAW, ids, edits)[0][-1], TOKEN)


def _ablation(v: torch.Tensor) -> list[Edit]:
    change = oracle.formula(range(TOKENS.n_pos), oracle.ablated(v))
    return [
        Edit("resid_pre", 0, change),
        *[Edit(k, layer, change) for layer in range(4) for k in ("attn_out", "mlp_out")],
    ]


def test_candidates_are_differences_of_means(choice: DirectionChoice):
    assert choice.positions == (-3, -2, -1)
    for layer in range(4):
        for p, position in enumerate(choice.positions):
            expected = _mean_difference(layer, position, [0, 1, 2])
            assert torch.allclose(choice.candidates[layer, p], expected, atol=1e-5)
    assert torch.equal(choice.direction, choice.candidates[choice.layer, choice.positions.index(choice.position)])


def test_shared_tokens_give_no_direction(choice: DirectionChoice):
    for score in (choice.bypass, choice.induce, choice.kl):
        assert score[0].isnan().all()
        assert score[1:].isfinite().all()
    frame = choice.to_frame()
    assert not frame.loc[frame["layer"] == 0, "passed"].any()


def test_scores_are_the_oracles(choice: DirectionChoice):
    for layer, p in ((1, 0), (2, 2), (3, 1)):
        v = _mean_difference(layer, choice.positions[p], [0, 1, 2])
        bypass = sum(_metric(ids, _ablation(v)) for ids in TOKENS.clean) / 3
        add = Edit("resid_pre", layer, oracle.formula(range(TOKENS.n_pos), lambda a, v=v: a + v))
        induce = sum(_metric(ids, [add]) for ids in TOKENS.corrupt) / 3
        kl = 0.0
        for ids in TOKENS.corrupt:
            p0, p1 = (oracle.run(RAW, ids, e)[0][-1].double().log_softmax(-1) for e in ([], _ablation(v)))
            kl += float((p0.exp() * (p0 - p1)).sum()) / 3
        assert choice.bypass[layer, p].item() == pytest.approx(bypass, abs=2e-5)
        assert choice.induce[layer, p].item() == pytest.approx(induce, abs=2e-5)
        assert choice.kl[layer, p].item() == pytest.approx(kl, abs=2e-5)
    assert choice.clean == pytest.approx(sum(_metric(ids, []) for ids in TOKENS.clean) / 3, abs=1e-5)
    assert choice.corrupt == pytest.approx(sum(_metric(ids, []) for ids in TOKENS.corrupt) / 3, abs=1e-5)


def test_the_best_that_passes_is_chosen(choice: DirectionChoice):
    frame = choice.to_frame()
    passes = (frame["kl"] <= 1.0) & (frame["induce"] > choice.corrupt)
    assert frame["passed"].tolist() == passes.tolist()
    assert 1 < passes.sum() < len(frame)
    best = frame[passes].loc[frame[passes]["bypass"].idxmin()]
    assert best["bypass"] > frame["bypass"].min(), "the filters decide nothing here"
    assert (int(best["layer"]), int(best["pos"])) == (choice.layer, choice.position)
    assert frame["chosen"].sum() == 1
    selection = choice.selection
    assert selection.at == {"layer": choice.layer, "position": choice.position}
    assert [(r.filter, r.alone) for r in selection.rejected] == [
        ("finite", 3), ("kl", int((frame["kl"] > 1.0).sum())), ("induce", int((frame["induce"] <= choice.corrupt).sum())),
    ]  # fmt: skip
    assert len(selection.survivors) == passes.sum()


def test_held_out_directions_do_not_see_their_pair(choice: DirectionChoice):
    for i in range(3):
        others = _mean_difference(choice.layer, choice.position, [j for j in range(3) if j != i])
        assert torch.allclose(choice.held_out[i], others, atol=1e-5)


def test_the_null_ablates_random_directions(choice: DirectionChoice):
    from circuits.linalg import random_directions

    v = random_directions(10, 32, seed=0)[4]
    expected = sum(_metric(ids, _ablation(v)) for ids in TOKENS.clean) / 3
    assert choice.null_bypass[4].item() == pytest.approx(expected, abs=2e-5)


def test_its_figure(choice: DirectionChoice, says: Callable[..., None]):
    says(choice.figure(), MODEL.name)


def test_when_none_passes_the_filters_are_named():
    with pytest.raises(
        UndefinedError, match=r"none of 9 candidate directions passes: 9 have kl above 0\.0 .*\n.*max_kl"
    ):
        choose_direction(MODEL, TOKENS, RefusalMetric(MODEL, "w1"), max_kl=0.0, null_draws=1)


def test_prompts_that_are_the_same_have_none():
    from circuits.prompts import TokenPairs

    fields: dict[str, Any] = {**vars(TOKENS), "corrupt": TOKENS.clean}
    with pytest.raises(UndefinedError, match="agree at every position"):
        choose_direction(MODEL, TokenPairs(**fields), RefusalMetric(MODEL, "w1"))


def test_a_metric_that_falls_with_the_behaviour_is_refused():
    with pytest.raises(UndefinedError, match="not higher on the clean prompts"):
        choose_direction(MODEL, TOKENS, RefusalMetric(MODEL, "w73"), null_draws=1)


def test_one_pair_leaves_nothing_to_hold_out():
    one = choose_direction(MODEL, TOKENS.select([1]), RefusalMetric(MODEL, "w72"), max_kl=10.0, null_draws=1)
    assert one.held_out.isnan().all()
