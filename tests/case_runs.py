"""Cases run on few prompts of a bundled model, their pages read again, and the model as Hugging Face alone runs it."""

from __future__ import annotations

import atexit
import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import oracle
import pandas as pd
import pytest
import torch
from oracle import Edit
from torch import Tensor

from circuits.case import Case
from circuits.model import load
from circuits.model.resolve import resolve
from circuits.prompts import capability_instructions, diverse_instructions, toy_refusal_pairs

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ("gemma2_replication", "incapability", "rotation_plane", "single_direction")
"""The cases that are written with `circuits.case.study`."""
LABELS = {"incapability": ("harmful", "harmless", "incapable")}
"""Which labels a case needs; harmful and harmless unless it says otherwise."""
NEW = 6
"""Tokens of every completion."""


def case(name: str) -> Case:
    """What `python -m circuits.cases.NAME` runs."""
    return import_module(f"circuits.cases.{name}.__main__").CASE


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def instructions(path: Path, each: int = 12, labels: Sequence[str] = ("harmful", "harmless")) -> str:
    """A file of the first `each` bundled instructions of every label."""
    every = (diverse_instructions() + capability_instructions()).of_source("grammar")
    some = [i for label in labels for i in every.labelled(label)[:each]]
    return write_rows(path, ("instruction", "label"), [(i.text, i.label) for i in some])


def pairs(path: Path, first: int = 3, n: int = 6) -> str:
    """A file of `n` bundled pairs."""
    return write_rows(
        path, ("clean", "corrupt"), [(p.clean, p.corrupt) for p in toy_refusal_pairs()[first : first + n]]
    )


def texts(done: Run, label: str, half: int) -> list[str]:
    """The instructions of one label that directions are found on (half 0), or tested on (1), as the file has them."""
    every = pd.read_csv(done.given / "asked.csv")
    return every.loc[every["label"] == label, "instruction"].tolist()[half::2]


def few(name: str, folder: Path) -> list[str]:
    """Arguments that give a case few prompts of its bundled model, and little to do."""
    asked = (
        pairs(folder / "pairs.csv"),
        instructions(folder / "asked.csv", labels=LABELS.get(name, ("harmful", "harmless"))),
    )
    return {
        "gemma2_replication": ["--pairs", asked[0], "--coefficients", "-2", "2", "--threshold", "0.1"],
        "incapability": ["--instructions", asked[1], "--alphas", "1", "1.5"],
        "rotation_plane": ["--instructions", asked[1], "--angles", "0", "60", "120", "180", "240", "300"],
        "single_direction": ["--pairs", asked[0], "--instructions", asked[1], "--alphas", "1", "--tasks"],
    }[name] + ["--no-images", "--max-new-tokens", str(NEW)]


@cache
def finished(name: str) -> Run:
    """A case run on few prompts as a user runs it, once for all tests; its folder has what it was given, and `runs`."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    words = [sys.executable, "-m", case(name).module, *few(name, folder)]
    ran = subprocess.run(
        words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr[-3000:]
    (out,) = (folder / "runs" / name).iterdir()
    return Run(name, folder, out, ran.stdout)


@dataclass(frozen=True)
class Run:
    """What a finished case left in its folder."""

    name: str
    given: Path
    """The folder that it ran in."""
    out: Path
    stdout: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))

    @cached_property
    def page(self) -> str:
        """The page's own HTML."""
        return (self.out / "index.html").read_text(encoding="utf-8")

    @cached_property
    def sections(self) -> dict[str, str]:
        """Section id -> its HTML without data of figures."""
        bare = re.sub(r"<script.*?</script>", "", self.page, flags=re.DOTALL)
        return {m[1]: m[2] for m in re.finditer(r'<section id="([^"]+)" class="step">(.*?)</section>', bare, re.DOTALL)}

    def claim(self, section: str) -> str:
        return _one(r'<p class="claim">(.*?)</p>', self.sections[section])

    def published(self, section: str) -> str:
        """The write-up's finding that stands beside a section; "" for none."""
        found = re.search(r'<aside class="published">.*?<p>(.*?)</p></aside>', self.sections[section], re.DOTALL)
        return html.unescape(found[1]) if found else ""

    def stems(self, section: str) -> list[str]:
        """Its figures."""
        return re.findall(r'<a href="figures/([^"]+)\.html">', self.sections[section])

    def data(self, stem: str) -> pd.DataFrame:
        return pd.read_csv(self.out / "data" / f"{stem}.csv", keep_default_na=True)

    def table(self, section: str) -> pd.DataFrame:
        return pd.read_csv(self.out / "tables" / f"{section}.csv")

    @cached_property
    def completions(self) -> list[tuple[str, str, bool, str]]:
        """Prompt, setting, refused and text of every completion on the page."""
        found: list[tuple[str, str, bool, str]] = []
        for article in re.findall(r'<article class="prompt">(.*?)</article>', self.page, re.DOTALL):
            prompt = _one(r"<h4>(.*?)</h4>", article)
            for mark, refused, text in re.findall(
                r'<p class="mark">(.*?) <span class="badge (refused|answered)">.*?<p class="text">(.*?)</p>',
                article,
                re.DOTALL,
            ):
                found.append((prompt, html.unescape(mark), refused == "refused", html.unescape(text)))
        return found


def _one(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.DOTALL)
    assert found, f"no {pattern}"
    return html.unescape(found[1])


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_forward(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Fails at the first forward pass of a model that a case loads, but for the proofs that loading them makes."""
    from circuits.case import study

    ran: list[int] = []

    def watched(*args: Any, **knobs: Any) -> Any:
        model = _loaded(*args, **knobs)
        hooks.append(model.parts.embed.register_forward_hook(forward))
        return model

    def forward(*_: Any) -> None:
        ran.append(1)
        pytest.fail("it ran the model first")

    forward.__module__ = "circuits.watched"  # somebody else's hook would make it another model, and another run
    hooks: list[Any] = []
    monkeypatch.setattr(study, "load", watched)
    yield ran
    for hook in hooks:
        hook.remove()


@cache
def _loaded(*args: Any, **knobs: Any) -> Any:
    return load(*args, **knobs)


# --- the same model, without this package ---------------------------------------------------------------------------------


@cache
def raw(name: str) -> tuple[Any, Any]:
    """A bundled model and its tokenizer as Hugging Face alone loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve(name).path
    hf = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    return hf, AutoTokenizer.from_pretrained(path)


def asked(name: str, text: str) -> Tensor:
    """Ids of one prompt in the chat template."""
    _, tokenizer = raw(name)
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
    )
    return torch.tensor(tokenizer.encode(said, add_special_tokens=False))


def resid(name: str, text: str, layer: int) -> Tensor:
    """What enters a layer at the last position of one prompt."""
    hf, _ = raw(name)
    with torch.no_grad():
        return hf(input_ids=asked(name, text)[None], output_hidden_states=True, use_cache=False).hidden_states[layer][
            0, -1
        ]


def mean_difference(name: str, of: Sequence[str], against: Sequence[str], layer: int) -> Tensor:
    means = [torch.stack([resid(name, text, layer) for text in side]).mean(0) for side in (of, against)]
    return means[0] - means[1]


def logits(name: str, text: str, edits: Callable[[int], list[Edit]] = lambda _: []) -> Tensor:
    """At the last position of one unpadded prompt; `edits` are those of a run over so many tokens."""
    ids = asked(name, text)
    return oracle.run(raw(name)[0], ids, edits(len(ids)))[0][-1]


def says(name: str, text: str, edits: Callable[[int], list[Edit]] = lambda _: [], new: int = NEW) -> str:
    """A greedy completion: the whole unpadded sequence again for every token, edits and all."""
    hf, tokenizer = raw(name)
    ids = start = asked(name, text)
    stop = hf.generation_config.eos_token_id
    for _ in range(new):
        token = int(oracle.run(hf, ids, edits(len(ids)))[0][-1].argmax())
        ids = torch.cat([ids, torch.tensor([token])])
        if token in (stop if isinstance(stop, list) else [stop]):
            break
    return tokenizer.decode(ids[len(start) :], skip_special_tokens=True)


def ablated(name: str, v: Tensor, alpha: float) -> Callable[[int], list[Edit]]:
    """A direction taken out of everything that is written to the residual stream, at every position."""
    layers = range(raw(name)[0].config.num_hidden_layers)

    def edits(n: int) -> list[Edit]:
        change = oracle.formula(range(n), oracle.ablated(v, alpha))
        written = [Edit(kind, layer, change) for layer in layers for kind in ("attn_out", "mlp_out")]
        return [Edit("resid_pre", 0, change), *written]

    return edits
