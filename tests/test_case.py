"""The command line's own promises: ranges of layers, folders, exit codes, and an answer before anything heavy."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from circuits.case import Progress, few_threads, layer_groups, main, parser, writable
from circuits.cases.gemma_refusal.__main__ import CASE
from circuits.errors import CircuitError, OutputError, SiteError


def arguments(*words: str) -> argparse.Namespace:
    return parser(CASE).parse_args(words)


def test_layer_ranges_in_three_spellings():
    groups = layer_groups(arguments("--groups", "a=0:3", "b=3-5", "c=7,6"))
    assert groups == {"a": [0, 1, 2], "b": [3, 4, 5], "c": [7, 6]}


def test_three_flags_make_the_three_groups():
    given = arguments("--layers-early", "0:2", "--layers-middle", "2:4", "--layers-late", "4:6")
    assert layer_groups(given) == {"early": [0, 1], "middle": [2, 3], "late": [4, 5]}
    assert layer_groups(arguments()) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--groups", "early=3:3"), "holds no layer"),
        (("--groups", "early"), "NAME=A:B"),
        (("--groups", "early=a:b"), "no range of layers"),
        (("--layers-early", "0:2"), "--layers-middle and --layers-late not given"),
    ],
)
def test_groups_that_are_none(words: tuple[str, ...], said: str):
    with pytest.raises(SiteError, match=said):
        layer_groups(arguments(*words))


def run(study, *words: str) -> int:
    return main(replace(CASE, study=study), words)


def test_exit_codes(capsys: pytest.CaptureFixture[str]):
    def wrong(_args: argparse.Namespace, _progress: Progress) -> Path:
        raise CircuitError("pair 3 is empty\nfill it")

    assert run(lambda _args, _progress: Path("here/index.html")) == 0
    assert "report    here/index.html" in capsys.readouterr().out
    assert run(wrong) == 2
    said = capsys.readouterr()
    assert said.err == "error: pair 3 is empty\nfill it\n"
    assert "Traceback" not in said.err


def test_our_own_faults_are_not_dressed_up():
    def broken(_args: argparse.Namespace, _progress: Progress) -> Path:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # Python exits with 1 and a traceback
        run(broken)


def test_a_folder_that_cannot_be_written_stops_before_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    blocked = tmp_path / "file"
    blocked.write_text("")
    ran: list[int] = []
    code = run(lambda _args, _progress: ran.append(1) or Path(), "--out", str(blocked / "out"))
    assert (code, ran) == (2, [])
    assert "cannot write" in capsys.readouterr().err
    with pytest.raises(OutputError, match="choose another --out"):
        writable(blocked / "out")


@pytest.mark.parametrize(
    ("words", "said"), [(("--max-new-tokens", "0"), "at least one token"), (("--threshold", "2"), "between 0 and 1")]
)
def test_numbers_that_make_no_sense(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]):
    assert run(lambda _args, _progress: Path(), *words) == 2
    assert said in capsys.readouterr().err


def test_steps_are_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]):
    progress = Progress(total=2)
    assert progress.step("first", lambda: 3, lambda n: f"{n} cells") == 3
    out = capsys.readouterr().out
    assert out.startswith("1/2 first")
    assert out.rstrip().endswith("3 cells")
    assert set(progress.seconds) == {"first"}


@pytest.mark.parametrize(("parameters", "asked", "threads"), [(10**6, None, 1), (10**6, "2", 2), (2 * 10**9, None, 2)])
def test_a_small_model_runs_on_one_thread(
    parameters: int, asked: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
):
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        few_threads(parameters)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
