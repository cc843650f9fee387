"""Shell completion: the script is sound, and completes what the parsers take."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from circuits.case import parser
from circuits.case.config import bundled_models, options
from circuits.cases import names
from circuits.command import completion, main
from circuits.command.listings import cases
from circuits.command.root import COMMANDS, READ_ELSEWHERE, whole

ASK = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_circuits
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("no bash on this machine")
    path = tmp_path_factory.mktemp("shell") / "circuits.bash"
    path.write_text(completion.script(whole(), "bash"), encoding="utf-8")
    return path


def completed(script: Path, *words: str, cwd: Path | None = None) -> set[str]:
    """What bash offers for the last word."""
    asked = ["bash", "--norc", "-c", ASK, "_", str(script), "circuits", *words]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=cwd)
    assert not done.stderr
    return {*done.stdout.split()}


def test_bash_takes_the_script(bash: Path):
    subprocess.run(["bash", "-n", str(bash)], check=True)  # noqa: S607


def test_bash_completes_commands_cases_flags_and_choices(bash: Path):
    assert completed(bash, "") == {*COMMANDS, *READ_ELSEWHERE}
    assert completed(bash, "ru") == {"run", "runs"}
    assert completed(bash, "run", "") == {*names()}
    assert completed(bash, "run", "gemma2_replication", "--dtype", "b") == {"bfloat16"}
    assert completed(bash, "run", "gemma_refusal", "--model", "") == {*bundled_models()}
    assert completed(bash, "completion", "") == {*completion.SHELLS}
    assert completed(bash, "doctor", "--j") == {"--json"}
    assert {"list", "show", "diff"} <= completed(bash, "runs", "")


def test_bash_completes_every_flag_of_a_case_and_no_other(bash: Path):
    ours = {"--help", "--config", "--show-config", "--write-config", "-h"}
    for name in ("gemma_refusal", "incapability"):
        flags = {f"--{flag}" for flag, _ in options(parser(cases()[name]))}
        assert completed(bash, "run", name, "-") == flags | ours


def test_bash_completes_files_and_folders(bash: Path, tmp_path: Path):
    (tmp_path / "pairs.csv").touch()
    (tmp_path / "place").mkdir()
    assert completed(bash, "run", "gemma_refusal", "--pairs", "p", cwd=tmp_path) == {"pairs.csv", "place"}
    assert completed(bash, "run", "gemma_refusal", "--out", "p", cwd=tmp_path) == {"place"}
    assert completed(bash, "run", "gemma_refusal", "--config", "p", cwd=tmp_path) == {"pairs.csv", "place"}


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_has_a_script_that_names_everything(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, *READ_ELSEWHERE, *names(), "rotated-layers", "bfloat16", "write-config"):
        assert word in script
    if (found := shutil.which(shell)) is not None:
        subprocess.run([found, "-n"], input=script, text=True, check=True)
