"""A TOML file for --config is the flags, exactly; what is wrong in it is said with the file, the key and the nearest name."""

from __future__ import annotations

import argparse
import os
import string
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuits.case import main, parser
from circuits.case import options as shared
from circuits.case.command import Case, read
from circuits.case.config import (
    NAMES_OR_PATHS,
    NOT_RESULTS,
    PATHS,
    bundled_models,
    effective,
    options,
    toml,
    write,
    written,
)
from circuits.command.listings import cases
from circuits.errors import CircuitError, OutputError

CASES = cases()
REFUSAL = CASES["gemma_refusal"]


def parsed(case: Case, *words: str) -> argparse.Namespace:
    return read(parser(case), words)


def same(one: argparse.Namespace, other: argparse.Namespace) -> bool:
    """Equal to the last bit, in the same order: the sign of a zero counts."""
    return repr(vars(one)) == repr(vars(other))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(text: str, *words: str, case: Case = REFUSAL, path: str = "mine.toml") -> argparse.Namespace:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return parsed(case, "--config", path, *words)


# --- flags and file are the same -------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
NOT_HOME = TEXT.filter(lambda text: not text.startswith("~"))  # a shell would expand it, and so is it in a file
NO_FLAG = TEXT.filter(lambda text: not text.startswith("-"))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def value_of(action: argparse.Action) -> st.SearchStrategy:
    """What an option may be given in a file."""
    if action.nargs == 0:
        return st.booleans()
    if action.choices:
        return st.sampled_from(list(action.choices))
    one = {int: st.integers(-(2**60), 2**60), float: FLOATS | st.integers(-9, 9)}.get(action.type)
    if action.nargs is None:
        return NOT_HOME if one is None else one
    return st.lists(NO_FLAG if one is None else one, min_size=int(action.nargs == "+"), max_size=4)


def typed(name: str, value: object) -> list[str]:
    """The same option as flags."""

    def word(one: object) -> str:
        return format(Decimal(repr(one)), "f") if isinstance(one, float) and one < 0 else str(one)

    match value:
        case bool():
            return [f"--{name}"] * value
        case list():
            return [f"--{name}", *map(word, value)]
        case _:
            return [f"--{name}={word(value)}"]


@st.composite
def given_options(draw: st.DrawFn) -> tuple[Case, dict[str, object]]:
    case = CASES[draw(st.sampled_from(sorted(CASES)))]
    known = dict(options(parser(case)))
    chosen = draw(st.lists(st.sampled_from(sorted(known)), unique=True, max_size=6))
    return case, {name: draw(value_of(known[name])) for name in chosen}


@given(given_options(), st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_is_the_flags(drawn: tuple[Case, dict[str, object]], data: st.DataObject):
    case, chosen = drawn
    flags = parsed(case, *(word for name, value in chosen.items() for word in typed(name, value)))
    spelled = {data.draw(st.sampled_from([name, name.replace("-", "_")])): value for name, value in chosen.items()}
    assert same(config(tomli_w.dumps(spelled), case=case), flags)


@given(given_options())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flags_written_as_a_file_are_the_flags(drawn: tuple[Case, dict[str, object]]):
    case, chosen = drawn
    flags = parsed(case, *(word for name, value in chosen.items() for word in typed(name, value)))
    assert same(config(written(flags, Path.cwd()), case=case), flags)


@given(
    st.sampled_from(sorted(CASES)), st.dictionaries(st.sampled_from(["alphas", "metric", "seed", "no_images"]), FLOATS | TEXT)
)  # fmt: skip
@settings(max_examples=40)
def test_what_is_echoed_is_read_back(name: str, more: dict[str, object]):
    told = effective(argparse.Namespace(**vars(parsed(CASES[name])) | more))
    back = tomllib.loads(toml(told))
    assert repr(back) == repr({key.replace("_", "-"): value for key, value in told.items() if value is not None})


def test_what_is_echoed_is_everything_that_can_change_a_result():
    args = parsed(REFUSAL, "--seed", "3", "--out", "somewhere")
    args.command = "…"
    assert vars(args).keys() - effective(args).keys() == {*NOT_RESULTS}
    assert effective(args)["seed"] == 3
    assert effective(args)["max_kl"] == 0.1


def test_what_is_typed_overrides_the_file():
    args = config("seed = 3\nthreshold = 0.3\ndrop-misaligned = true\nno_images = true\n", "--seed", "4")
    assert (args.seed, args.threshold, args.drop_misaligned, args.no_images) == (4, 0.3, True, True)
    args = parsed(REFUSAL, "--no-drop-misaligned", "--images", "--config", "mine.toml")
    assert (args.drop_misaligned, args.no_images) == (False, False)
    assert same(parsed(REFUSAL, "--config", "mine.toml", "--drop-misaligned"), parsed(REFUSAL, "--config", "mine.toml"))


def test_every_switch_can_be_taken_back():
    switches = {(name, case): a for case in CASES for name, a in options(parser(CASES[case])) if a.nargs == 0}
    assert {name for name, _ in switches} >= {
        "judge",
        "no-images",
        "any-sae",
        "unit-norm",
        "trust-remote-code",
        "again",
    }
    for (name, case), action in switches.items():
        back = f"--{name.removeprefix('no-')}" if name.startswith("no-") else f"--no-{name}"
        assert getattr(parsed(CASES[case], f"--{name}"), action.dest) is True
        assert getattr(parsed(CASES[case], f"--{name}", back), action.dest) is False
        assert same(parsed(CASES[case], back), parsed(CASES[case]))


# --- paths -----------------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_file():
    args = config('pairs = "p.csv"\ndiverse = "../d.csv"\nout = "/abs"\nmetric = "refusal:p"\n', path="sub/mine.toml")
    assert (args.pairs, args.diverse, args.out, args.metric) == ("sub/p.csv", "sub/../d.csv", "/abs", "refusal:p")
    assert config('pairs = "~/p.csv"\n').pairs == str(Path("~/p.csv").expanduser())


def test_every_option_that_names_a_file_or_a_folder_is_known_as_one():
    said = {name for case in CASES.values() for name, a in options(parser(case)) if {"folder", "CSV"} & {*_words(a)}}
    assert said == {*PATHS, *NAMES_OR_PATHS}


def _words(action: argparse.Action) -> list[str]:
    return (action.help or "").replace(",", " ").replace(":", " ").split()


def test_a_model_is_a_folder_beside_the_file_or_else_a_name(here: Path):
    (here / "sub" / "google" / "gemma-2b-it").mkdir(parents=True)
    assert config('model = "google/gemma-2b-it"', path="sub/mine.toml").model == "sub/google/gemma-2b-it"
    assert config('model = "google/gemma-2b-it"').model == "google/gemma-2b-it"  # a hub id: no such folder there
    (here / "sub" / "refusal-gemma").mkdir()
    assert config('model = "refusal-gemma"', path="sub/mine.toml").model == "refusal-gemma"
    (here / "checkpoint").mkdir()
    with pytest.raises(CircuitError, match=r"there is such a folder here, but none at sub/checkpoint\npaths in a file"):
        config('model = "checkpoint"', path="sub/mine.toml")


def test_a_file_written_elsewhere_names_the_same_places(here: Path):
    for folder in ("away", "checkpoint", "real/deep"):
        (here / folder).mkdir(parents=True)
    (here / "link").symlink_to(here / "real" / "deep")
    (here / "pairs.csv").write_text("clean,corrupt\n")
    flags = parsed(
        REFUSAL, "--pairs", "pairs.csv", "--model", "checkpoint", "--out", "link/../runs", "--figures", "/abs"
    )
    write(flags, Path("away/mine.toml"))
    args = parsed(REFUSAL, "--config", "away/mine.toml")
    for name in ("pairs", "model", "out", "figures"):
        assert Path(getattr(args, name)).resolve() == Path(getattr(flags, name)).resolve()
    assert args.pairs != flags.pairs
    rest = set(vars(flags)) - {"pairs", "model", "out", "figures"}
    assert {name: getattr(args, name) for name in rest} == {name: getattr(flags, name) for name in rest}


def test_bundled_names_are_those_that_load_knows():
    from circuits.model.resolve import bundled_models as known

    assert bundled_models() == known()


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("treshold = 0.3", "no option is called 'treshold'; near: threshold"),
        ("max_kL = 0.3", "no option is called 'max_kL'; near: max-kl"),
        ("zzz = 1", "no option is called 'zzz'\n"),
        ("[case]\nseed = 1", "no option is called 'case'"),
        ('config = "other.toml"', "'config' is for the command line alone"),
        ("max-kl = 1\nmax_kl = 2", "'max-kl' and 'max_kl' are one option"),
        ("seed = 1.5", "argument --seed: invalid int value: '1.5'"),
        ('seed = "x"', "argument --seed: invalid int value: 'x'"),
        ("seed = [1]", "seed takes one value, not a list"),
        ("seed = true", "seed = true: it is no switch and takes a value"),
        ("seed = 2024-01-01", "an option holds text, numbers"),
        ("seed = {a = 1}", "an option holds text, numbers"),
        ("seed = 0x" + "f" * 5000, "too large a number"),
        ("seed = " + "9" * 5000, "is not TOML"),
        ('dtype = "float8"', "argument --dtype: invalid choice: 'float8'"),
        ("groups = []", "argument --groups: expected at least one argument"),
        ('groups = "a=0:2"', "groups takes a list"),
        ('groups = ["a=0:2", "--trust-remote-code"]', "'--trust-remote-code', which would be read as a flag"),
        ("drop-misaligned = 1", "a switch is true or false"),
        ('drop-misaligned = "yes"', "a switch is true or false"),
        ('metric = "a\\u0000b"', "NUL"),
        ("seed 3", "is not TOML: Expected '='"),
        ("seed = " + "[" * 20000, "is not TOML"),
    ],
)
def test_files_that_are_none(text: str, said: str):
    with pytest.raises(CircuitError) as error:
        config(text)
    assert "mine.toml" in str(error.value)
    assert said in str(error.value)


def test_a_value_is_never_read_as_another_flag():
    assert config('metric = "--trust-remote-code"').trust_remote_code is False
    assert config('metric = "--trust-remote-code"').metric == "--trust-remote-code"


def test_files_that_cannot_be_read(here: Path):
    with pytest.raises(CircuitError, match=r"--config none.toml: cannot be read: No such file"):
        parsed(REFUSAL, "--config", "none.toml")
    with pytest.raises(CircuitError, match="cannot be read: Is a directory"):
        parsed(REFUSAL, "--config", str(here))
    (here / "latin.toml").write_bytes(b'metric = "caf\xe9"')
    with pytest.raises(CircuitError, match=r"not UTF-8 text \(byte 13\)"):
        parsed(REFUSAL, "--config", "latin.toml")
    (here / "windows.toml").write_bytes(b"\xef\xbb\xbfseed = 3\r\nthreshold = 0.5\r\n")
    assert parsed(REFUSAL, "--config", "windows.toml").seed == 3


# --- from the command line -------------------------------------------------------------------------------------------


def small(study) -> Case:
    return Case("nowhere.at_all", "?", study, options=(shared.pairs, shared.alphas))


def test_the_study_is_given_what_flags_would_have_given(capsys: pytest.CaptureFixture[str]):
    seen: list[argparse.Namespace] = []
    case = small(lambda args, _: seen.append(args) or Path("index.html"))
    Path("mine.toml").write_text("alphas = [0.5, -0.00001]\nseed = 7\nno-images = true\n")
    assert main(case, ["--config", "mine.toml", "--seed", "8"]) == 0
    assert main(case, ["--alphas", "0.5", "-0.00001", "--seed", "8", "--no-images"]) == 0
    commands = [vars(args).pop("command") for args in seen]
    assert same(*seen)
    assert commands[0] == "python -m nowhere.at_all --config mine.toml --seed 8"
    assert "report    index.html" in capsys.readouterr().out


def test_showing_and_writing_run_nothing(capsys: pytest.CaptureFixture[str]):
    ran: list[int] = []
    case = small(lambda _args, _progress: ran.append(1) or Path())
    assert main(case, ["--seed", "5", "--alphas", "-1", "--pairs", "mine.csv", "--show-config"]) == 0
    shown = capsys.readouterr().out
    assert "# not given: metric, out, figures" in shown
    assert tomllib.loads(shown)["alphas"] == [-1.0]
    assert same(config(shown, case=case), parsed(case, "--seed", "5", "--alphas", "-1", "--pairs", "mine.csv"))
    assert main(case, ["--seed", "5", "--write-config", "new.toml"]) == 0
    assert parsed(case, "--config", "new.toml").seed == 5
    assert main(case, ["--config", "new.toml", "--write-config", "new.toml"]) == 2
    assert main(case, ["--write-config", "nowhere/new.toml"]) == 2
    said = capsys.readouterr().err
    assert "new.toml exists" in said
    assert "cannot write nowhere/new.toml" in said
    assert ran == []


def test_a_bad_file_ends_with_2_and_no_traceback(capsys: pytest.CaptureFixture[str]):
    Path("mine.toml").write_text("sed = 1\n")
    assert main(REFUSAL, ["--config", "mine.toml"]) == 2
    assert capsys.readouterr().err == (
        "error: mine.toml: no option is called 'sed'; near: seed\n"
        "python -m circuits.cases.gemma_refusal --help lists all options\n"
    )
    Path("mine.toml").write_text("max-new-tokens = 0\n")
    assert main(REFUSAL, ["--config", "mine.toml", "--show-config"]) == 2


def test_a_wrong_flag_is_argparse_s_own_error(capsys: pytest.CaptureFixture[str]):
    Path("mine.toml").write_text("seed = 1\n")
    with pytest.raises(SystemExit) as stop:
        main(REFUSAL, ["--config", "mine.toml", "--seed", "x"])
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_word_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(REFUSAL, ["--pairs", os.fsdecode(b"caf\xe9.csv")]) == 2
    assert "is not UTF-8 text" in capsys.readouterr().err


def test_a_disk_that_refuses_is_said():
    with pytest.raises(OutputError, match="cannot write"):
        write(parsed(REFUSAL), Path(string.ascii_letters * 10))
