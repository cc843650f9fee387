"""Files and texts from elsewhere: a value or a CircuitError comes out, soon, and no message can steer a terminal."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from pathlib import Path

import pytest
from hostile.mutate import mutated
from hostile.readers import Tally, readers

from circuits.edits import load_edits
from circuits.errors import CircuitError, OutputError
from circuits.graph import load_graph
from circuits.graph.formats import FORMS, parse_graph, plain_json
from circuits.judges.answers import Answers
from circuits.judges.rubric import read_answer
from circuits.prompts import InstructionSet, PairSet, reading

READERS = readers()
INPUTS = 150
DEEP = 100_000


@pytest.mark.parametrize("name", READERS)
def test_damage_ends_in_a_value_or_an_error_of_ours(name: str, tmp_path: Path):
    reader, tally, rng = READERS[name], Tally(), random.Random(1)
    for seed in reader.seeds:
        tally.feed(reader, seed, tmp_path)
    assert (tally.accepted, tally.refused, tally.broken) == (len(reader.seeds), 0, {})
    for _ in range(INPUTS):
        tally.feed(reader, mutated(rng.choice(reader.seeds), reader.kind, rng), tmp_path)
    assert tally.broken == {}
    assert tally.refused > INPUTS // 4  # the damage bites
    assert tally.accepted > len(reader.seeds) or name in {"directions.safetensors", "eap"}  # and is not always fatal


def _refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    read = {".csv": PairSet.from_csv, ".json": PairSet.from_json, ".txt": InstructionSet.from_file}[path.suffix]
    with pytest.raises(CircuitError) as refusal:
        read(path)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[" * DEEP, "nested too deeply"),
        (b'{"pairs":' * DEEP, "nested too deeply"),
        (b'[{"clean": ' + b"9" * 10_000 + b"}]", "not JSON that can be read"),
        (b'[{"clean": 1e999, "corrupt": "b"}]', "column clean: a number, not text"),
        (b'[{"clean": "a", "clean": "b", "corrupt": "c"}]', "the name clean stands twice in one object"),
        (b'{"pairs": [], "pairs": []}', "the name pairs stands twice in one object"),
        (b'[{"clean": "a\\u0000", "corrupt": "b"}]', "column clean: the character U+0000, which is no text"),
        (b'[{"clean": "a", "corrupt": "\\ud800"}]', "column corrupt: the character U+D800, which is no text"),
        (b'[{"clean": "a", "corrupt": "b"}', "is not JSON"),
        (b"\xff\xfe[\x00]\x00", "is not UTF-8"),
    ],
)
def test_json_of_pairs_that_is_none(data: bytes, said: str, tmp_path: Path):
    assert said in _refused(tmp_path / "pairs.json", data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"clean,corrupt\na\x00,b\n", "the character U+0000"),
        ("clean,corrupt\na,b\n".encode("utf-16-le"), "no column clean"),
        (b'clean,corrupt\n"a,b\n', "is not a CSV file"),
        (b"clean,corrupt,clean\na,b,c\n", "column clean comes twice"),
        (b"clean,corrupt\n" + b"x" * 200_000 + b",b\n", "field larger than field limit"),
        (b"clean,corrupt\n" + b"a\n" * 1000, "… and 900 more"),
        (b"a" * 90_000 + b",b\nc,d\n", "it has   aaaa"),
    ],
)
def test_csv_of_pairs_that_is_none(data: bytes, said: str, tmp_path: Path):
    message = _refused(tmp_path / "pairs.csv", data)
    assert said in message
    assert len(message) < 10_000


def test_a_byte_order_mark_and_mixed_line_ends_change_nothing(tmp_path: Path):
    plain, mixed = tmp_path / "plain.csv", tmp_path / "mixed.csv"
    plain.write_bytes(b"clean,corrupt\na,b\nc,d\ne,f\n")
    mixed.write_bytes(b"\xef\xbb\xbfclean,corrupt\ra,b\r\nc,d\ne,f")
    assert PairSet.from_csv(plain).hash == PairSet.from_csv(mixed).hash


def test_a_line_of_instructions_ends_where_an_editor_ends_it(tmp_path: Path):
    path = tmp_path / "asked.txt"
    path.write_bytes("Write\u2028a\x0cpoem\tharmless\r\nStir\x85a pot\tincapable\rWalk\tincapable\n".encode())
    assert [i.text for i in InstructionSet.from_file(path)] == ["Write\u2028a\x0cpoem", "Stir\x85a pot", "Walk"]


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sparse = tmp_path / "pairs.csv"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    start = time.process_time()
    monkeypatch.setattr(reading, "LARGEST", 1 << 20)
    monkeypatch.setattr("circuits.graph.formats.LARGEST", 1 << 20)
    for path in (sparse, Path("/dev/zero")):
        with pytest.raises(CircuitError, match="has more than 1048576 bytes"):
            PairSet.from_csv(path)
        with pytest.raises(CircuitError, match="has more than 1048576 bytes"):
            load_graph(path, form="gexf")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", ["graphml", "gexf"])
def test_markup_that_would_grow_or_sink_is_refused(name: str):
    laughs = (
        "<!DOCTYPE a [" + "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 40)) + "]><a>&e39;</a>"
    )
    outside = '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>'
    start = time.process_time()
    for text in (laughs, outside, "<a>" * DEEP, "<a>" * DEEP + "</a>" * DEEP, f"<a {'x' * DEEP}='1'/>"):
        with pytest.raises(CircuitError, match="the text holds no component graph"):
            parse_graph(text, FORMS[name])
    assert time.process_time() - start < 2


def test_a_name_that_stands_twice_is_found_soon():
    names = ",".join(f'"n{i}":0' for i in range(50_000))
    start = time.process_time()
    with pytest.raises(CircuitError, match="'n49999' stands twice"):
        plain_json.load(f'{{{names},"n49999":1}}')
    assert time.process_time() - start < 1


def test_operations_that_name_a_key_twice(tmp_path: Path):
    reader = READERS["edits.json"]
    reader.read(reader.seeds[0], tmp_path)
    path = tmp_path / "edits.json"
    path.write_text(path.read_text().replace('"op": "ablate"', '"op": "ablate", "op": "add"'))
    with pytest.raises(CircuitError, match="'op' stands twice in one object"):
        load_edits(tmp_path)


# --- a judge and its answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"a":' * DEEP, '{"a":"' * 20_000, "{" * DEEP, '{"compliance": ' + "9" * 4000 + ', "coherence": 1}']
)
def test_an_answer_gives_a_reason_and_never_raises(text: str):
    start = time.process_time()
    assert isinstance(read_answer(text), str)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "kept", ['{"compliance": 7, "coherence": 1}', "[]", '{"other": 1}', "{" * 5000, "\x00", b"\xff", None]
)
def test_kept_answers_that_no_judge_gave_are_refused(kept: object, tmp_path: Path):
    path = tmp_path / "answers.sqlite"
    Answers(path).put("key", {"compliance": 1.0, "coherence": 0.5})
    assert Answers(path).get("key") == {"compliance": 1.0, "coherence": 0.5}
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE answers")
        db.execute("CREATE TABLE answers (key TEXT, scores)")
        db.execute("INSERT INTO answers VALUES ('key', ?)", (kept,))
    db.close()
    with pytest.raises(OutputError, match="cannot keep answers in .*answers.sqlite"):
        Answers(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    with pytest.raises(OutputError, match="cannot keep answers"):
        Answers(path)


# --- what a message shows --------------------------------------------------------------------------------------------------

STEERS = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u200b\r"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.csv", f"clean{STEERS},corrupt\na,b\n"),
        ("p.csv", f"clean,corrupt\na,b\n{STEERS}\n"),
        ("p.json", json.dumps([{"clean": "a", "corrupt": STEERS}, {"clean": "a"}, {STEERS: 1}])),
        ("p.json", json.dumps({STEERS: 1}).replace("1}", f"1, {json.dumps(STEERS)}: 2}}")),
        ("p.txt", f"Write\t{STEERS}\n"),
        (f"{STEERS}.csv", "clean\na\n"),
        (f"{STEERS}.json", "[{}]"),
        (f"{STEERS}.txt", ""),
    ],
)
def test_no_message_steers_a_terminal(name: str, data: str, tmp_path: Path):
    message = _refused(tmp_path / name.replace("/", ""), data.encode())
    assert all(c.isprintable() or c == "\n" for c in message), ascii(message)
