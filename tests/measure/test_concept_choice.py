"""The chosen direction of a concept is a difference of means, scored by edits that plain forward passes repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import oracle
import pytest
import small_models
import tiny
import torch
from oracle import Edit

from circuits.errors import CircuitError, UndefinedError
from circuits.linalg import random_directions
from circuits.measure.concept_choice import ConceptChoice, choose_concept_direction
from circuits.metrics import RefusalMetric
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.instructions import Instruction, InstructionSet

MODEL, RAW = small_models.model("llama"), small_models.raw("llama")
OF = [f"w{i} w{i + 1} w{i + 2} w{i % 3 + 70} w5" for i in range(10, 17)]
AGAINST = [f"w{i} w{i + 2} w{30 + i} w5" for i in range(20, 26)]
ASIDE = [f"w{i} w3 w5" for i in range(40, 43)]
TEXTS = {"incapable": OF, "harmless": AGAINST, "harmful": ASIDE}


def prompts(**texts: Sequence[str]) -> InstructionTokens:
    """Labels in turn, so that no class stands together."""
    rows = [Instruction(text, label) for label, side in (texts or TEXTS).items() for text in side]
    return InstructionSet(tuple(rows[::2] + rows[1::2]), "mine").tokenize(tiny.tokenizer())


def ids(text: str) -> torch.Tensor:
    return torch.tensor(tiny.tokenizer().encode(text))


def rises() -> str:
    """A word that the model expects more after the concept's prompts than after the others."""
    mean = [torch.stack([oracle.run(RAW, ids(t))[0][-1] for t in side]).mean(0) for side in (OF, AGAINST)]
    word = tiny.tokenizer().convert_ids_to_tokens(int((mean[0] - mean[1])[4:].argmax()) + 4)
    assert isinstance(word, str)
    return word


METRIC = RefusalMetric(MODEL, rises())


@pytest.fixture(scope="module")
def choice() -> ConceptChoice:
    return choose_concept_direction(
        MODEL, prompts(), METRIC, concept=("incapable", "harmless"), max_kl=1.0, max_depth=1.0, null_draws=3
    )


def difference(layer: int) -> torch.Tensor:
    def at(text: str) -> torch.Tensor:
        return oracle.run(RAW, ids(text), keep=[("resid_pre", layer)])[1]["resid_pre", layer][-1]

    return torch.stack([at(t) for t in OF]).mean(0) - torch.stack([at(t) for t in AGAINST]).mean(0)


def ablation(v: torch.Tensor, n: int) -> list[Edit]:
    change = oracle.formula(range(n), oracle.ablated(v))
    written = [Edit(kind, layer, change) for layer in range(4) for kind in ("attn_out", "mlp_out")]
    return [Edit("resid_pre", 0, change), *written]


def mean(texts: Sequence[str], edits: Callable[[int], list[Edit]]) -> float:
    values = [oracle.against_mean(oracle.run(RAW, ids(t), edits(len(ids(t))))[0][-1], METRIC._id) for t in texts]
    return sum(values) / len(values)


def test_candidates_are_differences_of_the_two_classes_alone(choice: ConceptChoice):
    for layer in range(1, 4):
        assert torch.allclose(choice.candidates[layer], difference(layer), atol=1e-5)
    assert torch.equal(choice.direction, choice.candidates[choice.layer])


def test_the_shared_last_token_gives_no_direction(choice: ConceptChoice):
    frame = choice.to_frame().set_index("layer")
    assert frame.loc[0, ["bypass", "induce", "kl"]].isna().all()
    assert not frame.loc[0, "passed"]
    assert frame.loc[1:, ["bypass", "induce", "kl"]].notna().all(axis=None)


def test_scores_are_sweeps_done_by_hand(choice: ConceptChoice):
    for layer in range(1, 4):
        v = difference(layer)
        assert float(choice.bypass[layer]) == pytest.approx(mean(OF, lambda n, v=v: ablation(v, n)), abs=5e-5)

        def added(n: int, v: torch.Tensor = v, layer: int = layer) -> list[Edit]:
            return [Edit("resid_pre", layer, oracle.formula(range(n), lambda a: a + v))]

        assert float(choice.induce[layer]) == pytest.approx(mean(AGAINST, added), abs=5e-5)
        kl = 0.0
        for text in AGAINST:
            row = ids(text)
            p, q = (oracle.run(RAW, row, e)[0][-1].double().log_softmax(-1) for e in ([], ablation(v, len(row))))
            kl += float((p.exp() * (p - q)).sum()) / len(AGAINST)
        assert float(choice.kl[layer]) == pytest.approx(kl, abs=5e-5)
    assert choice.of_metric == pytest.approx(mean(OF, lambda _: []), abs=2e-5)
    assert choice.against_metric == pytest.approx(mean(AGAINST, lambda _: []), abs=2e-5)


def test_the_null_is_random_directions_ablated(choice: ConceptChoice):
    drawn = random_directions(3, 32, seed=0)
    expected = [mean(OF, lambda n, v=v: ablation(v, n)) for v in drawn]
    assert choice.null_bypass.tolist() == pytest.approx(expected, abs=5e-5)
    assert choice.to_frame()["null_bypass"].tolist() == pytest.approx([min(expected)] * 4, abs=5e-5)


def chosen(**knobs: Any) -> ConceptChoice:
    return choose_concept_direction(MODEL, prompts(), METRIC, concept=("incapable", "harmless"), null_draws=1, **knobs)


def test_the_choice_obeys_every_filter(choice: ConceptChoice):
    frame = choice.to_frame()
    open_to = frame.dropna(subset="bypass")
    induces = open_to[open_to["induce"] > choice.against_metric]
    assert len(induces) > 1
    assert choice.layer == int(induces.loc[induces["kl"] <= 1.0].set_index("layer")["bypass"].idxmin())
    # a limit between two candidates' kl leaves the gentler one, whatever it does
    gentle = induces.sort_values("kl")
    between = float(gentle["kl"].iloc[:2].mean())
    assert chosen(max_kl=between, max_depth=1.0).layer == int(gentle["layer"].iloc[0])
    # ⌊0.5 · 4⌋ = 2: layers 0 and 1 alone, of which the first has none
    if 1 in set(induces["layer"]):
        assert chosen(max_kl=100.0, max_depth=0.5).layer == 1
    rejected = {r.filter: r.alone for r in chosen(max_kl=between, max_depth=1.0).selection.rejected}
    assert rejected["finite"] == 1
    assert rejected["kl"] == int((open_to["kl"] > between).sum())
    assert rejected["induce"] == int((open_to["induce"] <= choice.against_metric).sum())


def test_when_everything_is_rejected_the_filters_are_named():
    with pytest.raises(UndefinedError, match=r"none of 3 candidate directions passes: .*kl above 0\.0 .*\n.*max_kl"):
        chosen(max_kl=0.0, max_depth=1.0)
    with pytest.raises(UndefinedError, match=r"layer not below 0\.0 .*\n.*max_depth · n_layers"):
        chosen(max_kl=100.0, max_depth=0.1)


def test_a_metric_that_does_not_rise_with_the_concept_is_refused():
    with pytest.raises(UndefinedError, match="not higher on harmless prompts.*than on incapable ones"):
        choose_concept_direction(MODEL, prompts(), METRIC, concept=("harmless", "incapable"), null_draws=1)


def test_prompts_that_are_the_same_have_no_direction():
    same = prompts(harmful=OF, harmless=[*OF])
    with pytest.raises(UndefinedError, match="same mean residual at every layer"):
        choose_concept_direction(MODEL, same, METRIC)


@pytest.mark.parametrize(
    ("concept", "said"),
    [
        (("harmful", "harmless"), "3 harmful prompts; give at least 6"),
        (("incapable", "incapable"), "against itself"),
        (("incapable", "gibberish"), "0 gibberish"),
    ],
)
def test_classes_that_give_no_direction(concept: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("circuits.measure.concept_choice.last_residuals", lambda *_: pytest.fail("ran"))
    with pytest.raises(CircuitError, match=said):
        choose_concept_direction(MODEL, prompts(), METRIC, concept=concept)


def test_its_figure(choice: ConceptChoice, says: Callable[..., None]):
    says(choice.figure(), MODEL.name)
    names = {trace.name for trace in choice.figure().data}
    assert {"incapable prompts, ablated", "harmless prompts, added"} <= names
