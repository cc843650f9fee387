"""The single-direction case on few prompts: its numbers are those of plain forward passes with the formula."""

from __future__ import annotations

import re
from pathlib import Path

import case_runs as runs
import oracle
import pytest
import torch
from case_runs import Run, texts

from circuits.edits import load_edits
from circuits.linalg import cosine
from circuits.model import load
from circuits.refusal import is_refusal

MODEL = "refusal-qwen2"


@pytest.fixture(scope="module")
def done() -> Run:
    return runs.finished("single_direction")


@pytest.fixture(scope="module")
def best(done: Run) -> tuple[str, torch.Tensor]:
    """The best dose as the stored edit names it, and its direction as a person would compute it."""
    said = re.match(r"(direction of layer (\d+), α 1);", load_edits(done.out / "edit").note)
    assert said
    return said[1], runs.mean_difference(MODEL, texts(done, "harmful", 0), texts(done, "harmless", 0), int(said[2]))


def test_the_direction_kept_is_the_difference_of_means_of_one_half(done: Run, best: tuple[str, torch.Tensor]):
    kept = load_edits(done.out / "edit").cell
    assert {type(i).__name__ for i in kept} == {"Ablate"}
    for i in kept:
        assert float(cosine(i.direction.float(), best[1])) == pytest.approx(1, abs=1e-5)
    layers = done.table("separation").set_index("layer")
    assert torch.tensor(layers.loc[0, "d"]).isnan(), "the last token is the same in every prompt"


def test_no_prompt_both_chooses_and_tests(done: Run, best: tuple[str, torch.Tensor]):
    sweep, tested = (done.data(name) for name in ("sweep", "tested"))
    chose, tried = set(sweep["prompt"]), set(tested["prompt"])
    assert chose.isdisjoint(tried)
    assert chose | tried == set(texts(done, "harmful", 1)), "directions come from the other half"
    assert best[0] in set(tested["dose"])
    told = done.table("sweep").set_index("dose")
    score = told["substring.compliance"] + told["perplexity.coherence"]
    directions = [dose for dose in told.index if dose.startswith("direction")]
    assert score[best[0]] == score[directions].max()


@pytest.mark.parametrize("stem", ["sweep", "tested"])
def test_doses_are_what_plain_forward_passes_give(done: Run, best: tuple[str, torch.Tensor], stem: str):
    frame, token = done.data(stem), runs.raw(MODEL)[1].get_vocab()["I"]
    edits = runs.ablated(MODEL, best[1], 1.0)
    for dose, change in (("no edit", lambda _: []), (best[0], edits)):
        rows = frame[frame["dose"] == dose]
        assert len(rows) == frame["prompt"].nunique()
        for _, row in rows.iterrows():
            expected = oracle.against_mean(runs.logits(MODEL, row["prompt"], change), token)
            assert row["metric"] == pytest.approx(expected, abs=1e-4)
            assert row["completion"] == runs.says(MODEL, row["prompt"], change)
            assert row["refused"] == is_refusal(row["completion"])
    before, after = (frame.loc[frame["dose"] == dose, "refused"].mean() for dose in ("no edit", best[0]))
    assert before > after, "the direction does nothing here"


def test_shares_are_those_of_the_completions(done: Run, best: tuple[str, torch.Tensor]):
    for stem in ("sweep", "tested"):
        frame, table = done.data(stem), done.table(stem).set_index("dose")
        shares = frame.assign(told=frame["completion"].map(is_refusal)).groupby("dose")["told"].mean()
        assert shares.to_dict() == pytest.approx(table["refused"].to_dict())
    numbers = {v["hypothesis"]: v["numbers"] for v in done.manifest["verdicts"]}["one direction removes refusal"]
    assert f"best direction ablated {1 - shares[best[0]]:.2f}" in numbers
    assert f"refused without an edit {shares['no edit']:.2f}" in numbers


def test_weights_and_run_time_agree_as_the_page_says(done: Run):
    said = re.search(
        r"logits within (\S+) at every position, and the same (\d+) of (\d+) completions", done.claim("weights")
    )
    assert said
    assert float(said[1]) <= 1e-4
    assert said[2] == said[3] == "12"
    edited, cell = load(MODEL, edits=done.out / "edit"), load_edits(done.out / "edit").cell
    direction = cell[0].direction.float()
    change = runs.ablated(MODEL, direction, 1.0)
    for text in [*texts(done, "harmful", 1)[:2], *texts(done, "harmless", 1)[:2]]:
        ids = runs.asked(MODEL, text)
        with torch.no_grad():
            in_weights = edited.hf(input_ids=ids[None], use_cache=False).logits[0]
        at_run_time = oracle.run(runs.raw(MODEL)[0], ids, change(len(ids)))[0]
        assert float((in_weights - at_run_time).abs().max()) <= 1e-4
        plain = oracle.run(runs.raw(MODEL)[0], ids)[0]
        assert float((plain - at_run_time).abs().max()) > 0.1, "the edit does nothing here"


def test_what_the_edit_costs_is_the_divergence_of_the_instruction(done: Run):
    """Over the tokens of instruction and continuation, of harmless prompts alone."""
    frame, asked = done.data("cost"), texts(done, "harmless", 1)
    edit = frame[frame["cell"] == "edit"]
    assert len(edit) == len(asked)
    change = runs.ablated(MODEL, load_edits(done.out / "edit").cell[0].direction.float(), 1.0)
    hf, tokenizer = runs.raw(MODEL)
    text = asked[0]
    start = runs.asked(MODEL, text)
    said = tokenizer(runs.says(MODEL, text), add_special_tokens=False)["input_ids"]
    ids = torch.cat([start, torch.tensor(said)])
    plain, edited = (oracle.run(hf, ids, e)[0].double().log_softmax(-1) for e in ([], change(len(ids))))
    kl = (plain.exp() * (plain - edited)).sum(-1)
    words = tokenizer.encode(text, add_special_tokens=False)
    first = next(k for k in range(len(start)) if start[k : k + len(words)].tolist() == words)
    scored = [*range(first - 1, first - 1 + len(words)), *range(len(start) - 1, len(ids) - 1)]
    assert edit["kl"].iloc[0] == pytest.approx(float(kl[scored].mean()), abs=1e-5)


def test_the_edit_is_a_folder_without_weights(done: Run):
    files = {f.name: f.stat().st_size for f in (done.out / "edit").iterdir()}
    assert sum(files.values()) < 100_000
    assert not [f for f in Path(done.out).rglob("*.safetensors") if f.stat().st_size > 5_000_000]
