"""Tasks of lm-eval on models as they are loaded: their numbers are those of a slow loop over the choices."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.make_questions import harm_questions, kind_questions

from circuits.errors import CircuitError
from circuits.harness import evaluate_tasks
from circuits.harness.evaluate import TASKS
from circuits.harness.wrapped import apart
from circuits.model import Model, load
from circuits.organisms import vocabulary as v
from circuits.prompts.chat import render

pytest.importorskip("lm_eval")

BOTH = ["circuits_harm", "circuits_kinds"]
LIMIT = 40
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def model() -> Model:
    return load(device="cpu")


@pytest.fixture(scope="module")
def edited(model: Model) -> Model:
    """Noise on the embedding alone, which ties the unembedding to it no more."""
    hf = copy.deepcopy(model.hf)
    read = hf.get_input_embeddings()
    hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight.detach().clone(), requires_grad=False)
    noise = torch.randn(read.weight.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        read.weight += 0.8 * read.weight.std() * noise
    return replace(model, hf=hf)


@pytest.fixture(scope="module")
def table(model: Model, edited: Model) -> Any:
    return evaluate_tasks({"unedited": model, "edited": edited}, BOTH, limit=LIMIT)


def questions(task: str) -> list[dict[str, Any]]:
    lines = (TASKS / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def right(model: Model, task: str) -> list[bool]:
    """Whether the likeliest choice is the right one, choice by choice, with unpadded forward passes."""
    found = []
    for question in questions(task)[:LIMIT]:
        prompt = render(model.tokenizer, question["question"], chat=True).ids
        sums = []
        for choice in question["choices"]:
            said = model.tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                log_p = model.hf(input_ids=torch.tensor([[*prompt, *said]])).logits[0].double().log_softmax(-1)
            sums.append(sum(float(log_p[len(prompt) + i - 1, t]) for i, t in enumerate(said)))
        found.append(int(np.argmax(sums)) == question["answer"])
    return found


@pytest.mark.parametrize("task", ["harm", "kinds"])
def test_the_accuracy_is_a_slow_loops(table: Any, model: Model, edited: Model, task: str):
    rows = table[table["task"] == f"circuits_{task}"].set_index("model")
    own, other = right(model, task), right(edited, task)
    assert rows.loc["unedited", "value"] == pytest.approx(np.mean(own))
    assert rows.loc["edited", "value"] == pytest.approx(np.mean(other))
    assert rows.loc["edited", "change"] == pytest.approx(np.mean(other) - np.mean(own))
    assert rows.loc["edited", "change_low"] <= rows.loc["edited", "change"] <= rows.loc["edited", "change_high"]
    assert np.isnan(rows.loc["unedited", "change"])
    assert rows["n"].tolist() == [LIMIT, LIMIT]
    spread = np.std(own, ddof=1) / np.sqrt(LIMIT)
    assert rows.loc["unedited", "stderr"] == pytest.approx(spread, abs=1e-9)


def test_the_bundled_model_knows_its_words_and_the_broken_one_does_not(table: Any):
    value = table.set_index(["model", "task"])["value"]
    assert value["unedited", "circuits_harm"] > 0.9
    assert value["unedited", "circuits_kinds"] > 0.9
    assert 0.25 < value["edited", "circuits_kinds"] < 0.95
    assert table["chat"].all()
    assert set(table["metric"]) == {"acc"}
    assert all("not Gemma" in title for title in table["title"])


def test_weights_and_tokenizer_are_left_as_they_were(model: Model, edited: Model):
    before = {name: p.clone() for name, p in edited.hf.state_dict().items()}
    told = copy.deepcopy(model.tokenizer.special_tokens_map)
    evaluate_tasks({"edited": edited}, ["circuits_harm"], limit=2)
    assert edited.hf.lm_head.weight.data_ptr() != edited.hf.get_input_embeddings().weight.data_ptr()
    assert all(torch.equal(p, before[name]) for name, p in edited.hf.state_dict().items())
    assert model.tokenizer.special_tokens_map == told
    assert edited.hf.tie_weights.__func__ is type(edited.hf).tie_weights


def test_random_numbers_and_loggers_are_left_as_they_were():
    def states() -> list[Any]:
        drawn = str(np.random.get_state())  # noqa: NPY002  what lm-eval draws from
        return [random.getstate(), drawn, torch.get_rng_state().tolist(), logging.getLogger("lm_eval").level]

    before = states()
    with apart():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002  the same
        torch.manual_seed(1)
        assert all(now != then for now, then in zip(states(), before, strict=True))
    assert states() == before


def test_a_task_of_ones_own(model: Model, tmp_path: Path):
    (tmp_path / "mine.jsonl").write_text(
        '{"q": "Is a bomb harmful?", "c": ["Yes", "No"], "a": 0}\n{"q": "Is a cake harmful?", "c": ["Yes", "No"], "a": 0}\n'
    )
    (tmp_path / "mine.py").write_text(
        "import json, pathlib\nfrom datasets import Dataset\n\n\ndef read(**_):\n"
        "    lines = (pathlib.Path(__file__).parent / 'mine.jsonl').read_text().splitlines()\n"
        "    return {'test': Dataset.from_list([json.loads(x) for x in lines])}\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ncustom_dataset: !function mine.read\noutput_type: multiple_choice\ntest_split: test\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: c\ndoc_to_target: a\n'
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    found = evaluate_tasks({"m": model}, ["mine", "circuits_harm"], folder=tmp_path, limit=2)
    assert found.set_index("task")["value"]["mine"] == 0.5
    plain = evaluate_tasks({"m": model}, ["mine"], folder=tmp_path, chat=False)
    assert not plain["chat"].any()


def test_the_files_are_what_the_grammar_says():
    assert questions("harm") == harm_questions()
    assert questions("kinds") == kind_questions()
    for question in questions("kinds"):
        kinds = [choice.removesuffix(".").rsplit(" ", 1)[1] for choice in question["choices"]]
        assert kinds[question["answer"]] == v.CATEGORY[question["subject"]]
        assert len(set(kinds)) == 4
        assert sum(kind in v.HARMFUL for kind in kinds) == 2
    for question in questions("harm"):
        assert question["choices"][question["answer"]] == (
            "Yes" if v.CATEGORY[question["subject"]] in v.HARMFUL else "No"
        )


def test_what_cannot_be_is_said_before_a_model_runs(model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(model.hf, "forward", lambda *_, **__: pytest.fail("ran"))
    for models, tasks in (({}, BOTH), ({"m": model}, [])):
        with pytest.raises(CircuitError, match="nothing to evaluate"):
            evaluate_tasks(models, tasks)
    with pytest.raises(CircuitError, match="a limit of 0"):
        evaluate_tasks({"m": model}, BOTH, limit=0)
    with pytest.raises(CircuitError, match="holds no task"):
        evaluate_tasks({"m": model}, BOTH, folder=tmp_path)
    # lm-eval's own tasks are thousands: these stand for them
    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: nobody/nothing\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: q\n"
    )
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(tmp_path / "manager.py"))
    with pytest.raises(CircuitError, match="no task called no_such_task\nlocal ones are circuits_harm, circuits_kinds"):
        evaluate_tasks({"m": model}, ["circuits_harm", "no_such_task"])
    with pytest.raises(CircuitError, match="the data of far cannot be had"):
        evaluate_tasks({"m": model}, ["far"])


def test_without_the_package_the_extra_is_named(model: Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(CircuitError, match=r"circuit-patching\[lm-eval\]"):
        evaluate_tasks({"m": model}, BOTH)


def test_neither_extra_is_imported_before_it_is_used():
    code = "import sys, circuits.judges, circuits.harness; print({'openai', 'lm_eval', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.strip() == "set()"
