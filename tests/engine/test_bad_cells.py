"""Whatever is wrong with a cell is said before anything is run."""

from __future__ import annotations

from typing import Any

import pytest
import small_models
import torch

from circuits.engine import generate, sweep
from circuits.errors import SiteError, TokenError
from circuits.interventions import Ablate, Columns, Patch
from circuits.metrics import LogitDifference, RefusalMetric
from circuits.prompts import PairSet
from circuits.sites import Site, head

BAD: dict[str, tuple[Any, str]] = {
    "layer": (Patch(Site("resid_pre", 4)), "L4.resid_pre.*layers 0 to 3"),
    "head": (Patch(head(1, 4), "last"), "L1.H4.*heads 0 to 3"),
    "a head of another intervention": (Ablate(head(1, 9), torch.ones(8)), "L1.H9"),
    "position": (Patch(Site("mlp_out", 1), -6), "position -6 does not exist in pair 1"),
    "column": (Patch(Site("mlp_out", 1), Columns((10,))), "column 10 does not exist"),
    "value": (Patch(Site("mlp_out", 1), "last", torch.ones(31)), "shape \\(31,\\) does not broadcast"),
}


@pytest.fixture
def _no_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(small_models.model("gemma").hf, "forward", forward)


@pytest.mark.usefixtures("_no_model_runs")
@pytest.mark.parametrize("what", list(BAD))
def test_a_sweep_refuses_it_at_once(what: str):
    intervention, message = BAD[what]
    model = small_models.model("gemma")
    with pytest.raises(SiteError, match=message):
        sweep(model, small_models.uneven(), RefusalMetric(model, "w60"), [(), (intervention,)])


@pytest.mark.usefixtures("_no_model_runs")
@pytest.mark.parametrize("what", list(BAD))
def test_so_does_a_completion(what: str):
    intervention, message = BAD[what]
    with pytest.raises(SiteError, match=message):
        generate(small_models.model("gemma"), small_models.uneven(), (intervention,))


@pytest.mark.usefixtures("_no_model_runs")
def test_a_completion_of_neither_prompt():
    with pytest.raises(SiteError, match="'corrupted'.*clean.*corrupt"):
        generate(small_models.model("gemma"), small_models.uneven(), on="corrupted")


@pytest.mark.usefixtures("_no_model_runs")
def test_no_cells_and_no_answers():
    model = small_models.model("gemma")
    with pytest.raises(SiteError, match="at least one cell"):
        sweep(model, small_models.uneven(), RefusalMetric(model, "w60"), [])
    bare = PairSet.from_pairs([("w1 w2", "w1 w3")]).tokenize(model.tokenizer)
    with pytest.raises(TokenError, match="pair 0 has no answer and wrong"):
        sweep(model, bare, LogitDifference(model), [()])
