"""Tiny models shared by all tests of a session, each with an untouched Hugging Face copy for the oracle, and pairs."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch

from circuits.model import Model, load
from circuits.prompts import PairSet, TokenPairs

ARCHITECTURES = tiny.ARCHITECTURES
PARALLEL = ("gpt_neox",)
"""Attention and MLP read the same residual: there is none between them."""

# Unequal lengths, subjects first, in the middle and second from the last; the column of a subject is another in each.
UNEVEN = [
    ("w1 w2 w3 w4 w5 w6 w7", "w1 w2 w40 w4 w5 w6 w7", "w50", "w51"),
    ("w8 w9 w10 w11", "w41 w9 w10 w11", "w52", "w53"),
    ("w12 w13 w14 w15 w16 w17 w18 w19 w20", "w12 w13 w14 w15 w16 w17 w18 w42 w20", "w54", "w55"),
    ("w21 w22 w23 w24 w25", "w21 w22 w23 w43 w25", "w56", "w57"),
    ("w26 w27 w28 w29 w30 w31", "w26 w44 w28 w29 w30 w31", "w58", "w59"),
]
# One length and one subject column, as tools without attention masks need them.
EVEN = [
    ("w1 w2 w3 w4 w5 w6", "w1 w2 w40 w4 w5 w6", "w50", "w51"),
    ("w8 w9 w10 w11 w12 w13", "w8 w9 w41 w11 w12 w13", "w52", "w53"),
    ("w14 w15 w16 w17 w18 w19", "w14 w15 w42 w17 w18 w19", "w54", "w55"),
]


@cache
def _home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="tiny-models-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


@cache
def folder(architecture: str) -> Path:
    return tiny.write(architecture, _home() / architecture)


@cache
def model(architecture: str) -> Model:
    return load(str(folder(architecture)), device="cpu", tokenizer=tiny.tokenizer())


@cache
def raw(architecture: str) -> Any:
    """The checkpoint as Hugging Face alone loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder(architecture), attn_implementation="eager", dtype=torch.float32
    ).eval()


@cache
def uneven() -> TokenPairs:
    return PairSet.from_pairs(UNEVEN, name="uneven").tokenize(tiny.tokenizer())


@cache
def even() -> TokenPairs:
    return PairSet.from_pairs(EVEN, name="even").tokenize(tiny.tokenizer())
