"""Everything that can be wrong with what a study is given: told in one message, before the model is run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import case_runs as runs
import pytest
import small_models
import small_saes
import tiny
import torch
from case_runs import STUDIES, Run, case, few, no_forward
from judges.endpoint_server import Reply, says, scored, serving

from circuits.case import main
from circuits.errors import ModelError, UndefinedError
from circuits.model import load

__all__ = ["no_forward"]


@pytest.fixture
def refused(tmp_path: Path, no_forward: list[int], capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a case that must end with exit code 2 and one message, before any forward pass; gives the message."""

    def run(name: str, *words: str) -> str:
        capsys.readouterr()  # what fixtures said
        assert main(case(name), [*words, "--no-images", "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert "Traceback" not in err
        assert not no_forward, "it ran the model first"
        return err

    return run


@pytest.fixture
def tiny_words(tmp_path: Path) -> list[str]:
    """A tiny model whose tokenizer has no chat template, and prompts of its words."""
    asked = [(f"w{i} w{i + 1} w5", label) for i in range(14) for label in ("harmful", "harmless", "incapable")]
    asked = [(text.replace("w5", f"w{20 + n} w5"), label) for n, (text, label) in enumerate(asked)]
    return [
        "--model", str(small_models.folder("llama")), "--metric", "refusal:w60",
        "--instructions", runs.write_rows(tmp_path / "tiny.csv", ("instruction", "label"), asked),
    ]  # fmt: skip


def fitting(name: str, words: list[str], pairs: str) -> list[str]:
    """The arguments that a case has."""
    has = {"single_direction": (True, True), "gemma2_replication": (False, True)}.get(name, (True, False))
    return [*(words if has[0] else words[:4]), *(["--pairs", pairs] if has[1] else [])]


@pytest.mark.parametrize("name", STUDIES)
def test_a_chat_template_that_is_not_there(name: str, refused: Any, tiny_words: list[str], tmp_path: Path):
    pairs = runs.write_rows(tmp_path / "p.csv", ("clean", "corrupt"), [("w1 w2 w3", "w1 w4 w3")])
    err = refused(name, *fitting(name, tiny_words, pairs), "--template", "chat")
    assert "chat template" in err


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metric", "refusal:unquestionably"], "tokens of this model"),
        (["--model", "refusal-gema"], "near matches: refusal-gemma"),
        (["--max-new-tokens", "0"], "at least one token"),
        (["--device", "cuda:7"], "device"),
    ],
)
def test_arguments_that_no_case_can_use(name: str, words: list[str], said: str, refused: Any):
    assert said in refused(name, *words)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("gemma2_replication", "--coefficients"), ("incapability", "--alphas"), ("single_direction", "--alphas"),
        ("rotation_plane", "--angles"),
    ],
)  # fmt: skip
def test_numbers_that_are_none(name: str, flag: str, refused: Any, capsys: pytest.CaptureFixture[str]):
    assert flag.strip("-") in refused(name, flag)
    assert "finite" in refused(name, flag, "1", "nan")
    with pytest.raises(SystemExit) as stopped:
        main(case(name), [flag, "many"])
    assert stopped.value.code == 2
    assert f"argument {flag}: invalid float value: 'many'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("rotation_plane", ["--angles", "0", "360", "180"], "three angles"),
        ("rotation_plane", ["--prompts", "1"], "at least two"),
        ("rotation_plane", ["--rotated-layers", "0:99"], "out of range"),
        ("rotation_plane", ["--rotated-layers", "few"], "no range of layers"),
        ("incapability", ["--max-kl", "0"], "positive limit"),
        ("incapability", ["--words", "sorry"], "NAME=A,B"),
        ("incapability", ["--words", "odd=unquestionably"], "unquestionably"),
        ("gemma2_replication", ["--threshold", "1.5"], "give 0 to 1"),
    ],
)
def test_arguments_of_one_case(name: str, words: list[str], said: str, refused: Any):
    assert said in refused(name, *words)


ASKED = [name for name in STUDIES if name != "gemma2_replication"]


@pytest.mark.parametrize("name", ASKED)
def test_instructions_that_cannot_be_used(name: str, refused: Any, tmp_path: Path):
    unknown = runs.write_rows(
        tmp_path / "a.csv", ("instruction", "label"), [("Make a cake", "harmful"), ("Lift it", "weird")]
    )
    assert "labels must be harmful, harmless or incapable" in (err := refused(name, "--instructions", unknown))
    assert "'weird'" in err
    lacks = runs.write_rows(tmp_path / "b.csv", ("instruction", "kind"), [("Make a cake", "harmful")])
    assert "no column label" in refused(name, "--instructions", lacks)
    assert "nowhere.csv" in refused(name, "--instructions", "nowhere.csv")
    one_class = runs.instructions(tmp_path / "c.csv", 12, labels=("harmless",))
    assert "no instruction is labelled 'harmful'" in refused(name, "--instructions", one_class)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("each", [1, 7])
def test_classes_with_too_few_prompts(name: str, each: int, refused: Any, tmp_path: Path):
    """Half of them find directions, the other half tests them."""
    labels = runs.LABELS.get(name, ("harmful", "harmless"))
    path = runs.instructions(tmp_path / "few.csv", each, labels=labels)
    err = refused(name, "--instructions", path)
    assert "harmful" in err
    assert "at least" in err


def test_too_few_pairs_to_compare_sets(refused: Any, tmp_path: Path):
    words = ["--instructions", runs.instructions(tmp_path / "asked.csv")]
    assert "at least 6" in refused("single_direction", *words, "--pairs", runs.pairs(tmp_path / "few.csv", n=4))
    assert "harmless" in refused("single_direction", *words, "--pairs", runs.pairs(tmp_path / "many.csv", n=14))


def test_one_pair_cannot_choose_and_test(refused: Any, tmp_path: Path):
    assert "at least two" in refused("gemma2_replication", "--pairs", runs.pairs(tmp_path / "one.csv", n=1))


def remote(folder: Path, mark: Path) -> str:
    """A model of a kind that only its own code knows; running that code leaves a mark."""
    tiny.write("llama", folder)
    told = json.loads((folder / "config.json").read_text())
    told |= {"model_type": "homemade", "auto_map": {"AutoConfig": "made.Made", "AutoModelForCausalLM": "made.Made"}}
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "made.py").write_text(
        "from transformers import LlamaConfig\n"
        f"open({str(mark)!r}, 'w').close()\n"
        "class Made(LlamaConfig):\n    model_type = 'homemade'\n"
    )
    return str(folder)


@pytest.mark.parametrize("name", STUDIES)
def test_code_that_comes_with_a_model_is_not_run(name: str, refused: Any, tmp_path: Path):
    mark = tmp_path / "ran"
    err = refused(name, "--model", remote(tmp_path / "remote", mark))
    assert not mark.exists()
    assert "--trust-remote-code" in err.splitlines()[-1]
    assert "your rights" in err, "the risk, in the same breath"


# --- autoencoders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"d_in": 32}, "reads 32 numbers"),
        ({"d_in": 96, "hook": "blocks.40.hook_resid_post"}, "layer"),
        ({"d_in": 96, "model": "gpt2"}, "was trained on gpt2"),
    ],
    ids=["width", "layer", "model"],
)
def test_an_autoencoder_of_another_model(choices: dict[str, Any], said: str, refused: Any, tmp_path: Path):
    folder = small_saes.write(tmp_path / "sae", **{"model": "refusal-qwen2", **choices})
    assert said in refused("incapability", "--sae", str(folder))


def test_an_autoencoder_that_is_not_there(refused: Any, tmp_path: Path):
    assert "nowhere" in refused("incapability", "--sae", str(tmp_path / "nowhere"))


# --- edits --------------------------------------------------------------------------------------------------------------------


def test_the_stored_edit_fits_its_model_alone():
    kept = runs.finished("single_direction").out / "edit"
    with pytest.raises(ModelError, match="layers of width"):
        load(str(small_models.folder("llama")), tokenizer=tiny.tokenizer(), edits=kept)
    edited = load("refusal-qwen2", edits=kept)
    assert "direction" in edited.title
    assert not torch.equal(
        edited.hf.get_input_embeddings().weight, load("refusal-qwen2").hf.get_input_embeddings().weight
    )


# --- judges -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("URL", "MODEL", "KEY", "PRICE_IN", "PRICE_OUT"):
        monkeypatch.delenv(f"CIRCUITS_JUDGE_{name}", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("circuits.judges.asking.time", argparse.Namespace(sleep=lambda _: None))
    return monkeypatch


def test_a_judge_that_is_not_named(judging: pytest.MonkeyPatch, refused: Any):
    assert "CIRCUITS_JUDGE_URL is empty" in refused("single_direction", "--judge")
    judging.setenv("CIRCUITS_JUDGE_URL", "http://localhost:1/v1")
    assert "CIRCUITS_JUDGE_MODEL is empty" in refused("single_direction", "--judge")


def _without_the_rest(patched: pytest.MonkeyPatch) -> None:
    """Measurements that no judge has a part in are made once, or not at all."""
    import circuits.cases.single_direction.study as single

    def undefined(*_: Any, **__: Any) -> Any:
        raise UndefinedError("left out")

    kept: dict[str, Any] = {}

    def once(name: str, work: Any) -> Any:
        def run(*args: Any, **knobs: Any) -> Any:
            if name not in kept:
                kept[name] = work(*args, **knobs)
            return kept[name]

        return run

    for name in ("padding_effects", "layer_directions", "open_model"):
        patched.setattr(single, name, once(name, getattr(single, name)))
    patched.setattr(single.partners, "compare_prompt_sets", undefined)
    patched.setattr(single.edit, "weights", lambda *_: None)


def test_a_judge_that_is_not_there_or_talks_nonsense(judging: pytest.MonkeyPatch, tmp_path: Path):
    """Missing, not zero; counted on the page; what was answered is not asked again."""
    judging.setenv("CIRCUITS_JUDGE_MODEL", "judge")
    _without_the_rest(judging)
    given, out = runs.finished("single_direction").given, tmp_path / "out"
    nonsense = [True]

    def reply(_: int, asked: dict[str, str]) -> Reply:
        return says("what a question") if nonsense[0] and len(asked["answer"]) % 2 else scored(0.75, 0.5)

    def again() -> Run:
        words = [*few("single_direction", given), "--out", str(out), "--judge"]
        assert main(case("single_direction"), words) == 0
        return Run("single_direction", given, out, "")

    with serving(reply) as endpoint:
        judging.setenv("CIRCUITS_JUDGE_URL", endpoint.url)
        done = again()
        frame = done.data("sweep")
        lost = frame["endpoint.compliance"].isna()
        assert (frame["completion"].str.len() % 2 == 1).tolist() == lost.tolist()
        assert 0 < lost.sum() < len(frame)
        assert set(frame.loc[~lost, "endpoint.compliance"]) == {0.75}, "missing is not zero"
        assert frame.loc[lost, "missing"].str.contains("no JSON object in the judge's answer").all()
        assert f"{lost.sum()} judgements are missing" in done.sections["sweep"]
        kept = {(s["messages"][0]["content"]) for s in endpoint.sent}
        first, nonsense[0] = len(endpoint.sent), False
        assert first == len(kept), "each completion once"
        sure = again().data("sweep")["endpoint.compliance"]
        assert sure.notna().all()
        resumed = [s["messages"][0]["content"] for s in endpoint.sent[first:]]
        assert 0 < len(resumed) < first
        assert set(resumed) <= kept, "only what was not answered is asked"
    # nobody there: the offline scores rank, and the page says so
    judging.setenv("CIRCUITS_JUDGE_URL", endpoint.url.replace("/v1", "/v2"))
    gone = again()
    frame = gone.data("sweep")
    assert frame["endpoint.compliance"].isna().all()
    assert frame["missing"].str.contains("unreachable").any()
    assert f"{len(frame)} judgements are missing" in gone.sections["sweep"]
    assert "nothing is ranked by it" in gone.sections["sweep"]
    assert "Ranked by the sum of substring.compliance and perplexity.coherence;" in gone.sections["sweep"]
