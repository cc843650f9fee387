"""The replication on few pairs: its numbers are those of plain forward passes, with the formula where it edits."""

from __future__ import annotations

from typing import Any

import case_runs as runs
import oracle
import pandas as pd
import pytest
import torch
from case_runs import Run
from oracle import Edit

from circuits.prompts import refusal_subjects

MODEL = "refusal-gemma2"
THRESHOLD = 0.1


@pytest.fixture(scope="module")
def done() -> Run:
    return runs.finished("gemma2_replication")


@pytest.fixture(scope="module")
def given(done: Run) -> pd.DataFrame:
    return pd.read_csv(done.given / "pairs.csv")


def metric(text: str, edits: Any = lambda _: []) -> float:
    known = runs.raw(MODEL)[1].get_vocab()
    return oracle.difference(runs.logits(MODEL, text, edits), known["I"], known["Sure"])


def test_the_lens_ends_at_the_gap_before_the_soft_cap(done: Run, given: pd.DataFrame):
    hf, tokenizer = runs.raw(MODEL)
    known = tokenizer.get_vocab()

    def uncapped(text: str) -> float:
        with torch.no_grad():
            last = hf.model(input_ids=runs.asked(MODEL, text)[None], use_cache=False).last_hidden_state[0, -1]
            return oracle.difference(hf.lm_head(last), known["I"], known["Sure"])

    gap = sum(uncapped(a) - uncapped(b) for a, b in zip(given["clean"], given["corrupt"], strict=True)) / len(given)
    table = done.table("lens")
    end = table[table["layer"] == table["layer"].max()]
    assert end["mean"].tolist() == pytest.approx([gap] * 2, abs=1e-3), "both readings end there"
    assert f"{gap:.3g}" in done.claim("lens")


def halves(done: Run, given: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The pairs that vectors and heads come from, and those they are tried on."""
    tried = given["clean"].isin(done.data("steering_harmful")["prompt"])
    return given[~tried], given[tried]


def test_pairs_that_choose_are_not_those_that_test(done: Run, given: pd.DataFrame):
    made_of, tried = halves(done, given)
    assert 0 < len(made_of) < len(given)
    assert set(done.data("steering_harmless")["prompt"]) == set(tried["corrupt"])
    assert done.data("together_denoise")["pair"].nunique() == len(tried)


@pytest.mark.parametrize(("kind", "scale"), [("harmless", 2.0), ("harmful", -2.0)])
def test_steering_is_the_vector_added_in_the_middle(done: Run, given: pd.DataFrame, kind: str, scale: float):
    made_of, _ = halves(done, given)
    layer = runs.raw(MODEL)[0].config.num_hidden_layers // 2
    difference = runs.mean_difference(MODEL, made_of["clean"], made_of["corrupt"], layer)
    vectors = {"difference vector": difference, "activation vector": runs.resid(MODEL, made_of["clean"].iloc[0], layer)}
    frame = done.data(f"steering_{kind}")
    for name, v in vectors.items():
        rows = frame[(frame["series"] == name) & (frame["coefficient"] == scale)]
        assert set(rows["layer"]) == {layer}

        def added(n: int, v: torch.Tensor = v) -> list[Edit]:
            return [Edit("resid_pre", layer, oracle.formula(range(n), lambda a: a + scale * v))]

        for _, row in rows.iloc[:3].iterrows():
            assert row["metric"] == pytest.approx(metric(row["prompt"], added), abs=2e-3)
            assert row["completion"] == runs.says(MODEL, row["prompt"], added)
            assert row["change"] == pytest.approx(row["metric"] - metric(row["prompt"]), abs=2e-3)
    assert frame["change"].abs().max() > 1, "steering does nothing here"


def test_heads_over_the_threshold_are_those_tested_together(done: Run, given: pd.DataFrame):
    made_of, _ = halves(done, given)
    frame = done.data("heads_denoise")
    mean = frame[frame["pair"].isin(made_of.index)].groupby(["layer", "head"])["fraction"].mean()
    over = int((mean.abs() >= THRESHOLD).sum())
    assert 0 < over < len(mean)
    numbers = {v["hypothesis"]: v["numbers"] for v in done.manifest["verdicts"]}
    for what, how in (("sufficient", "denoised"), ("necessary", "noised")):
        assert numbers[f"heads chosen one by one are {what} together"].startswith(f"{over} heads {how}")


def test_the_words_that_are_one_token(done: Run):
    """In this tokenizer a word is one token, or it is unknown."""
    tokenizer, table = runs.raw(MODEL)[1], done.table("subjects").set_index("subject")
    assert len(table) == len(refusal_subjects())
    single = {word: len(tokenizer.encode(f"a {word}")) - len(tokenizer.encode("a")) == 1 for word in table.index}
    assert not [word for word in table.index[table["kept"]] if not single[word]]
    assert (table.loc[~table["kept"], "reason"].str.len() > 0).all()
    assert done.claim("subjects").startswith(f"{int(table['kept'].sum())} of {len(table)} ")
