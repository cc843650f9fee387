"""Curves with a planted axis give that axis; edits on the circle are where their formulas put them; planes compare fairly."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import small_models
import torch
from oracle import Edit, PairOracle

from circuits.engine import generate, read, sweep
from circuits.errors import CircuitError, SiteError, UndefinedError
from circuits.interventions import Aim, Rotate
from circuits.judges import SubstringJudge
from circuits.linalg import plane
from circuits.measure.rotation import (
    EditsOnCircle,
    RotationSweep,
    compare_planes,
    complete_at,
    first_harmonic,
    locate_edits,
    rotate_sweep,
)
from circuits.measure.rotation.edits import checked_angles, checked_layers
from circuits.metrics import RefusalMetric
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.sites import Site

MODEL, PAIRS = small_models.model("llama"), small_models.uneven()
METRIC = RefusalMetric(MODEL, "w60")
V, W = torch.randn(2, 32, generator=torch.Generator().manual_seed(6))
PLANE = plane(V, W)
ANGLES = tuple(range(0, 360, 30))
TURN = np.deg2rad(ANGLES)


def _prompts() -> InstructionTokens:
    rows = [(f"w{i} w{i + 5} w{i % 7 + 20}", "harmful") for i in range(10, 14)]
    rows += [(f"w{i} w{i + 3} w9 w3", "harmless") for i in range(40, 43)]
    return InstructionSet(tuple(Instruction(text, label) for text, label in rows)).tokenize(MODEL)


# --- the first harmonic -------------------------------------------------------------------------------------------------------


def _curve(phase: float, *, amplitude: float = 2.0, second: float = 0.0, level: float = 5.0) -> Any:
    return level + amplitude * np.cos(TURN - np.deg2rad(phase)) + second * np.cos(2 * TURN + 1)


@pytest.mark.parametrize("phase", [0.0, 35.0, 215.0, 359.0])
def test_a_planted_axis_is_found(phase: float):
    offsets = np.array([-3.0, 0.0, 1.0, 2.0])
    found = first_harmonic(ANGLES, _curve(phase)[:, None] + offsets, resamples=500)
    assert found.phase == pytest.approx(phase, abs=1e-6)
    assert found.amplitude == pytest.approx(2)
    assert found.level == pytest.approx(5)
    assert found.share == pytest.approx(1)
    assert found.phase_low == pytest.approx(phase, abs=1e-6), "no prompt differs but in its level"
    assert found.n == 4


def test_its_share_of_the_variance():
    found = first_harmonic(ANGLES, _curve(80, amplitude=2, second=1)[:, None].repeat(3, 1), resamples=200)
    assert found.share == pytest.approx(4 / 5)
    assert found.phase == pytest.approx(80)
    none = first_harmonic(ANGLES, _curve(80, amplitude=0, second=1)[:, None].repeat(3, 1), resamples=200)
    assert none.share == pytest.approx(0, abs=1e-9)
    assert none.amplitude == pytest.approx(0, abs=1e-9)


def test_angles_need_not_be_even():
    some = np.array([0.0, 10.0, 50.0, 200.0, 220.0])
    values = 1 + 3 * np.cos(np.deg2rad(some - 123))
    assert first_harmonic(some.tolist(), values[:, None].repeat(2, 1), resamples=50).phase == pytest.approx(123)


def test_the_interval_holds_the_true_phase_as_often_as_it_says():
    rng, hits, trials = np.random.default_rng(1), 0, 200
    for _ in range(trials):
        # cosines of single prompts scatter around one at 350°
        parts = 2 * np.exp(1j * np.deg2rad(350)) + rng.normal(size=12) + 1j * rng.normal(size=12)
        values = np.cos(TURN)[:, None] * parts.real + np.sin(TURN)[:, None] * parts.imag
        found = first_harmonic(ANGLES, values, resamples=400)
        assert found.phase_low <= found.phase <= found.phase_high
        hits += any(found.phase_low <= 350 + turn <= found.phase_high for turn in (-360, 0, 360))
    assert 0.91 <= hits / trials <= 0.99


def test_noise_has_no_axis_and_a_signal_has():
    rng = np.random.default_rng(2)
    p: list[float] = []
    unknown = 0
    for _ in range(100):
        found = first_harmonic(ANGLES, rng.normal(size=(12, 10)), resamples=300)
        p.append(found.p)
        unknown += math.isnan(found.phase_low)
    assert 0.02 <= np.mean(np.array(p) <= 0.1) <= 0.2, "false alarms"
    assert unknown >= 60, "a phase is claimed where there is none"
    assert first_harmonic(ANGLES, _curve(20)[:, None] + rng.normal(size=(12, 10)), resamples=300).p < 0.02


def test_clusters_count_once():
    rng = np.random.default_rng(3)
    parts = 2 + rng.normal(size=6) + 1j * rng.normal(size=6)
    each = np.cos(TURN)[:, None] * parts.real + np.sin(TURN)[:, None] * parts.imag
    alone = first_harmonic(ANGLES, each, resamples=2000)
    copied = first_harmonic(ANGLES, each.repeat(5, 1), np.arange(6).repeat(5).tolist(), resamples=2000)
    believed = first_harmonic(ANGLES, each.repeat(5, 1), resamples=2000)
    assert copied.phase_high - copied.phase_low == pytest.approx(alone.phase_high - alone.phase_low, rel=1e-6)
    assert believed.phase_high - believed.phase_low < 0.7 * (alone.phase_high - alone.phase_low)


def test_what_has_no_axis():
    flat = first_harmonic(ANGLES, np.full((12, 3), 7.0), resamples=50)
    assert math.isnan(flat.phase)
    assert math.isnan(flat.share)
    for few in ((0.0, 180.0), (0.0, 360.0, 720.0), (10.0, 190.0, 10.0)):
        with pytest.raises(UndefinedError, match="three angles that differ around the circle"):
            first_harmonic(few, np.ones((len(few), 2)))
    one = first_harmonic(ANGLES, _curve(40)[:, None], resamples=50)
    assert one.phase == pytest.approx(40)
    assert math.isnan(one.phase_low)
    assert math.isnan(one.p)


# --- sweeps around the circle -------------------------------------------------------------------------------------------------


@cache
def _swept(mode: Any = "aim") -> RotationSweep:
    return rotate_sweep(MODEL, _prompts(), METRIC, PLANE, angles=(*ANGLES, 360), mode=mode, max_new_tokens=3,
                        judge=SubstringJudge())  # fmt: skip


@pytest.mark.parametrize("mode", ["aim", "turn"])
def test_values_are_those_of_whole_forward_passes_with_the_formula(mode: Any):
    angles, layers = (0, 70, 180, 360), (1, 3)
    found = rotate_sweep(MODEL, PAIRS, METRIC, PLANE, angles=angles, mode=mode, layers=layers)
    token = MODEL.tokenizer.get_vocab()["w60"]
    for i in range(PAIRS.n_pairs):
        pair = PairOracle(small_models.raw("llama"), PAIRS, i, "noise")
        for a, angle in enumerate(angles):
            turn = math.radians(angle)

            def f(h: torch.Tensor, turn: float = turn) -> torch.Tensor:
                x, y = (h @ PLANE.T).unbind(-1)
                to = torch.atan2(y, x) + turn if mode == "turn" else torch.full_like(x, turn)
                r = torch.sqrt(x * x + y * y)
                new = torch.stack([r * torch.cos(to), r * torch.sin(to)], -1)
                return h + (new - torch.stack([x, y], -1)) @ PLANE

            edits = [Edit("resid_pre", layer, oracle.formula(pair.positions("all"), f)) for layer in layers]
            expected = oracle.against_mean(pair.logits(edits), token)
            assert found.value[a, i].item() == pytest.approx(float(expected), abs=2e-5)


def test_turned_by_nothing_or_by_a_whole_circle_nothing_changes():
    found = _swept("turn")
    for angle in (0, 360):
        assert (found.value[found.angles.index(angle)] - found.base).abs().max() <= 1e-5
    aimed = _swept("aim")
    assert (aimed.value[0] - aimed.value[-1]).abs().max() <= 1e-5, "0° and 360° are one angle"
    assert (aimed.value[0] - aimed.base).abs().max() > 1e-3, "aimed at 0°, prompts that lie elsewhere move"
    assert (aimed.value - found.value).abs().max() > 1e-3


def test_refusals_scores_and_where_prompts_lie():
    found = _swept()
    frame = found.to_frame()
    assert len(frame) == 13 * 7
    assert found.completions[3] == tuple(complete_at(MODEL, _prompts(), PLANE, [90], max_new_tokens=3)["completion"])
    assert set(frame["label"]) == {"harmful", "harmless"}
    table = found.to_summary()
    assert set(table["n"]) == {4, 3}
    assert (table[["refusal_rate", "base_rate"]] == 0).all(axis=None)
    assert (table["compliance"].dropna() == 1).all()
    mine = frame[(frame["label"] == "harmful") & (frame["angle"] == 60)]
    row = table[(table["label"] == "harmful") & (table["angle"] == 60)].iloc[0]
    assert row["mean"] == pytest.approx(mine["metric"].mean())
    assert row["low"] <= row["mean"] <= row["high"]
    assert row["change"] == pytest.approx((mine["metric"] - mine["base"]).mean(), abs=1e-6)
    seen = read(MODEL, _prompts().beside_themselves(), (), [Site("resid_pre", 2)]).seen[Site("resid_pre", 2)][:, -1]
    assert torch.allclose(found.own[2], seen @ PLANE.T, atol=1e-5)


def test_the_axis_and_the_compass():
    found = _swept()
    axis = found.axis("harmful")
    expected = first_harmonic(found.angles, found.value[:, :4].double().numpy())
    assert axis.harmonic == expected
    x, y = float(axis.direction @ PLANE[0]), float(axis.direction @ PLANE[1])
    assert math.degrees(math.atan2(y, x)) % 360 == pytest.approx(expected.phase, abs=1e-3)
    assert abs(float(axis.direction @ axis.perpendicular)) <= 1e-6
    assert axis.direction.norm().item() == pytest.approx(1, abs=1e-6)
    # an activation aimed at the perpendicular has no part along the axis
    at = axis.compass
    assert [(at[n] - at["most"]) % 360 for n in at] == pytest.approx([0, 90, 180, 270])
    seen = read(MODEL, PAIRS, (Aim(Site("resid_pre", 1), PLANE, at["across +"]),), [Site("resid_pre", 1)])
    assert (seen.seen[Site("resid_pre", 1)][:, -1] @ axis.direction).abs().max() <= 1e-4
    table = found.axes_frame()
    metric = table[table["of"] == "metric"].set_index("label")
    assert metric.loc["harmful", "phase"] == expected.phase
    assert set(table["label"]) == {"harmful", "harmless", "all prompts"}
    assert table[table["of"] == "refusal"]["phase"].isna().all(), "nothing refuses: no axis is claimed"
    with pytest.raises(UndefinedError, match="refusal does not change with the angle"):
        found.axis(of="refusal")
    with pytest.raises(UndefinedError, match="counted from where each prompt lies"):
        _swept("turn").axis()
    with pytest.raises(UndefinedError, match="no prompt is labelled 'incapable'"):
        found.axis("incapable")


def test_refusals_are_those_of_the_completions(monkeypatch: pytest.MonkeyPatch):
    """Nothing these models say is a refusal: here every completion with a certain word is."""
    from circuits.measure.rotation import sweep as module

    word = _swept().completions[0][0].split()[0]
    monkeypatch.setattr(module, "is_refusal", lambda text: word in text.split())
    found = rotate_sweep(MODEL, _prompts(), METRIC, PLANE, angles=ANGLES, max_new_tokens=2)
    expected = torch.tensor([[word in text.split() for text in row] for row in found.completions])
    assert torch.equal(found.refused, expected)  # type: ignore[arg-type]
    assert 0 < expected.float().mean() < 1
    before = [word in text.split() for text in generate(MODEL, _prompts().beside_themselves(), max_new_tokens=2)]
    assert found.base_refused.tolist() == before  # type: ignore[union-attr]
    table = found.to_summary().set_index(["label", "angle"])
    assert table.loc[("harmful", 60.0), "refusal_rate"] == pytest.approx(expected[2, :4].float().mean().item())
    assert table.loc[("harmless", 60.0), "base_rate"] == pytest.approx(np.mean(before[4:]))
    axis = found.axis(of="refusal").harmonic
    assert axis == first_harmonic(ANGLES, expected.double().numpy())


def test_completions_at_the_four_points():
    compass = _swept().axis().compass
    frame = complete_at(MODEL, _prompts(), PLANE, compass, max_new_tokens=3)
    assert list(frame["point"].unique()) == list(compass)
    assert frame.groupby("point", sort=False)["angle"].first().to_dict() == compass
    for name, angle in compass.items():
        cell = tuple(Aim(Site("resid_pre", layer), PLANE, angle) for layer in range(4))
        expected = generate(MODEL, _prompts().beside_themselves(), cell, max_new_tokens=3)
        assert frame[frame["point"] == name]["completion"].tolist() == expected


def test_results_are_kept_whole(tmp_path: Path):
    from safetensors.torch import load_file

    for result in (_swept(), _located(), _compared()):
        kept = load_file(result.save(tmp_path).with_suffix(".safetensors"))
        assert torch.equal(kept["value"], result.value)
        assert len(kept) >= 4


def test_templates_count_once():
    """Pairs that share a template: intervals over templates, in every table."""
    from circuits.prompts import PairSet

    rows = [(f"w1 w{i} w3 w4", f"w1 w{i + 30} w3 w4") for i in range(10, 14)]
    rows += [(f"w5 w{i} w7", f"w5 w{i + 30} w7") for i in range(15, 19)]
    rows += [(f"w9 w8 w{i} w7", f"w9 w8 w{i + 30} w7") for i in range(21, 25)]
    tokens = PairSet.from_pairs(rows, name="shared").tokenize(MODEL)
    found = rotate_sweep(MODEL, tokens, METRIC, PLANE, angles=ANGLES, layers=[2], max_new_tokens=1)
    assert found.clusters == (0,) * 4 + (1,) * 4 + (2,) * 4
    names = list(found.clusters)
    expected = first_harmonic(ANGLES, found.value.double().numpy(), names)
    row = found.axes_frame().iloc[0]
    assert row["phase"] == expected.phase
    assert row["amplitude_high"] == expected.amplitude_high
    assert "rate_low" in found.to_summary()
    edits = locate_edits(MODEL, tokens, METRIC, PLANE, layer=2, draws=1).to_summary()
    assert edits.set_index("edit").loc["rotation to the ablation's angle", "p"] >= 0.25, (
        "three templates: eight sign patterns"
    )
    planes = compare_planes(MODEL, tokens, METRIC, {"a": PLANE}, layer=2, angles=ANGLES, draws=3).to_summary()
    assert planes.loc[0, "low"] <= planes.loc[0, "movement"] <= planes.loc[0, "high"]


def test_a_sweep_with_a_planted_axis_gives_it_back():
    """A metric linear in the in-plane part: its harmonic is the part's own length times the metric's gradient."""
    found, gradient = _swept(), np.array([1.5, -2.0])
    r = found.own[0].double().norm(dim=-1).numpy()
    points = np.stack([np.cos(np.deg2rad(found.angles)), np.sin(np.deg2rad(found.angles))], -1)
    value = torch.tensor((points @ gradient)[:, None] * r).float()
    planted = RotationSweep(**{**vars(found), "value": value})
    axis = planted.axis()
    assert axis.harmonic.amplitude == pytest.approx(2.5 * r.mean(), rel=1e-5)
    assert axis.harmonic.phase == pytest.approx(math.degrees(math.atan2(-2.0, 1.5)) % 360, abs=1e-3)
    assert axis.harmonic.share == pytest.approx(1, abs=1e-6)
    expected = torch.tensor(gradient / 2.5).float() @ PLANE
    assert torch.allclose(axis.direction, expected, atol=1e-5)


def test_figures(says: Callable[..., None]):
    for figure in (_swept().figure(), _swept().refusal_figure()):
        assert figure.data
        texts = [a.text for a in figure.layout.annotations if a.text]
        assert any(MODEL.name in text for text in texts)
        assert len(figure.data) == 2
    says(_located().figure(), MODEL.name)
    says(_compared().figure(), MODEL.name)


@pytest.mark.parametrize(
    ("angles", "said"),
    [([], "angles: none given; give degrees"), ("0,90", "is no list of numbers; give"), (90, "is no list of numbers"),
     ([0, "north"], "'north' is no number"), ([0, None], "None is no number"), ([True], "True is no number"),
     ([0, math.nan], "is not finite"), ([math.inf], "is not finite")],
)  # fmt: skip
def test_angles_that_are_none(angles: Any, said: str):
    with pytest.raises(CircuitError, match=said):
        checked_angles(angles)


def test_angles_that_are_none_are_said_before_anything_is_run():
    for call in (rotate_sweep, partial(compare_planes, layer=1)):
        given: Any = {"a": PLANE} if call is not rotate_sweep else PLANE
        with pytest.raises(CircuitError, match="angles: none given"):
            call(MODEL, PAIRS, METRIC, given, angles=[])
    with pytest.raises(CircuitError, match="angles: nan is not finite"):
        complete_at(MODEL, PAIRS, PLANE, [math.nan])


def test_angles_come_as_any_numbers():
    assert (
        checked_angles(np.arange(0, 360, 90)) == checked_angles(torch.arange(0, 360, 90)) == (0.0, 90.0, 180.0, 270.0)
    )


def test_other_things_that_cannot_be():
    with pytest.raises(UndefinedError, match="two orthonormal rows"):
        rotate_sweep(MODEL, PAIRS, METRIC, 2 * PLANE)
    with pytest.raises(SiteError, match=r"plane: shape \(2, 8\)"):
        rotate_sweep(MODEL, PAIRS, METRIC, PLANE[:, :8])
    with pytest.raises(SiteError, match="layer 4 out of range"):
        rotate_sweep(MODEL, PAIRS, METRIC, PLANE, layers=[4])
    with pytest.raises(SiteError, match="'some'; give 'all'"):
        checked_layers(MODEL, "some")
    with pytest.raises(CircuitError, match="a judge reads completions"):
        rotate_sweep(MODEL, PAIRS, METRIC, PLANE, judge=SubstringJudge())
    without = rotate_sweep(MODEL, PAIRS, METRIC, PLANE, angles=ANGLES, layers=[2])
    with pytest.raises(UndefinedError, match="ask for max_new_tokens"):
        without.refusal_figure()
    with pytest.raises(UndefinedError, match="ask for max_new_tokens"):
        without.axis(of="refusal")


# --- ablation and addition on the circle --------------------------------------------------------------------------------------


@cache
def _located() -> EditsOnCircle:
    return locate_edits(MODEL, PAIRS, METRIC, PLANE, layer=2, shift=0.3, draws=3)


def test_edits_are_where_their_formulas_put_them():
    found = _located()
    assert found.identity_error <= 1e-5
    x, y = found.original.unbind(-1)
    r = torch.hypot(x, y)
    at = dict(zip(found.names, found.point, strict=True))
    assert torch.allclose(at["ablation"], torch.stack([0 * x, y], -1), atol=1e-5)
    assert torch.allclose(at["addition"], torch.stack([x + 0.3, y], -1), atol=1e-5)
    for name, to in (("ablation", at["ablation"]), ("addition", at["addition"])):
        turned = at[f"rotation to the {name}'s angle"]
        assert torch.allclose(turned.norm(dim=-1), r, atol=1e-5), "a rotation keeps the length"
        cross = turned[:, 0] * to[:, 1] - turned[:, 1] * to[:, 0]
        assert (cross / (r * to.norm(dim=-1))).abs().max() <= 1e-4, "another angle"
        assert ((turned * to).sum(-1) > 0).all()


def test_displacements_match():
    found = _located()
    moved = dict(zip(found.names, found.displacement, strict=True))
    x, y = found.original.unbind(-1)
    assert torch.allclose(moved["ablation"], x.abs(), atol=1e-5)
    assert torch.allclose(moved["addition"], torch.full_like(x, 0.3), atol=1e-5)
    assert torch.allclose(moved["rotation of the ablation's displacement"], x.abs(), atol=1e-5)
    for n in range(3):
        assert torch.allclose(moved[f"random shift #{n}"], x.abs(), atol=1e-5)
    r = torch.hypot(x, y)
    exists = 2 * r >= 0.3
    assert exists.any()
    assert torch.allclose(moved["rotation of the addition's displacement"][exists], torch.tensor(0.3), atol=1e-5)
    assert moved["rotation of the addition's displacement"][~exists].isnan().all()
    to = dict(zip(found.names, found.point, strict=True))["rotation of the ablation's displacement"]
    assert (to[:, 0].abs() <= x.abs() + 1e-5).all(), "turned away from where the ablation is"


def test_the_metric_under_each_is_the_sweeps_own():
    found, site = _located(), Site("resid_pre", 2)
    x, y = found.original.unbind(-1)
    to = torch.rad2deg(torch.atan2(y, 0 * x))
    by = torch.rad2deg(2 * torch.asin(x.abs() / (2 * torch.hypot(x, y)))) * torch.where(x * y > 0, 1.0, -1.0)
    swept = sweep(
        MODEL, PAIRS, METRIC, [(Aim(site, PLANE, to, "last"),), (Rotate(site, PLANE, by, "last"),)], direction="noise"
    )
    assert torch.allclose(found.value[2], swept.value[0], atol=1e-5)
    assert torch.allclose(found.value[4], swept.value[1], atol=1e-5)


def test_rotations_are_compared_with_the_edit_beside_them():
    table = _located().to_summary().set_index("edit")
    change = (_located().value - _located().base).double().numpy()
    row = table.loc["rotation to the ablation's angle"]
    assert row["beside"] == "ablation"
    assert row["differ"] == pytest.approx((change[2] - change[0]).mean(), abs=1e-6)
    assert row["differ_low"] <= row["differ"] <= row["differ_high"]
    assert 0 < row["p"] <= 1
    assert row["per_unit"] == pytest.approx(row["change"] / row["displacement"])


def test_a_shift_too_long_for_the_circle_has_no_rotation():
    found = locate_edits(MODEL, PAIRS, METRIC, PLANE, layer=2, shift=1e3, draws=1)
    assert found.value[5].isnan().all()
    assert found.to_summary().set_index("edit").loc["rotation of the addition's displacement", "n"] == 0
    default = locate_edits(MODEL, PAIRS, METRIC, PLANE, layer=2, draws=1)
    assert default.shift == pytest.approx(-float(default.original[:, 0].mean()), abs=1e-6)
    assert default.point[1, :, 0].mean().item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(SiteError, match="layer 9"):
        locate_edits(MODEL, PAIRS, METRIC, PLANE, layer=9)


# --- planes against each other ------------------------------------------------------------------------------------------------


@cache
def _compared(mode: Any = "aim") -> Any:
    return compare_planes(
        MODEL, _prompts(), METRIC, {"a": PLANE, "b": plane(V.roll(3), W)}, layer=3, angles=ANGLES, mode=mode, draws=9
    )


@pytest.mark.parametrize("mode", ["aim", "turn"])
def test_displacements_of_planes_are_measured_ones(mode: Any):
    found, site = _compared(mode), Site("resid_pre", 3)
    tokens = _prompts().beside_themselves()
    before = read(MODEL, tokens, (), [site]).seen[site][:, -1]
    kind = Aim if mode == "aim" else Rotate
    for a in (0, 1, 7):
        after = read(MODEL, tokens, (kind(site, PLANE, float(ANGLES[a]), "last"),), [site]).seen[site][:, -1]
        assert torch.allclose((after - before).norm(dim=-1), found.displacement[0, a], atol=1e-5)
        alone = sweep(MODEL, tokens, METRIC, [(kind(site, PLANE, float(ANGLES[a]), "last"),)], direction="noise")
        assert torch.allclose(alone.value[0], found.value[0, a], atol=1e-5)


def test_movement_is_change_per_displacement_against_random_planes():
    found = _compared()
    table = found.to_summary().set_index("plane")
    assert list(table.index) == ["a", "b"]
    change = (found.value - found.base).double().square().mean(1).sqrt()
    expected = change / found.displacement.double().square().mean(1).sqrt()
    assert table.loc["a", "movement"] == pytest.approx(expected[0].mean().item())
    null = expected[2:].mean(-1).numpy()
    assert table.loc["b", "p"] == pytest.approx((1 + (null >= table.loc["b", "movement"]).sum()) / 10)
    assert table.loc["a", "null_mean"] == pytest.approx(null.mean())
    assert (table["p_holm"] >= table["p"]).all()


def test_a_plane_that_points_to_the_metric_moves_it_most_however_little_it_holds():
    """Planted: the metric is linear in the residual along g. Planes are scored by how much of g they hold."""
    found = _compared()
    site = Site("resid_pre", 3)
    before = read(MODEL, _prompts().beside_themselves(), (), [site]).seen[site][:, -1].double()
    with_g, without = plane(W, V), plane(V.roll(3), W.roll(5))
    g = with_g[0].double() - without.double().T @ (without.double() @ with_g[0].double())
    rows = torch.stack([with_g, without]).double()
    at = torch.deg2rad(torch.tensor(ANGLES, dtype=torch.double))
    xy = torch.einsum("nd,pkd->pnk", before, rows)
    r = xy.norm(dim=-1)
    new = r[:, None, :, None] * torch.stack([torch.cos(at), torch.sin(at)], -1)[None, :, None]
    moved = torch.einsum("pank,pkd->pand", new - xy[:, None], rows)
    fields = vars(found) | {
        "value": (found.base + moved @ g).float(), "displacement": moved.norm(dim=-1).float(), "names": ("with g", "without"),
        "null": ("without",), "basis": rows.float(),
    }  # fmt: skip
    table = type(found)(**fields).movement
    assert table[1].max() <= 1e-4, "a plane perpendicular to the gradient moves nothing"
    assert (table[0] > 0.1 * g.norm()).all()
    assert (table[0] <= g.norm() * (1 + 1e-5)).all(), "no displacement moves a linear metric further than its gradient"


def test_nothing_to_compare():
    with pytest.raises(CircuitError, match="nothing to compare"):
        compare_planes(MODEL, PAIRS, METRIC, {}, layer=1)
    with pytest.raises(CircuitError, match="that is what a random plane is called"):
        compare_planes(MODEL, PAIRS, METRIC, {"null #0": PLANE}, layer=1)
    with pytest.raises(SiteError, match="layer 4"):
        compare_planes(MODEL, PAIRS, METRIC, {"a": PLANE}, layer=4)
