"""Every dose is a loop over prompts, one by one and unpadded; scores that are missing are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, final

import numpy as np
import oracle
import pytest
import small_models
import tiny
import torch
from oracle import Edit

from circuits.errors import CircuitError, UndefinedError
from circuits.judges import SubstringJudge, several
from circuits.judges.judged import Judged
from circuits.linalg import random_directions
from circuits.measure.steering import Dose, Steering, ablations, additions, coefficients, random_ablations, steer
from circuits.metrics import RefusalMetric
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.instructions import Instruction, InstructionSet

V = torch.randn(32, generator=torch.Generator().manual_seed(3))
TEXTS = ["w1 w2 w3 w4", "w5 w6", "w7 w8 w9 w10 w11 w12", "w13 w14 w15"]
NEW = 4
Edits = Callable[[int], list[Edit]]


@cache
def prompts() -> InstructionTokens:
    labels = ["harmful", "harmless", "harmful", "incapable"]
    rows = zip(TEXTS, labels, strict=True)
    return InstructionSet(tuple(Instruction(t, label) for t, label in rows)).tokenize(tiny.tokenizer())


def doses() -> dict[str, tuple[Dose, Edits]]:
    """Edits as doses, and as formulas of a run over n tokens."""

    def everywhere(alpha: float) -> Edits:
        def edits(n: int) -> list[Edit]:
            change = oracle.formula(range(n), oracle.ablated(V, alpha))
            written = [Edit(kind, layer, change) for layer in range(4) for kind in ("attn_out", "mlp_out")]
            return [Edit("resid_pre", 0, change), *written]

        return edits

    def added(scale: float) -> Edits:
        return lambda n: [Edit("resid_pre", 2, oracle.formula(range(n), lambda a: a + scale * 3 * V))]

    made = [*ablations({1: V}, [0.5, 1.0], 4), *additions({2: 3 * V}, [-1.0, 2.0])]
    return {
        d.name: (d, e) for d, e in zip(made, [everywhere(0.5), everywhere(1.0), added(-1.0), added(2.0)], strict=True)
    }


def loop(architecture: str, text: str, edits: Edits) -> tuple[torch.Tensor, str]:
    """Logits at the prompt's last token, and the greedy completion, by whole forward passes."""
    hf, tokenizer = small_models.raw(architecture), tiny.tokenizer()
    ids = torch.tensor(tokenizer.encode(text))
    start, first = len(ids), None
    for _ in range(NEW):
        logits = oracle.run(hf, ids, edits(len(ids)))[0][-1]
        first = logits if first is None else first
        ids = torch.cat([ids, logits.argmax()[None]])
        if ids[-1] == hf.generation_config.eos_token_id:
            break
    assert first is not None
    return first, tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "qwen2"])
def test_every_dose_is_a_loop_over_prompts(architecture: str):
    model, token = small_models.model(architecture), tiny.tokenizer().get_vocab()["w60"]
    made = doses()
    found = steer(model, prompts(), RefusalMetric(model, "w60"), [d for d, _ in made.values()], max_new_tokens=NEW)
    frame = found.to_frame().set_index(["dose", "prompt"])
    for name, edits in [("no edit", lambda _: []), *((name, e) for name, (_, e) in made.items())]:
        for text in TEXTS:
            logits, said = loop(architecture, text, edits)
            row = frame.loc[(name, text)]
            assert row["metric"] == pytest.approx(oracle.against_mean(logits, token), abs=5e-5)
            assert row["completion"] == said
            assert row["change"] == pytest.approx(row["metric"] - frame.loc[("no edit", text), "metric"], abs=1e-6)
    assert found.metric.shape == (4, 4)
    assert found.base.tolist() == pytest.approx(frame.xs("no edit")["metric"].tolist())
    assert len(set(found.completions[-1])) > 1 or found.completions[0] != found.completions[-1]


def test_pairs_are_steered_on_the_side_asked_for():
    model, tokens = small_models.model("llama"), small_models.uneven()
    metric = RefusalMetric(model, "w60")
    dose = ablations({1: V}, [1.0], 4)
    sides = {on: steer(model, tokens, metric, dose, on=on, max_new_tokens=2) for on in ("clean", "corrupt")}
    for on, found in sides.items():
        assert found.prompts == tuple(getattr(p, on) for p in tokens.pairs)
        ids = getattr(tokens, on)
        expected = [
            oracle.against_mean(oracle.run(small_models.raw("llama"), row[mask])[0][-1], metric._id)
            for row, mask in zip(ids, tokens.mask, strict=True)
        ]
        assert found.base.tolist() == pytest.approx(expected, abs=5e-5)
    assert not torch.allclose(sides["clean"].metric, sides["corrupt"].metric)


# --- doses ----------------------------------------------------------------------------------------------------------------


def test_coefficients_are_sorted_numbers_each_once():
    assert coefficients([2, 0.5, 2.0, -1]) == (-1.0, 0.5, 2.0)
    assert coefficients(1) == (1.0,)
    assert coefficients(np.array([1.0, 3.0])) == (1.0, 3.0)


@pytest.mark.parametrize("given", [[], "1", ["1"], [float("nan")], [1, float("inf")], [True], [None], None])
def test_what_is_no_coefficient(given: Any):
    with pytest.raises(CircuitError, match="alphas: .*\ngive one or more numbers"):
        coefficients(given, "alphas")


def test_random_doses_have_no_norm():
    """An ablation of a direction is the same at any norm; what is drawn is a direction, and the seed's own."""
    model, metric = small_models.model("llama"), RefusalMetric(small_models.model("llama"), "w60")
    drawn = random_ablations(2, [1.0], 4, 32, seed=7)
    assert [d.series for d in drawn] == ["random 1", "random 2"]
    assert all(d.layer is None for d in drawn)
    longer = ablations({n: 50 * v for n, v in enumerate(random_directions(2, 32, seed=7))}, [1.0], 4)
    values = steer(model, prompts(), metric, [*drawn, *longer], max_new_tokens=1).metric
    assert torch.allclose(values[:, :2], values[:, 2:], atol=1e-5)
    assert not torch.allclose(values[:, 0], values[:, 1], atol=1e-3)
    other = random_ablations(2, [1.0], 4, 32, seed=8)
    assert not torch.equal(other[0].cell[0].direction, drawn[0].cell[0].direction)


def test_a_vector_that_is_undefined_is_no_dose():
    with pytest.raises(CircuitError, match="vector of layer 3 is not finite"):
        additions({1: V, 3: torch.full((32,), float("nan"))}, [1.0])


@pytest.mark.parametrize(("given", "said"), [([], "doses named nothing"), (2, "doses named direction of layer 1, α 1")])
def test_doses_need_names_of_their_own(given: Any, said: str, monkeypatch: pytest.MonkeyPatch):
    model, metric = small_models.model("llama"), RefusalMetric(small_models.model("llama"), "w60")
    monkeypatch.setattr("circuits.measure.steering.measure.sweep", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(CircuitError, match=said):
        steer(model, prompts(), metric, given if given == [] else ablations({1: V}, [1.0], 4) * given)


# --- judges ---------------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Hiccup:
    """Scores every completion 0.5, but for those that come at some places."""

    lost: Sequence[int]
    name: str = "hiccup"
    scores: tuple[str, ...] = ("good",)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Judged:
        assert len(prompts) == len(completions)
        values = np.array([np.nan if i in self.lost else 0.5 for i in range(len(completions))])
        return Judged({"good": values}, {i: f"lost {i}" for i in self.lost}, cost="3 calls")


def judged(lost: Sequence[int]) -> Steering:
    model = small_models.model("llama")
    both = several(SubstringJudge(), Hiccup(lost))
    some = [*ablations({1: V}, [0.5, 1.0], 4), *random_ablations(1, [1.0], 4, 32)]
    return steer(model, prompts(), RefusalMetric(model, "w60"), some, judge=both, max_new_tokens=2)


def test_missing_scores_are_nan_and_counted():
    found = judged([1, 4, 5])  # one without an edit, two under the first dose
    frame = found.to_frame()
    score = frame["hiccup.good"].to_numpy()
    assert np.flatnonzero(np.isnan(score)).tolist() == [1, 4, 5]
    assert frame.loc[[1, 4, 5], "missing"].tolist() == ["hiccup: lost 1", "hiccup: lost 4", "hiccup: lost 5"]
    assert (frame["missing"] != "").sum() == 3
    table = found.to_summary()
    assert table["missing"].tolist() == [1, 2, 0, 0]
    assert table["hiccup.good"].tolist() == [0.5] * 4, "means are of what was scored, missing ones are no zeros"
    assert found.cost == "hiccup: 3 calls"


def test_ranks_put_doses_without_a_score_last():
    found = judged([4, 5, 6, 7])  # all of the first dose
    table = found.to_summary().set_index("dose")
    assert np.isnan(table.loc[found.doses[0], "hiccup.good"])
    ranked = found.ranked()
    assert ranked["dose"].tolist()[-1] == found.doses[0]
    assert np.isnan(ranked["total"].iloc[-1])
    assert found.ranked("substring.compliance")["total"].notna().all(), "another score is there"
    assert found.best() != 0
    with pytest.raises(UndefinedError, match="no score called nonsense"):
        found.ranked("nonsense")
    with pytest.raises(UndefinedError, match="the judge gave none"):
        judged(range(16)).best()


def test_the_best_is_the_highest_sum():
    found = judged([])
    score = found.score.clone()
    score[:, :, 0] = torch.tensor([0.0, 0.25, 1.0, 0.5], dtype=score.dtype)[:, None]
    score[:, :, 1] = torch.tensor([9.0, 1.0, 0.0, 0.25], dtype=score.dtype)[:, None]
    found = replace(found, score=score)
    assert found.best() == 0, "1.25 over 1 and 0.75; no edit is no dose"
    assert found.best(found.scores[0]) == 1
    assert found.ranked()["dose"].tolist() == [found.doses[i] for i in (0, 1, 2)]


def test_the_share_refused_has_an_interval():
    found = judged([])
    assert not found.refused.any(), "words of this model are none"
    table = replace(found, refused=torch.tensor([[True, False, True, False]] + [[False] * 4] * 3)).to_summary()
    assert table["refused"].tolist() == [0.5, 0, 0, 0]
    assert 0 < table["refused_low"].iloc[0] < 0.5 < table["refused_high"].iloc[0] < 1


def test_its_figures(says: Callable[..., None]):
    found = judged([])
    for value in ("metric", "refused", "substring.compliance"):
        says(found.figure(value), small_models.model("llama").name)
    grid = replace(found, doses=("a", "b", "c"), layers=(1, 2, 1), coefficients=(1.0, 1.0, 2.0), series=("v",) * 3)
    says(grid.figure(), small_models.model("llama").name)
