"""Every kind of cell, on every architecture, in both directions, equals a whole forward pass of the unpadded prompt."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import small_models
import torch
from oracle import PairOracle

from circuits.engine import sweep
from circuits.interventions import Columns, Patch
from circuits.metrics import LogitDifference, LogOdds, RefusalMetric
from circuits.sites import Site

KINDS = ("resid_pre", "resid_post", "attn_out", "mlp_out")
LAYERS = range(4)
TOKEN = "w60"

Plan = list[tuple[str, int, int | None, Any]]
"""A cell as the oracle reads it: kind, layer, head, where."""


def _each_column() -> list[Plan]:
    n_pos = small_models.uneven().n_pos
    return [[(kind, layer, None, ("column", p))] for kind in KINDS for layer in LAYERS for p in range(n_pos)]


def _named() -> list[Plan]:
    names: tuple[Any, ...] = ("subject", "last", -2, 1, "post_subject", "all")
    return [[(kind, layer, None, where)] for kind in KINDS for layer in (0, 2, 3) for where in names]


def _heads() -> list[Plan]:
    places: tuple[Any, ...] = ("all", "last", "subject", ("column", 7))
    return [[("z", layer, head, where)] for layer in LAYERS for head in range(4) for where in places]


def _groups() -> list[Plan]:
    return [
        [("attn_out", layer, None, "last") for layer in (1, 2)],
        [("mlp_out", layer, None, "subject") for layer in LAYERS],
        [(kind, layer, None, "all") for kind in ("attn_out", "mlp_out") for layer in (2, 3)],
        [("mlp_out", 3, None, "last"), ("resid_pre", 1, None, "subject"), ("z", 2, 3, "all")],
        [("z", 0, 1, "all"), ("z", 2, 0, "last"), ("z", 2, 3, "subject"), ("z", 3, 2, "all")],
        [("z", 1, None, "all")],
        [("resid_post", 3, None, "last"), ("resid_post", 0, None, "post_subject")],
        [("resid_pre", 0, None, "subject"), ("resid_pre", 0, None, "last"), ("attn_out", 3, None, -2)],
    ]


PLANS = {"each column": _each_column, "named positions": _named, "heads": _heads, "groups": _groups}


def _cell(plan: Plan) -> Any:
    def where(w: Any) -> Any:
        return Columns((w[1],)) if isinstance(w, tuple) else w

    return tuple(Patch(Site(kind, layer, head), where(w)) for kind, layer, head, w in plan)


def _expected(hf: Any, plans: list[Plan], direction: str) -> dict[str, torch.Tensor]:
    tokens = small_models.uneven()
    vocab = dict(small_models.model("gemma").tokenizer.get_vocab())
    rows: dict[str, list[list[float]]] = {"refusal": [], "log-odds": [], "difference": []}
    pairs = [PairOracle(hf, tokens, i, direction) for i in range(tokens.n_pairs)]
    for plan in plans:
        found: dict[str, list[float]] = {name: [] for name in rows}
        for pair, said in zip(pairs, small_models.UNEVEN, strict=True):
            edits = [pair.from_source(kind, layer, where, head) for kind, layer, head, where in plan]
            logits = pair.logits(edits)
            found["refusal"].append(oracle.against_mean(logits, vocab[TOKEN]))
            found["log-odds"].append(oracle.log_odds(logits, [vocab[TOKEN], vocab["w61"]]))
            found["difference"].append(oracle.difference(logits, vocab[said[2]], vocab[said[3]]))
        for name, values in found.items():
            rows[name].append(values)
    return {name: torch.tensor(values) for name, values in rows.items()}


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("what", list(PLANS))
@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_patches_equal_the_oracle(architecture: str, what: str, direction: Any):
    # every third cell, beginning elsewhere in each case: all of them are met by several architectures
    begin = (small_models.ARCHITECTURES.index(architecture) + (direction == "noise")) % 3
    model, plans = small_models.model(architecture), PLANS[what]()[begin :: 1 if what == "groups" else 3]
    metrics = {
        "refusal": RefusalMetric(model, TOKEN),
        "log-odds": LogOdds(model, TOKEN, "w61"),
        "difference": LogitDifference(model),
    }
    expected = _expected(small_models.raw(architecture), plans, direction)
    cells = [_cell(plan) for plan in plans]
    for name, metric in metrics.items():
        swept = sweep(model, small_models.uneven(), metric, cells, direction=direction)
        gap = (swept.value - expected[name]).abs()
        worst = divmod(int(gap.argmax()), gap.shape[1])
        assert gap.max() <= 1e-5 * max(1.0, expected[name].abs().max().item()), (
            f"{name}: {plans[worst[0]]} on pair {worst[1]}"
        )
        # the set is one on which patching does something, so that agreement is no accident
        assert (swept.value - swept.base).abs().amax(1).count_nonzero() > len(cells) / 4


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_base_and_source_are_the_runs_that_the_direction_names(direction: Any):
    model, tokens = small_models.model("gemma2"), small_models.uneven()
    swept = sweep(
        model, tokens, RefusalMetric(model, TOKEN), [(Patch(Site("mlp_out", 0), "last"),)], direction=direction
    )
    token = model.tokenizer.get_vocab()[TOKEN]
    for i in range(tokens.n_pairs):
        pair = PairOracle(small_models.raw("gemma2"), tokens, i, direction)
        assert swept.base[i].item() == pytest.approx(oracle.against_mean(pair.logits(), token), abs=1e-5)
        source = oracle.against_mean(pair.logits(of=pair.source), token)
        assert swept.source[i].item() == pytest.approx(source, abs=1e-5)
        assert abs(swept.base[i].item() - source) > 1e-3
