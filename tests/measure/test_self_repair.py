"""What is back of a direction after one ablation is what plain hooks on plain prompts give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
import small_models
import torch
from oracle import Edit

from circuits.errors import SiteError, UndefinedError
from circuits.linalg import random_directions
from circuits.measure.self_repair import SelfRepair, self_repair

TOKENS = small_models.uneven()
V = 7 * torch.randn(32, generator=torch.Generator().manual_seed(1))
UNIT = V / V.norm()
DEPTHS = [*(("resid_pre", layer) for layer in range(4)), ("resid_post", 3)]


def _oracle(architecture: str, ids: torch.Tensor, layer: int | None, positions: str) -> tuple[list[float], list[float]]:
    """Components at every depth, and a tenth of what a random direction typically has there."""
    edits: list[Edit] = []
    if layer is not None:
        where = [len(ids) - 1] if positions == "last" else range(len(ids))
        edits = [Edit("resid_pre", layer, oracle.formula(where, oracle.ablated(V)))]
    _, seen = oracle.run(small_models.raw(architecture), ids, edits, keep=DEPTHS)
    return [float(seen[key][-1] @ UNIT) for key in DEPTHS], [0.1 * float(seen[key][-1].norm()) / 32**0.5 for key in DEPTHS]


def _over(part: float, whole: float, least: float) -> float:
    return part / whole if abs(whole) > least else float("nan")


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("architecture", ["gemma", "gemma2", "gpt2", "gpt_neox", "olmo2"])
def test_components_are_the_oracles(architecture: str, positions: Any):
    found = self_repair(small_models.model(architecture), TOKENS, V, positions=positions, null_draws=0)
    frame = found.to_frame()
    for side, all_ids in (("clean", TOKENS.clean), ("corrupt", TOKENS.corrupt)):
        for pair in (0, 3):
            ids = all_ids[pair][TOKENS.mask[pair]]
            intact, least = _oracle(architecture, ids, None, positions)
            for a in (0, 2, 3):
                ablated, _ = _oracle(architecture, ids, a, positions)
                rows = frame[(frame["side"] == side) & (frame["pair"] == pair) & (frame["ablated_layer"] == a)]
                assert list(rows["read_layer"]) == list(range(a, 5))
                assert rows["intact"].to_numpy() == pytest.approx(intact[a:], abs=3e-5)
                assert rows["ablated"].to_numpy() == pytest.approx(ablated[a:], abs=3e-5)
                recovered = [_over(ablated[b], intact[b], least[b]) for b in range(a, 5)]
                assert rows["recovered"].to_numpy() == pytest.approx(recovered, rel=1e-3, abs=1e-4, nan_ok=True)
                difference = [x - y for x, y in zip(ablated[a:], intact[a:], strict=True)]
                assert rows["difference"].to_numpy() == pytest.approx(difference, abs=5e-5)
                repaired = [1 - _over(d, difference[0], least[a]) for d in difference]
                assert rows["repaired"].to_numpy() == pytest.approx(repaired, rel=1e-3, abs=1e-3, nan_ok=True)


@pytest.fixture(scope="module")
def found() -> SelfRepair:
    return self_repair(small_models.model("llama"), TOKENS, V, null_draws=6, seed=4)


def test_right_after_the_ablation_nothing_is_left(found: SelfRepair):
    frame = found.to_frame()
    here = frame[frame["read_layer"] == frame["ablated_layer"]]
    assert here["ablated"].abs().max() < 1e-5
    assert here["repaired"].abs().max() < 1e-6
    assert found.ablated[0, 0, 2, :2].isnan().all()


def test_a_model_that_only_adds_the_same_repairs_nothing():
    """Later blocks that cannot see the last position's residual write what they wrote: recovered, and not repaired."""
    model = small_models.model("llama")
    layer = model.hf.model.layers[3]
    kept = [layer.self_attn.o_proj.weight.clone(), layer.mlp.down_proj.weight.clone()]
    with torch.no_grad():
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            weight.zero_()
    try:
        frame = self_repair(model, TOKENS, V, null_draws=0).to_frame()
    finally:
        with torch.no_grad():
            for weight, before in zip((layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight), kept, strict=True):
                weight.copy_(before)
    last = frame[(frame["ablated_layer"] == 3) & (frame["read_layer"] == 4)]
    assert last["recovered"].abs().max() < 1e-5
    assert last["repaired"].abs().max() < 1e-5
    before = frame[(frame["ablated_layer"] == 2) & (frame["read_layer"] == 3)]["repaired"].to_numpy()
    after = frame[(frame["ablated_layer"] == 2) & (frame["read_layer"] == 4)]["repaired"].to_numpy()
    assert after == pytest.approx(before, abs=1e-5)
    assert np.abs(before).max() > 0.01


def test_the_null_is_the_same_measurement_of_random_directions(found: SelfRepair):
    model = small_models.model("llama")
    drawn = random_directions(6, 32, seed=4)
    tables = [self_repair(model, TOKENS, v, null_draws=0) for v in drawn]
    for n, other in enumerate(tables):
        assert torch.allclose(found.null_intact[n], other.intact, atol=1e-5)
        assert torch.allclose(found.null_ablated[n], other.ablated, atol=1e-5, equal_nan=True)
    at = ["side", "ablated_layer", "read_layer"]
    summary = found.to_summary("repaired").set_index(at).loc[("corrupt", 1, 4)]
    means = [t.to_frame().groupby(at)["repaired"].mean().loc[("corrupt", 1, 4)] for t in tables]
    assert summary["null_median"] == pytest.approx(np.median(means), rel=1e-3)
    assert summary["null_low"] == pytest.approx(np.quantile(means, 0.025), rel=1e-3)
    assert summary["null_high"] == pytest.approx(np.quantile(means, 0.975), rel=1e-3)


def test_a_summary_is_the_mean_over_pairs(found: SelfRepair):
    at = ["side", "ablated_layer", "read_layer"]
    for value in ("recovered", "difference", "repaired"):
        table = found.to_summary(value).set_index(at)
        expected = found.to_frame().groupby(at)[value].mean()
        assert table["mean"].to_numpy() == pytest.approx(expected.loc[table.index].to_numpy(), abs=1e-6)
        assert (table["low"] <= table["mean"] + 1e-9).all()
        assert (table["mean"] <= table["high"] + 1e-9).all()


def test_a_component_near_zero_is_undefined_and_counted():
    """A direction orthogonal to one pair's residual entering layer 1, at the last position."""
    model = small_models.model("llama")
    ids = TOKENS.clean[2][TOKENS.mask[2]]
    x = oracle.run(small_models.raw("llama"), ids, keep=[("resid_pre", 1)])[1]["resid_pre", 1][-1]
    v = V - (V @ x) / (x @ x) * x
    found = self_repair(model, TOKENS, v, null_draws=1)
    frame = found.to_frame()
    here = frame[(frame["side"] == "clean") & (frame["pair"] == 2)]
    assert here.loc[here["read_layer"] == 1, "recovered"].isna().all()
    assert here.loc[here["ablated_layer"] == 1, "repaired"].isna().all()
    assert np.isfinite(here.loc[here["ablated_layer"] == 1, "difference"]).all()
    table = found.to_summary("repaired").set_index(["side", "ablated_layer", "read_layer"])
    there = frame[(frame["side"] == "clean") & (frame["ablated_layer"] == 1) & (frame["read_layer"] == 4)]
    assert table.loc[("clean", 1, 4), "undefined"] == there["repaired"].isna().sum() >= 1
    assert table.loc[("clean", 1, 4), "n"] == there["repaired"].notna().sum() > 1
    assert table.loc[("clean", 1, 4), "mean"] == pytest.approx(there["repaired"].mean())


def test_where_every_share_is_undefined_none_is_told(found: SelfRepair):
    nowhere = replace(found, intact=torch.zeros_like(found.intact))
    assert nowhere.to_frame()["recovered"].isna().all()
    assert len(nowhere.to_summary("recovered")) == 0
    assert len(nowhere.to_summary("difference")) > 0


def test_ablated_elsewhere_nothing_is_removed_at_the_last_position():
    found = self_repair(small_models.model("llama"), TOKENS, V, positions="subject", null_draws=0)
    frame = found.to_frame()
    same = frame[frame["read_layer"] == frame["ablated_layer"]]
    assert same["difference"].to_numpy() == pytest.approx(0.0, abs=1e-6)
    assert frame["repaired"].isna().all()
    assert frame.loc[frame["read_layer"] == 4, "difference"].abs().max() > 1e-3


def test_each_pair_may_have_its_own_direction():
    model = small_models.model("llama")
    own = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    together = self_repair(model, TOKENS, own, null_draws=0)
    alone = self_repair(model, TOKENS, own[3], null_draws=0)
    assert torch.allclose(together.ablated[:, 3], alone.ablated[:, 3], atol=1e-6, equal_nan=True)


def test_figures(found: SelfRepair, says: Callable[..., None]):
    name = small_models.model("llama").name
    for figure in (found.figure(), found.repaired_figure(), found.final_figure()):
        says(figure, name)
    z = np.asarray(found.figure().data[0].z, dtype=float)
    table = found.to_summary().set_index(["side", "ablated_layer", "read_layer"])
    assert z[1, 4] == pytest.approx(table.loc[("clean", 1, 4), "mean"])
    assert np.isnan(z[3, 0])


def test_no_direction_and_no_position():
    model = small_models.model("llama")
    with pytest.raises(UndefinedError, match="norm zero"):
        self_repair(model, TOKENS, torch.zeros(32))
    with pytest.raises(SiteError, match="position 7 does not exist in pair"):
        self_repair(model, TOKENS, V, positions=7)
