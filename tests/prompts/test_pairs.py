"""Pairs are read from anywhere, and every complaint names file, row and column."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import CircuitError
from circuits.prompts import Pair, PairSet

CSV = "clean,corrupt,answer,wrong\na bomb,a table,I,Sure\n\n a gun,a shed,,\n"


def test_csv_keeps_cells_as_they_are_and_blank_options_as_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(CSV, encoding="utf-8-sig")  # as spreadsheets write it
    pairs = PairSet.from_csv(path)
    assert pairs.name == "mine"
    assert list(pairs) == [Pair("a bomb", "a table", "I", "Sure"), Pair(" a gun", "a shed")]


def test_json_takes_a_list_or_an_object(tmp_path: Path) -> None:
    entries = [{"clean": "a", "corrupt": "b", "answer": None, "note": 3}]
    for name, data in (("list", entries), ("object", {"pairs": entries, "model": "x"})):
        (tmp_path / name).write_text(json.dumps(data))
        assert PairSet.from_json(tmp_path / name).pairs == (Pair("a", "b"),)


def test_indexing_gives_a_pair_and_slicing_a_set() -> None:
    pairs = PairSet.from_pairs([("a", "b"), ("c", "d"), Pair("e", "f", source="x")], name="three")
    assert len(pairs) == 3
    assert pairs[-1] == Pair("e", "f", source="x")
    assert isinstance(pairs[1:], PairSet)
    assert pairs[1:].name == "three"
    assert Pair("c", "d") in pairs


texts = st.text(min_size=1).filter(
    lambda text: bool(text.strip()) and "\r" not in text and "\x00" not in text
)
pair_lists = st.lists(st.tuples(texts, texts), min_size=1, max_size=5)


@given(pair_lists)
def test_frame_and_csv_give_back_what_they_were_given(said: list[tuple[str, str]]) -> None:
    pairs = PairSet.from_pairs(said)
    assert PairSet.from_frame(pairs.to_frame()).pairs == pairs.pairs
    assert PairSet.from_frame(pd.DataFrame(said, columns=["clean", "corrupt"])).hash == pairs.hash


@given(pair_lists, pair_lists)
def test_hash_tells_sets_apart(some: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    left, right = PairSet.from_pairs(some), PairSet.from_pairs(other, name="other")
    assert (left.hash == right.hash) == (some == other)


def test_csv_round_trip_keeps_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    pairs = PairSet.from_pairs([('say "a, b"\nnow', "say c", " She", " He", "ours")])
    path = tmp_path / "p.csv"
    pairs.to_frame().to_csv(path, index=False)
    assert PairSet.from_csv(path).pairs == pairs.pairs


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, ["does not exist", "p.csv"]),
        (b"", ["p.csv is empty", "clean, corrupt"]),
        (b"\n\n", ["p.csv is empty"]),
        (b"clean,corrupt\n", ["header and no rows"]),
        (b"harmful,harmless\na,b\n", ["no column clean and no column corrupt", "has   harmful, harmless"]),
        (b"clean,harmless\na,b\n", ["no column corrupt", "needs clean, corrupt (and may have answer, wrong"]),
        (b"clean;corrupt\na;b\n", ["no column clean", "separate the columns with commas, not ';'"]),
        (b"clean,clean,corrupt\na,b,c\n", ["column clean comes twice"]),
        (
            b"clean,corrupt\na,b\n\nc,\n ,d\n",
            ["2 cells", "row 4, column corrupt: blank", "row 5, column clean"],
        ),
        (b"clean,corrupt\na, b, c\nd,e\n", ["1 row does not match", "row 2 has 3 cells", "double quotes"]),
        (b"clean,corrupt\na,b\nc\xff,d\n", ["not UTF-8", "byte 0xff in row 3"]),
        ("clean,corrupt\na,b\n".encode("utf-16"), ["not UTF-8", "row 1"]),
        (b'clean,corrupt\n"a,b\n', ["not a CSV file"]),
    ],
)
def test_bad_csv_names_file_row_and_column(tmp_path: Path, content: bytes | None, told: list[str]) -> None:
    path = tmp_path / "p.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CircuitError) as error:
        PairSet.from_csv(path)
    assert str(path) in str(error.value)
    assert "\n" in str(error.value)
    for part in told:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('[{"clean": "a", "corrupt": }]', ["is not JSON", "line 1, column 28"]),
        ('{"clean": "a"}', ["holds an object", '"pairs"']),
        ('"text"', ["holds a text"]),
        ("[]", ["holds no pairs"]),
        ('[{"clean": "a", "corrupt": "b"}, "c"]', ["entry 1 is a text"]),
        ('[{"clean": "a"}, {"clean": 3, "corrupt": ""}]', ["3 cells", "entry 0, column corrupt: missing",
         "entry 1, column clean: a number, not text", "entry 1, column corrupt: blank"]),
    ],
)  # fmt: skip
def test_bad_json_names_file_and_entry(tmp_path: Path, content: str, told: list[str]) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(CircuitError) as error:
        PairSet.from_json(path)
    for part in [str(path), *told]:
        assert part in str(error.value)


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match="cannot be read"):
        PairSet.from_csv(tmp_path)


def test_bad_frames_and_tuples_name_the_row() -> None:
    with pytest.raises(CircuitError, match="no column corrupt"):
        PairSet.from_frame(pd.DataFrame({"clean": ["a"]}))
    with pytest.raises(CircuitError, match="row 1, column corrupt: blank"):
        PairSet.from_frame(pd.DataFrame({"clean": ["a", "b"], "corrupt": ["c", float("nan")]}, index=[7, 9]))
    with pytest.raises(CircuitError, match="no rows"):
        PairSet.from_frame(pd.DataFrame({"clean": [], "corrupt": []}))
    with pytest.raises(CircuitError, match="pair 1, column corrupt: missing"):
        PairSet.from_pairs([("a", "b"), ("a",)])
    with pytest.raises(CircuitError, match="'ab' is not a pair"):
        PairSet.from_pairs(["ab"])


def test_pairs_load_without_torch_and_pandas(root: Path) -> None:
    code = (
        "import sys, circuits.prompts as p; p.PairSet.from_pairs([('a', 'b')]); "
        "sys.exit(' '.join({'torch', 'pandas', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_exported_name_resolves() -> None:
    from circuits import prompts

    assert all(getattr(prompts, name) is not None for name in prompts.__all__)
    assert dir(prompts) == sorted(prompts.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = prompts.nothing
