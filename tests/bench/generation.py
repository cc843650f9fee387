"""Completions under edits, side by side in one batch, beside a loop of single prompts; both keep keys and values."""

from __future__ import annotations

from typing import Any

from measure import in_turn
from models import Size, random_model, random_pairs
from page import Table, section, times

from circuits.engine import generate, generate_cells
from circuits.interventions import Add, Cell, ablate_everywhere
from circuits.linalg import random_directions
from circuits.model import Model, load
from circuits.prompts import TokenPairs, toy_refusal_pairs
from circuits.sites import Site

COLUMNS = ("model", "edit", "prompts", "cells", "tokens each", "ratio to one prompt at a time", "same completions")
_NEW = 16


def measure(size: Size, *, repeats: int) -> dict[str, Any]:
    """No edit, a direction ablated everywhere, a vector added; one cell, and a sweep of eight strengths."""
    table = Table(COLUMNS).head()
    some = Size(**{**vars(size), "pairs": 16})
    random = random_model(some)
    bundled = load()
    for model, tokens in (
        (bundled, toy_refusal_pairs().tokenize(bundled)), (random, random_pairs(some, random)),
    ):  # fmt: skip
        for name, cells in _edits(model).items():
            _add(table, model, tokens, name, cells, repeats)
    return section(some.line, table=table.text)


def _edits(model: Model) -> dict[str, list[Cell]]:
    v = random_directions(1, model.shape.d_model, seed=0)[0]
    n = model.shape.n_layers
    return {
        "none": [()],
        "ablated everywhere": [ablate_everywhere(v, range(n))],
        "added": [(Add(Site("resid_pre", n // 2), v),)],
        "ablated, eight strengths": [ablate_everywhere(v, range(n), alpha=k / 4) for k in range(1, 9)],
    }


def _add(table: Table, model: Model, tokens: TokenPairs, name: str, cells: list[Cell], repeats: int) -> None:
    alone = [tokens.select([i]) for i in range(tokens.n_pairs)]
    ours: list[list[list[str]]] = []
    theirs: list[list[list[str]]] = []

    def loop() -> None:
        said = [[generate(model, one, cell, max_new_tokens=_NEW)[0] for one in alone] for cell in cells]
        theirs.append(said)

    ours_s, theirs_s = in_turn(
        lambda: ours.append(generate_cells(model, tokens, cells, max_new_tokens=_NEW)), loop, repeats=repeats
    )
    pairs = [(a, b) for x, y in zip(ours[0], theirs[0], strict=True) for a, b in zip(x, y, strict=True)]
    same = sum(a == b for a, b in pairs)
    called = "random" if model.name.startswith("random") else model.name
    ratio, same_of = times(theirs_s / ours_s), f"{same} of {len(pairs)}"
    table.add(called, name, f"{tokens.n_pairs}", f"{len(cells)}", f"{_NEW}", ratio, same_of)
