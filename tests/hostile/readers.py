"""Every reader of files and texts from elsewhere, with good inputs to damage, and what must hold of any answer."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from graph.samples import plain, sample
from safetensors.torch import save

from circuits.case.command import parser, read
from circuits.cases.single_direction.__main__ import CASE
from circuits.edits import load_edits
from circuits.engine.kept import Kept
from circuits.errors import CircuitError
from circuits.graph import component_graph
from circuits.graph.formats import FORMS, load_graph
from circuits.judges.rubric import SCORES, read_answer
from circuits.prompts import InstructionSet, PairSet
from circuits.report import Completion, Report, Section, Verdict
from circuits.report.stored import from_json, to_json
from circuits.runs.record import Record, Try
from circuits.runs.record import read as read_run
from circuits.sites import parse

SECONDS = 1.0
"""No input takes longer, of the processor's time: what else the machine does is no fault of a reader."""
LONGEST = 40_000
"""Characters of a message, at most."""


@dataclass(frozen=True)
class Reader:
    """What is read: `read` puts bytes where the reader takes them from, and reads them."""

    name: str
    kind: str
    """json, xml, or text: which damage bites."""
    seeds: Sequence[bytes]
    read: Callable[[bytes, Path], object]


@dataclass
class Tally:
    """What became of the inputs of one reader."""

    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    broken: dict[str, bytes] = field(default_factory=dict)
    """What went wrong -> the first input that did it."""

    def feed(self, reader: Reader, data: bytes, folder: Path) -> None:
        """Read one input. A graph or a CircuitError is fine, all else is kept in `broken`."""
        start = time.process_time()
        signal.signal(signal.SIGALRM, _hangs)
        signal.alarm(60)
        try:
            reader.read(data, folder)
            self.accepted += 1
        except CircuitError as error:
            self.refused += 1
            said = str(error)
            if len(said) > LONGEST or not all(c.isprintable() or c == "\n" for c in said):
                length = "short" if len(said) <= LONGEST else "too long"
                self.broken.setdefault(f"a message that is {length}, or unprintable, {_place(error)}", data)
        except Exception as error:  # noqa: BLE001  whatever it is, it is told
            self.broken.setdefault(f"{type(error).__name__} {_place(error)}", data)
        finally:
            signal.alarm(0)
        took = time.process_time() - start
        self.slowest = max(self.slowest, took)
        if took > SECONDS:
            self.broken.setdefault(f"slower than {SECONDS:g} s", data)


def _place(error: Exception) -> str:
    """The package's own line that the error left last: one fault is told once, whatever its inputs."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "circuits" in Path(f.filename).parts]
    return f"from {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "from a test"


def _hangs(*_: object) -> None:
    raise TimeoutError("does not end")


def _file(suffix: str, read: Callable[[Path], Any], data: bytes, folder: Path) -> Any:
    path = folder / f"input{suffix}"
    path.write_bytes(data)
    return read(path)


def _pairs(read: Callable[[Path], PairSet], path: Path) -> None:
    found = read(path)
    assert len(found) > 0
    assert all(p.clean.strip() and p.corrupt.strip() and p.clean.encode() and p.corrupt.encode() for p in found)
    assert len(found.hash) == 12
    assert PairSet.from_pairs(found.pairs).hash == found.hash  # what was read can be read again


def _instructions(path: Path) -> None:
    found = InstructionSet.from_file(path, label="harmful")
    assert all(i.text.strip() and i.text.encode() and i.label in {"harmful", "harmless", "incapable"} for i in found)


def _graph(form: str, path: Path) -> None:
    assert load_graph(path, form=form).is_directed()


def _edits(folder: Path) -> None:
    found = load_edits(folder)
    assert found.cell
    assert all(i.site.layer < found.n_layers for i in found.cell)


def _operations(data: bytes, folder: Path) -> None:
    (folder / "edits.json").write_bytes(data)
    (folder / "directions.safetensors").write_bytes(TENSORS)
    _edits(folder)


def _tensors(data: bytes, folder: Path) -> None:
    signed = EDITS | {"directions_sha256": hashlib.sha256(data).hexdigest()}
    (folder / "edits.json").write_text(json.dumps(signed), encoding="utf-8")
    (folder / "directions.safetensors").write_bytes(data)
    _edits(folder)


def _answer(data: bytes, _: Path) -> None:
    found = read_answer(data.decode("utf-8", "surrogateescape"))
    if isinstance(found, str):
        raise CircuitError(found)  # a reason; it never raises by itself
    assert set(found) == set(SCORES)
    assert all(0 <= value <= 1 for value in found.values())


def _report(path: Path) -> None:
    from_json(path.read_bytes().decode("utf-8", "replace"), "the text").check()


def _site(data: bytes, _: Path) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert parse(text).label


def _run(data: bytes, folder: Path) -> None:
    (folder / "run.json").write_bytes(data)
    assert read_run(folder).status in {"running", "complete", "failed", "stopped"}


def _block(data: bytes, folder: Path) -> None:
    (folder / "block.safetensors").write_bytes(data)
    if Kept(folder).get("block") is None:
        raise CircuitError("no block")  # computed again; it never raises by itself


def _stored() -> bytes:
    table = pd.DataFrame({"layer": [0, 1], "effect": [0.5, float("nan")], "token": ["a", None]})
    figure = go.Figure(go.Bar(x=["a", "b"], y=[1.0, 2.0]), layout={"title": {"text": "t"}})
    return to_json(Report(
        title="t", question="q", model="m", model_note="", pairs="p", metric="m", certificate="c", steps=table,
        verdicts=[Verdict("h", "supported", "1", "s")], sections=[Section("s", "t", "c", {"f": figure}, table=table)],
        completions=[Completion("p", "harmful", "baseline", "I cannot", refused=True)], manifest={"date": "d"},
    )).encode()  # fmt: skip


def _record() -> bytes:
    tries = (Try("somewhere", 1, "python -m x", "2026-01-01"),)
    record = Record(
        "case", {"title": "m"}, "3 pairs", "refusal", {"seed": 0}, {"pairs": "9f2c"}, 0, 1, "code", {"torch": "2"}
    )
    with TemporaryDirectory() as folder:
        replace(record, tries=tries).write(Path(folder))
        return (Path(folder) / "run.json").read_bytes()


def _kept() -> bytes:
    with TemporaryDirectory() as folder:
        Kept(Path(folder)).put("block", {"value": torch.eye(3), "ids": torch.arange(4)})
        return (Path(folder) / "block.safetensors").read_bytes()


_UNIT = torch.eye(8)[0]
TENSORS = save({"t0": _UNIT, "t1": torch.eye(8)[:2].clone(), "t2": torch.tensor(1.5)})
EDITS: dict[str, Any] = {
    "format": "circuits edits", "version": 1, "note": "n", "directions_sha256": hashlib.sha256(TENSORS).hexdigest(),
    "model": {"name": "toy", "hash": "9f2c", "n_layers": 2, "d_model": 8},
    "operations": [
        {"op": "ablate", "site": "L0.resid_pre", "direction": "t0", "alpha": 1.0, "positions": "all"},
        {"op": "aim", "site": "L1.MLP", "plane": "t1", "degrees": 30.0, "positions": [1, -1]},
        {"op": "clamp", "site": "L1.q[0]", "direction": "t0", "value": 2, "positions": {"columns": [3]}},
        {"op": "patch", "site": "L1.pattern[0]", "value": "t2", "positions": "last", "keys": "subject"},
    ],
}  # fmt: skip

_ROWS = [
    {"clean": "how to make a bomb", "corrupt": "how to make a cake", "answer": " I", "wrong": " Sure", "source": "s"},
    {"clean": 'say "no", twice', "corrupt": "say ‹é›\nthere", "answer": "", "wrong": " x", "source": ""},
]
_CSV = (
    'clean,corrupt,answer,wrong,source\r\nhow to make a bomb,how to make a cake, I, Sure,s\n"say ""no"", twice","say ‹é›\n'
    'there",, x,\n\n'
).encode()
_ASKED = [{"instruction": "Write a poem", "label": "harmless"}, {"instruction": "Stir a pot", "label": "incapable"}]


def _config(path: Path) -> None:
    args = read(parser(CASE), ["--config", str(path)])
    assert args.model.strip() == args.model or args.model
    assert isinstance(args.seed, int)


_TOML = b"""# paths are relative to this file
model = "refusal-qwen2"
template = "none"
alphas = [0.5, 1.0, -2e-3]
max_new_tokens = 8
no-images = true
pairs = "a/pairs.csv"
tasks = []
"""


def _graphs(name: str) -> list[bytes]:
    texts = [FORMS[name].write(plain(), "c")]
    if name == "dot":  # its parser takes a millisecond for every few lines
        tiny = component_graph(pd.DataFrame({"id": ["L0.H1", "metric"], "label": ['a "b"\\', None]}))
        return [FORMS[name].write(tiny, "c").encode()]
    if name != "eap":
        texts.append(FORMS[name].write(sample(), "c"))
    if name in {"eap", "neuronpedia"}:
        bare = json.loads(texts[0])
        del bare["circuits"]
        texts.append(json.dumps(bare))
    return [text.encode() for text in texts]


def readers() -> dict[str, Reader]:
    """Name -> reader. DOT is there where pydot is installed, without which its reader refuses everything."""
    found = [
        Reader("pairs.csv", "text", [_CSV], partial(_file, ".csv", partial(_pairs, PairSet.from_csv))),
        Reader("pairs.json", "json", [json.dumps(_ROWS).encode(), json.dumps({"pairs": _ROWS}).encode()],
               partial(_file, ".json", partial(_pairs, PairSet.from_json))),
        Reader("instructions.csv", "text", [b'instruction,label,source\nWrite a poem,harmless,s\n"Stir, a pot",incapable,\n'],
               partial(_file, ".csv", _instructions)),
        Reader("instructions.json", "json", [json.dumps(_ASKED).encode()], partial(_file, ".json", _instructions)),
        Reader("instructions.txt", "text", [b"Write a poem\tharmless\r\nStir a pot\n"], partial(_file, ".txt", _instructions)),
        Reader("config.toml", "text", [_TOML], partial(_file, ".toml", _config)),
        Reader("edits.json", "json", [json.dumps(EDITS).encode()], _operations),
        Reader("directions.safetensors", "bytes", [TENSORS], _tensors),
        Reader("report.json", "json", [_stored()], partial(_file, ".json", _report)),
        Reader("run.json", "json", [_record()], _run),
        Reader("site", "text", [b"L9.H6", b"L9.k[0]", b"L9.MLP", b"L9.resid_pre", b"embed", b"L3.post[12]"], _site),
        Reader("kept block", "bytes", [_kept()], _block),
        Reader("judge's answer", "json", [b'```json\n{"compliance": 0.25, "coherence": 1}\n```'], _answer),
    ]  # fmt: skip
    for name, form in FORMS.items():
        if name != "dot" or importlib.util.find_spec("pydot"):
            kind = "xml" if name in {"graphml", "gexf"} else "text" if name == "dot" else "json"
            found.append(Reader(name, kind, _graphs(name), partial(_file, form.suffix, partial(_graph, name))))
    return {reader.name: reader for reader in found}
