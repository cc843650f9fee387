"""The incapability case on few prompts: angles, edits and refusals are those that a person would compute."""

from __future__ import annotations

import math

import case_runs as runs
import oracle
import pytest
import torch
from case_runs import Run, texts
from safetensors.torch import load_file

from circuits.cases.incapability.words import GRAMMAR
from circuits.refusal import is_refusal
from circuits.sae import bundled_saes
from circuits.sae.library import installed

MODEL = "refusal-qwen2"
CONCEPTS = {"refusal": "harmful", "incapability": "incapable"}


@pytest.fixture(scope="module")
def done() -> Run:
    return runs.finished("incapability")


def test_angles_between_two_differences_of_means(done: Run):
    table = done.table("angles").set_index("layer")
    for layer in (1, 4, 7):
        first, second = (
            runs.mean_difference(MODEL, texts(done, of, 1), texts(done, "harmless", 1), layer).double()
            for of in CONCEPTS.values()
        )
        cosine = float(first @ second / first.norm() / second.norm())
        assert table.loc[layer, "cosine"] == pytest.approx(cosine, abs=1e-5)
        assert table.loc[layer, "angle"] == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-3)
    assert math.isnan(table.loc[0, "angle"])
    assert table.loc[0, "verdict"] == "undefined", "the last token is the same in every prompt"
    assert f"Entering layer 1 {table.loc[1, 'angle']:.1f}°" in done.claim("angles")


@pytest.mark.parametrize("name", list(CONCEPTS))
def test_directions_are_chosen_on_one_half_by_ablating_them(done: Run, name: str):
    of, kept = CONCEPTS[name], load_file(done.out / "data" / f"choice_{name}.safetensors")
    frame = done.data(f"choice_{name}")
    (layer,) = frame.loc[frame["chosen"], "layer"]
    expected = runs.mean_difference(MODEL, texts(done, of, 0), texts(done, "harmless", 0), layer)
    assert torch.allclose(kept["candidates"][layer], expected, atol=1e-3)
    token = runs.raw(MODEL)[1].get_vocab()["I"]
    edits = runs.ablated(MODEL, expected, 1.0)
    bypass = [oracle.against_mean(runs.logits(MODEL, text, edits), token) for text in texts(done, of, 0)]
    assert float(kept["bypass"][layer]) == pytest.approx(sum(bypass) / len(bypass), abs=1e-3)


@pytest.mark.parametrize("label", list(CONCEPTS.values()))
def test_ablated_on_prompts_of_the_other_half(done: Run, label: str):
    frame = done.data(f"steering_{label}")
    token = runs.raw(MODEL)[1].get_vocab()["I"]
    for name in CONCEPTS:
        choice = load_file(done.out / "data" / f"choice_{name}.safetensors")
        rows = frame[(frame["series"] == name) & (frame["coefficient"] == 1.5)]
        assert rows["prompt"].tolist() == texts(done, label, 1)
        edits = runs.ablated(MODEL, choice["candidates"][int(rows["layer"].iloc[0])], 1.5)
        for _, row in rows.iloc[:2].iterrows():
            expected = oracle.against_mean(runs.logits(MODEL, row["prompt"], edits), token)
            assert row["metric"] == pytest.approx(expected, abs=1e-3)
            assert row["completion"] == runs.says(MODEL, row["prompt"], edits)


@pytest.mark.parametrize("label", list(CONCEPTS.values()))
def test_refusals_are_those_of_the_completions(done: Run, label: str):
    frame, table = done.data(f"steering_{label}"), done.table(f"steering-{label}").set_index("dose")
    share = frame.assign(told=frame["completion"].map(is_refusal)).groupby("dose")["told"].mean()
    assert share.to_dict() == pytest.approx(table["refused"].to_dict())
    ruled = {v["hypothesis"]: v for v in done.manifest["verdicts"]}
    for name, own in CONCEPTS.items():
        verb = "removes" if own == label else "spares"
        numbers = ruled[f"the {name} direction {verb} “no” to {label} prompts"]["numbers"]
        dose = next(d for d in table.index if d.startswith(f"{name} of layer") and d.endswith("α 1.5"))
        assert numbers.startswith(f"still says no at α 1.5 {share[dose]:.2f}")


def test_page_completions_carry_their_verdict(done: Run):
    assert {refused for _, _, refused, _ in done.completions} == {True, False}
    for _, setting, refused, text in done.completions:
        assert refused == is_refusal(text), setting
    assert {text for text, *_ in done.completions} == {
        t for label in CONCEPTS.values() for t in texts(done, label, 1)[:4]
    }


def test_words_are_followed_at_the_first_position(done: Run):
    """p of a set is the probability that the reply begins with one of its words, with or without a space before it."""
    frame = done.data("words")
    tokenizer = runs.raw(MODEL)[1]
    rows = frame[(frame["cell"] == "unedited") & (frame["set"] == "capability")]
    asked = [*texts(done, "harmful", 1), *texts(done, "incapable", 1)]
    assert len(rows) == len(asked)
    spelled = [space + word for word in GRAMMAR["capability"] for space in ("", " ")]
    encoded = [tokenizer.encode(form, add_special_tokens=False) for form in spelled]
    forms = {ids[0] for ids in encoded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id}
    for text, p in list(zip(asked, rows["p"], strict=True))[::3]:
        expected = runs.logits(MODEL, text).double().softmax(-1)[sorted(forms)].sum()
        assert p == pytest.approx(float(expected), rel=1e-3, abs=1e-7)


def test_features_are_read_or_missed_out_loud(done: Run):
    features = [section for section in done.sections if section.startswith("features")]
    assert all(done.published(section) for section in features if section in ("features", "features-harmful"))
    if MODEL in bundled_saes() and installed():
        assert {"features-harmful", "features-incapable"} <= set(features)
    else:
        assert features == ["features"]
        assert done.claim("features").startswith("Not measured: ")
