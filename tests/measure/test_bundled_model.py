"""End to end on the model that comes with the package: facts that hold of any model trained to refuse."""

from __future__ import annotations

import pytest

from circuits.frames import summary
from circuits.measure.heads import patch_heads
from circuits.measure.residual import ResidualPatching, patch_residual
from circuits.metrics import Metric, RefusalMetric
from circuits.model import Model, load
from circuits.prompts import TokenPairs, toy_refusal_pairs


@pytest.fixture(scope="module")
def model() -> Model:
    return load(device="cpu")


@pytest.fixture(scope="module")
def tokens(model: Model) -> TokenPairs:
    return toy_refusal_pairs()[:8].tokenize(model)


@pytest.fixture(scope="module")
def metric(model: Model) -> Metric:
    return RefusalMetric(model, "I")


@pytest.fixture(scope="module", params=["denoise", "noise"])
def residual(request: pytest.FixtureRequest, model: Model, tokens: TokenPairs, metric: Metric) -> ResidualPatching:
    return patch_residual(model, tokens, metric, direction=request.param)


def test_harmful_prompts_raise_the_metric(residual: ResidualPatching):
    raised = residual.source - residual.base if residual.direction == "denoise" else residual.base - residual.source
    assert raised.mean() > 0


def test_the_subject_entering_the_first_block_is_everything(residual: ResidualPatching):
    frame = residual.to_frame()
    first = frame[(frame["layer"] == 0) & (frame["role"] == "subject")]
    assert first["fraction"].to_numpy() == pytest.approx(1.0, abs=1e-3)
    elsewhere = frame[(frame["layer"] == 0) & (frame["role"] != "subject")]
    assert elsewhere["fraction"].to_numpy() == pytest.approx(0.0, abs=1e-3)


def test_late_the_last_position_is_what_counts(residual: ResidualPatching):
    frame = residual.to_frame()
    late = frame[frame["layer"] == frame["layer"].max()]
    by_role = summary(late, ["role"], "fraction").set_index("role")["mean"]
    assert by_role["last"] > 0.8
    assert abs(by_role["subject"]) < 0.2


def test_no_single_head_is_the_last_residual(model: Model, tokens: TokenPairs, metric: Metric):
    heads = patch_heads(model, tokens, metric).to_frame()
    assert len(heads) == tokens.n_pairs * model.shape.n_layers * model.shape.n_heads
    assert heads["fraction"].notna().all()
