"""A case's flags as a TOML file, and back.

    # mine.toml: keys are the flags' long names, with dashes or underscores
    model = "google/gemma-2b-it"
    pairs = "pairs.csv"             # relative to this file's folder, as every path here
    alphas = [0.5, 1.0]             # a list where the flag takes several values
    drop-misaligned = true          # true or false where it takes none

A file is turned into the words that would have been typed, and these are read by argparse: types, choices and their errors
are those of the flags. What is typed comes after them, and so overrides them.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final

from circuits.errors import CircuitError, OutputError

PATHS: Final = ("pairs", "instructions", "diverse", "out", "figures")
"""Options that are always paths."""
NAMES_OR_PATHS: Final = ("model", "sae")
"""Options that are a folder where there is one, and a name elsewhere."""
NOT_RESULTS: Final = ("command", "out", "figures", "no_images", "again", "ray", "ray_workers")
"""What no number depends on."""
_OURS: Final = ("help", "config", "write-config", "show-config")
_LARGEST = 1024
"""Bits of a whole number."""
_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")
"""What argparse takes for a negative number, not for a flag."""


def effective(args: argparse.Namespace) -> dict[str, object]:
    """Every option that can change a result, defaults included; None where an option has no value."""
    return {name: value for name, value in vars(args).items() if name not in NOT_RESULTS}


def toml(options: Mapping[str, object]) -> str:
    """Options as TOML, in their order, under the flags' names; those without a value are left out."""
    import tomli_w

    return tomli_w.dumps({name.replace("_", "-"): value for name, value in options.items() if value is not None})


def written(args: argparse.Namespace, folder: Path) -> str:
    """All options as a file in `folder` would hold them: with --config it equals the flags that `args` was read from."""
    options = {name: _moved(name, value, folder) for name, value in vars(args).items() if name != "command"}
    missing = [name.replace("_", "-") for name, value in options.items() if value is None]
    left_out = f"# not given: {', '.join(missing)}\n" if missing else ""
    return f"# paths are relative to this file's folder\n{left_out}{toml(options)}"


def write(args: argparse.Namespace, path: Path) -> None:
    """Write `written` to a new file. Raises OutputError where it exists, or cannot be made."""
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(written(args, path.parent))
    except FileExistsError as error:
        raise OutputError(f"{path} exists; name another file for --write-config, or remove it") from error
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another --write-config") from error


def words(parser: argparse.ArgumentParser, path: str) -> list[str]:
    """What would have been typed in place of the file.

    Raises CircuitError: no such file, no TOML, a key that is no option (with the nearest one), a value of another kind.
    """
    known, found = dict(options(parser)), list[str]()
    spelled: dict[str, str] = {}
    for key, value in _read(path).items():
        name = key.replace("_", "-")
        if name not in known:
            raise CircuitError(f"{path}: {_unknown(key, list(known))}\n{parser.prog} --help lists all options")
        if name in spelled:
            raise CircuitError(f"{path}: {spelled[name]!r} and {key!r} are one option; keep one of them")
        spelled[name] = key
        try:
            found += _typed(name, known[name], value, os.path.dirname(path))  # noqa: PTH120  Path would respell it
        except _KindError as wrong:
            raise CircuitError(f"{path}: {key} {wrong}") from wrong
    return found


class _KindError(Exception):
    """A value that is not of the kind the option takes."""


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """The options that --help shows, under their long names."""
    for action in parser._actions:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  argparse lists them nowhere else
        name = next((flag[2:] for flag in action.option_strings if flag.startswith("--")), "")
        if name and name not in _OURS and action.help != argparse.SUPPRESS:
            yield name, action


def _read(path: str) -> dict[str, object]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CircuitError(f"--config {path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CircuitError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise CircuitError(
            f'{path} is not TOML: {error}\nwrite one option per line: seed = 3, model = "name", alphas = [0.5, 1.0]'
        ) from error


def _unknown(key: str, known: list[str]) -> str:
    if key.replace("_", "-") in _OURS:
        return f"{key!r} is for the command line alone"
    near = difflib.get_close_matches(key.lower().replace("_", "-"), known, n=3)
    return f"no option is called {key!r}" + (f"; near: {', '.join(near)}" if near else "")


def _typed(name: str, action: argparse.Action, value: object, folder: str) -> list[str]:
    """One option as it would be typed."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise _KindError(f"= {value!r}: a switch is true or false")
        return [f"--{name}"] if value else []
    if action.nargs is None:
        if isinstance(value, list):
            raise _KindError("takes one value, not a list")
        return [f"--{name}={_text(value, _resolved(name, folder))}"]
    if not isinstance(value, list):
        raise _KindError(f"takes a list: {name} = [first, second]")
    texts = [_text(item, str) for item in value]
    flags = [text for text in texts if text.startswith("-") and text != "-" and not _NEGATIVE.fullmatch(text)]
    if flags:
        raise _KindError(f"holds {flags[0]!r}, which would be read as a flag")
    return [f"--{name}", *texts]


def _text(value: object, path: Callable[[str], str]) -> str:
    match value:
        case str() if "\0" in value:
            raise _KindError("holds a NUL character, which no flag can")
        case str():
            return path(value)
        case bool():
            raise _KindError(f"= {str(value).lower()}: it is no switch and takes a value")
        case int() if value.bit_length() > _LARGEST:
            raise _KindError("is too large a number")
        case int():
            return str(value)
        case float():  # without an exponent: argparse takes -1e-05 for a flag
            return format(Decimal(repr(value)), "f")
        case _:
            raise _KindError(f"= {value!r}: an option holds text, numbers, true or false, or a list of text or numbers")


def _resolved(name: str, folder: str) -> Callable[[str], str]:
    """How a text of this option is read: paths are relative to `folder`."""

    def path(value: str) -> str:
        return os.path.join(folder, os.path.expanduser(value)) if value else value  # noqa: PTH111, PTH118  as typed

    def name_or_path(value: str) -> str:
        if not value or value in bundled_models():
            return value
        there = path(value)
        if os.path.isdir(there):  # noqa: PTH112  false, and no error, for a name longer than any file's
            return there
        if os.path.isdir(value):  # noqa: PTH112
            raise _KindError(
                f"= {value!r}: there is such a folder here, but none at {there}\npaths in a file are relative to its folder"
            )
        return value

    return path if name in PATHS else name_or_path if name in NAMES_OR_PATHS else str


def _moved(option: str, value: object, folder: Path) -> object:
    """A relative path as seen from `folder`; everything else as it is."""
    if not isinstance(value, str) or not value:
        return value
    named = option in NAMES_OR_PATHS and (value in bundled_models() or not os.path.isdir(value))  # noqa: PTH112
    if named or option not in (*PATHS, *NAMES_OR_PATHS):
        return value
    path = Path(value)
    if not path.is_absolute() and folder.resolve() != Path.cwd():
        # `..` means what it says only where no folder is a link; the last part may be one, and keeps its name
        value = os.path.relpath(path.parent.resolve() / path.name, folder.resolve())
    return f"./{value}" if value.startswith("~") else value


def bundled_models() -> dict[str, Path]:
    """Name -> folder of every model that ships with the package, without loading what models need."""
    root = Path(__file__).resolve().parent.parent / "organisms"
    return {f.parent.name.replace("_", "-"): f.parent for f in sorted(root.glob("*/config.json"))}
