"""`circuits`: what it lists is what there is, wrong words are answered with the nearest, nothing heavy is loaded to say so."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from circuits.case.config import bundled_models
from circuits.cases import names
from circuits.command import listings, main, run
from circuits.command import root as root_command
from circuits.command.datasets import files
from circuits.errors import CircuitError
from circuits.runs.record import Record, Try

HEAVY = ("torch", "pandas", "plotly", "transformers", "transformer_lens", "sae_lens", "scipy", "networkx", "numpy")
LIGHT = [
    ["--help"], ["--version"], ["cases"], ["cases", "--help"], ["models"], ["models", "--help"], ["datasets"],
    ["datasets", "--help"], ["datasets", "--show", "refusal-pairs"], ["run", "--help"],
    *(["run", name, "--help"] for name in names()), ["run", "gemma_refusal", "--show-config"], ["doctor", "--help"],
    ["completion", "bash"], ["completion", "--help"], ["runs", "--help"], ["runs", "list"],
]  # fmt: skip
CODE = f"""
import sys, time
from circuits.__main__ import main
worst = []
for words in {LIGHT!r}:
    began = time.process_time()
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    worst.append(time.process_time() - began)
    assert not code, (words, code)
    assert not set({HEAVY!r}) & set(sys.modules), (words, sorted(set({HEAVY!r}) & set(sys.modules)))
sys.stderr.write(str(max(worst)))
"""


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **env}
    )


def test_nothing_that_only_tells_loads_anything_heavy():
    done = python("-c", CODE)
    assert done.returncode == 0, done.stderr
    assert float(done.stderr) < 0.5


def test_help_answers_in_half_a_second_of_work():
    spent = []
    for _ in range(3):
        before = time.process_time(), os.times()
        done = python("-m", "circuits", "--help")
        assert done.returncode == 0
        spent.append(sum(os.times()[2:4]) - sum(before[1][2:4]))
    assert min(spent) < 0.5


def test_help_lists_what_there_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, case in listings.cases().items():
        assert name in said
        assert case.question in said
        assert f"runs on {case.model} unless told otherwise; the write-up's model is {case.published}" in said
    assert listings.cases().keys() == {*names()}
    for word in (*bundled_models(), *files()):
        assert f" {word} " in said


def test_a_bundled_model_says_what_it_is_not(capsys: pytest.CaptureFixture[str]):
    from circuits.model import load

    assert main(["models"]) == 0
    said = capsys.readouterr().out
    for brand in ("Gemma architecture, not Gemma", "Gemma2 architecture, not Gemma", "Qwen2 architecture, not Qwen"):
        assert brand in said
    title = load("refusal-qwen2").title  # counts what it loads; the listing reads the file's header
    assert f"{listings.n_parameters(bundled_models()['refusal-qwen2']) / 1e6:.1f} M parameters" in title


def test_last_runs_are_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert listings.told_runs() == {}
    for i, name in enumerate(["old", "newest", "new", "middle"]):
        begun = replace(Try.now("…"), started=f"2026-01-01 00:00:0{[1, 4, 3, 2][i]}+0000")
        folder = tmp_path / "runs" / "case" / name
        folder.mkdir(parents=True)
        Record("case", {}, "", "", {}, {}, 0, 1, "", {}, tries=(begun.ending("complete", 1, 0, 0),)).write(folder)
    (tmp_path / "runs" / "case" / "empty").mkdir()
    assert listings.told_runs() == {
        "case/newest": ["complete, 2026-01-01 00:00:04+0000"], "case/new": ["complete, 2026-01-01 00:00:03+0000"],
        "case/middle": ["complete, 2026-01-01 00:00:02+0000"],
    }  # fmt: skip
    (tmp_path / "runs" / "case" / "new" / "run.json").write_text("{")
    assert main([]) == 2  # a damaged record keeps nobody from the list


@pytest.mark.parametrize("width", ["30", "80", "400"])
def test_tables_keep_to_the_width(width: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", width)
    table = listings.text({"a-name": ["word " * 50, "second"], "a-much-much-much-longer-name": []})
    assert max(map(len, table.splitlines())) <= max(40, min(120, int(width)))
    assert table.split() == ["a-name", *["word"] * 50, "second", "a-much-much-much-longer-name"]


def test_a_dataset_is_told_and_copied_as_it_is(capsys: pytest.CaptureFixture[str], root: Path):
    data = root / "circuits" / "prompts" / "data"
    assert files().keys() == {path.stem.replace("_", "-") for path in data.glob("*.csv")}
    for name in files():
        assert main(["datasets", "--show", name]) == 0
        assert capsys.readouterr().out == (data / f"{name.replace('-', '_')}.csv").read_text(encoding="utf-8")
    assert main(["datasets", "--show", "refusal_pairs.csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert main(["datasets"]) == 0
    assert f"{len(rows)} pairs of prompts; columns clean, corrupt, source; --pairs FILE" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_copied_dataset_is_read_by_what_it_names(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    from circuits.prompts import InstructionSet, PairSet, diverse_instructions, toy_refusal_pairs

    for name in ("refusal-pairs", "diverse-instructions"):
        assert main(["datasets", "--show", name]) == 0
        (tmp_path / f"{name}.csv").write_text(capsys.readouterr().out, encoding="utf-8")
    assert PairSet.from_csv(tmp_path / "refusal-pairs.csv").hash == toy_refusal_pairs().hash
    found = InstructionSet.from_file(tmp_path / "diverse-instructions.csv")
    assert found.instructions == diverse_instructions().instructions


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "there is no command 'rnu'; did you mean run"),
        (["doktor"], "did you mean doctor?"),
        (["xyzzy"], "there is no command 'xyzzy'\ncommands: run, runs, cases"),
        (["run", "gema_refusal"], "there is no case 'gema_refusal'; did you mean gemma_refusal"),
        (["run"], "name a case: circuits run CASE\ncases: gemma2_replication, gemma_refusal"),
        (["run", "--seed", "3"], "name the case before its flags"),
        (["datasets", "--show", "pairs"], "did you mean refusal-pairs?"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err


def test_no_word_shows_what_there_is(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2
    assert "gemma_refusal" in capsys.readouterr().err


def test_run_gives_the_case_its_flags(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    seen = []

    def study(args, _progress):
        seen.append(args)
        if args.seed == 2:
            raise CircuitError("no such thing\ntry another")
        if args.seed == 1:
            raise ZeroDivisionError
        return Path("there/index.html")

    known = {"gemma_refusal": replace(listings.cases()["gemma_refusal"], study=study)}
    monkeypatch.setattr(run, "cases", lambda: known)
    assert main(["run", "gemma-refusal", "--threshold", "0.4"]) == 0
    assert seen[0].threshold == 0.4
    assert seen[0].command == "python -m circuits.cases.gemma_refusal --threshold 0.4"
    assert "report    there/index.html" in capsys.readouterr().out
    assert main(["run", "gemma_refusal", "--seed", "2"]) == 2
    assert capsys.readouterr().err == "error: no such thing\ntry another\n"
    with pytest.raises(ZeroDivisionError):  # Python exits with 1 and a traceback
        main(["run", "gemma_refusal", "--seed", "1"])
    with pytest.raises(SystemExit) as stop:
        main(["run", "gemma_refusal", "--seeds", "1"])
    assert stop.value.code == 2
    assert "usage: circuits run gemma_refusal" in capsys.readouterr().err


def test_runs_are_read_by_their_own_command(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setitem(root_command.READ_ELSEWHERE, "runs", ("", lambda words: asked.append(words) or 0))
    assert main(["runs", "show", "--json"]) == 0
    assert asked == [["show", "--json"]]


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path):
    command = f"{sys.executable} -m circuits datasets --show diverse-instructions"
    script = f"{command} 2>{tmp_path}/err | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)  # noqa: S607
    assert (tmp_path / "err").read_text() == ""
    assert done.stdout.strip() == "141"


def test_a_terminal_without_the_signs_is_no_traceback():
    done = python("-m", "circuits", "run", "gemma_refusal", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\\u2026" in done.stdout


def test_the_module_and_the_script_are_one(root: Path):
    import tomllib

    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"circuits": "circuits.__main__:main"}
    done = python("-m", "circuits", "doktor")
    assert done.returncode == 2
    assert json.dumps(done.stderr).startswith('"error: there is no command')
