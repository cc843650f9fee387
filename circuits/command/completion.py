"""`circuits completion SHELL`: a script that completes commands, cases, flags, choices and files.

The script is static, so that a key costs no Python: make it anew after an update. It is made by shtab of the parsers
themselves.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from circuits.case.config import NAMES_OR_PATHS, bundled_models
from circuits.case.config import PATHS as CASE_PATHS

SHELLS = ("bash", "zsh", "fish")
HOW = """bash    eval "$(circuits completion bash)"                                          in ~/.bashrc
zsh     circuits completion zsh > ~/.zfunc/_circuits    with fpath+=~/.zfunc before compinit in ~/.zshrc
fish    circuits completion fish > ~/.config/fish/completions/circuits.fish
"""
_FOLDERS = ("out", "figures", "root")
_FILES = ("config", "write_config", "to")


def arguments(made: argparse.ArgumentParser) -> None:
    """The shell."""
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = HOW
    made.add_argument("shell", choices=SHELLS)


def script(whole: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell that completes what `whole` and its subcommands take."""
    import shtab

    _mark_paths(whole)
    return shtab.complete(whole, shell)


def _mark_paths(made: argparse.ArgumentParser) -> None:
    """Say which values are files or folders; a model may be a bundled name as well, which is offered as a choice."""
    import shtab

    for action in made._actions:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  argparse lists them nowhere else
        marked: Any = action
        choices: Any = action.choices
        if isinstance(choices, dict):
            for below in choices.values():  # pyright: ignore[reportUnknownVariableType]
                _mark_paths(below)
        elif action.dest in _FOLDERS:
            marked.complete = shtab.DIRECTORY
        elif action.dest in (*CASE_PATHS, *_FILES):
            marked.complete = shtab.FILE
        elif action.dest in NAMES_OR_PATHS:
            action.choices = tuple(bundled_models())


def write(whole: argparse.ArgumentParser, shell: str) -> int:
    """Run `circuits completion`."""
    sys.stdout.write(script(whole, shell))
    return 0
