"""Completions, refusals and metrics of three settings, each under its own name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import small_models
import torch

from circuits.engine import generate, sweep
from circuits.errors import UndefinedError
from circuits.interventions import ablate_everywhere
from circuits.linalg import random_directions
from circuits.measure import behaviour as module
from circuits.measure.behaviour import Behaviour, behaviour
from circuits.metrics import RefusalMetric

TOKENS = small_models.uneven()
MODEL = small_models.model("qwen2")
V = torch.randn(32, generator=torch.Generator().manual_seed(8))


def _refuses(text: str) -> bool:
    return "w2" in text


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Behaviour:
    monkeypatch.setattr(module, "is_refusal", _refuses)
    return behaviour(MODEL, TOKENS, RefusalMetric(MODEL, "w60"), V, max_new_tokens=6, seed=4)


def test_every_row_is_of_its_setting_side_and_pair(found: Behaviour):
    random = random_directions(1, 32, seed=4)[0]
    cells = {
        "baseline": (),
        "intervened": ablate_everywhere(V, range(4)),
        "control": ablate_everywhere(random, range(4)),
    }
    frame = found.to_frame()
    assert len(frame) == 3 * 2 * 5
    for setting, cell in cells.items():
        for side, direction in (("clean", "noise"), ("corrupt", "denoise")):
            rows = frame[(frame["setting"] == setting) & (frame["side"] == side)].sort_values("pair")
            assert rows["completion"].tolist() == generate(MODEL, TOKENS, cell, on=side, max_new_tokens=6)
            assert rows["prompt"].tolist() == [getattr(pair, side) for pair in TOKENS.pairs]
            assert rows["refused"].tolist() == [_refuses(text) for text in rows["completion"]]
            values = sweep(MODEL, TOKENS, RefusalMetric(MODEL, "w60"), [cell], direction=direction)  # type: ignore[arg-type]
            assert rows["metric"].tolist() == pytest.approx(values.value[0].tolist(), abs=1e-5)
    assert frame["metric"].nunique() > 20


def test_rates_and_agreement(found: Behaviour, says: Callable[..., None]):
    frame = found.to_frame()
    for row in found.to_summary().itertuples():
        here = frame[(frame["setting"] == row.setting) & (frame["side"] == row.side)]
        assert row.refusal_rate == here["refused"].mean()
        assert row.rate_low <= row.refusal_rate <= row.rate_high
        assert row.metric == pytest.approx(here["metric"].mean())
    pooled = frame[frame["setting"] == "baseline"]
    yes, no = (pooled.loc[pooled["refused"] == r, "metric"].to_numpy() for r in (True, False))
    assert len(yes)
    assert len(no)
    wins = sum((a > b) + 0.5 * (a == b) for a in yes for b in no) / (len(yes) * len(no))
    assert found.agreement().estimate == pytest.approx(wins)
    says(found.figure(), MODEL.name)


def test_no_agreement_where_nothing_refuses():
    found = behaviour(MODEL, TOKENS, RefusalMetric(MODEL, "w60"), V, max_new_tokens=2)
    assert found.rate("baseline", "clean").estimate == 0.0
    with pytest.raises(UndefinedError):
        found.agreement()


def test_no_direction():
    with pytest.raises(UndefinedError, match="no unit vector"):
        behaviour(MODEL, TOKENS, RefusalMetric(MODEL, "w60"), torch.zeros(32))
