"""The rotation case on few prompts: the plane, the metric and the completions are those of the formula, run plainly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import case_runs as runs
import numpy as np
import oracle
import pandas as pd
import pytest
import torch
from case_runs import Run
from oracle import Edit
from safetensors.torch import load_file

MODEL = "refusal-qwen2"
COMPASS = ("most", "across +", "least", "across −")


@pytest.fixture(scope="module")
def done() -> Run:
    return runs.finished("rotation_plane")


@pytest.fixture(scope="module")
def plane(done: Run) -> torch.Tensor:
    return load_file(done.out / "data" / "circle.safetensors")["plane"]


def test_the_plane_is_the_best_candidate_and_the_first_component(done: Run, plane: torch.Tensor):
    best = int(re.findall(r"best candidate is that of layer (\d+)", done.claim("planes"))[0])
    every = pd.read_csv(done.given / "asked.csv")
    sides = [every.loc[every["label"] == label, "instruction"].tolist()[::2] for label in ("harmful", "harmless")]
    layers = runs.raw(MODEL)[0].config.num_hidden_layers
    candidates = {layer: runs.mean_difference(MODEL, *sides, layer).double() for layer in range(1, layers)}
    x = torch.stack(list(candidates.values()))
    first = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][0]
    v = candidates[best] / candidates[best].norm()
    across = first - (first @ v) * v
    assert torch.allclose(plane[0].double(), v, atol=1e-5)
    assert abs(float(plane[1].double() @ (across / across.norm()))) == pytest.approx(1, abs=1e-5)
    between = float(re.findall(r"lies ([0-9.]+)° from it", done.claim("planes"))[0])
    assert between == pytest.approx(math.degrees(math.acos(min(1.0, abs(float(first @ v))))), abs=0.6)


def aimed(plane: torch.Tensor, degrees: float) -> Callable[[int], list[Edit]]:
    """The in-plane part of what enters every layer keeps its length and gets the angle, at every position."""
    first, second = plane
    turn = math.radians(degrees)

    def set_angle(a: torch.Tensor) -> torch.Tensor:
        x, y = torch.dot(a, first), torch.dot(a, second)
        return a - x * first - y * second + torch.hypot(x, y) * (math.cos(turn) * first + math.sin(turn) * second)

    layers = range(runs.raw(MODEL)[0].config.num_hidden_layers)
    return lambda n: [Edit("resid_pre", layer, oracle.formula(range(n), set_angle)) for layer in layers]


@pytest.mark.parametrize("angle", [0.0, 120.0])
def test_around_the_circle(done: Run, plane: torch.Tensor, angle: float):
    frame, token = done.data("circle"), runs.raw(MODEL)[1].get_vocab()["I"]
    rows = frame[frame["angle"] == angle]
    assert sorted(set(rows["label"])) == ["harmful", "harmless"]
    for _, row in rows.groupby("label").head(2).iterrows():
        change = aimed(plane, angle)
        expected = oracle.against_mean(runs.logits(MODEL, row["text"], change), token)
        assert row["metric"] == pytest.approx(expected, abs=1e-3)
        assert row["completion"] == runs.says(MODEL, row["text"], change)
        assert row["base"] == pytest.approx(oracle.against_mean(runs.logits(MODEL, row["text"]), token), abs=1e-4)


def test_the_axis_is_the_first_harmonic_of_the_curve(done: Run):
    frame = done.data("circle").query("label == 'harmful'")
    curve = frame.groupby("angle")["metric"].mean()
    turn = np.deg2rad(curve.index.to_numpy(float))
    a, b = 2 * np.mean(curve * np.cos(turn)), 2 * np.mean(curve * np.sin(turn))
    table = done.table("axis").query("label == 'harmful' and of == 'metric'")
    phase = math.degrees(math.atan2(b, a)) % 360
    assert table["phase"].tolist() == pytest.approx([phase])
    assert table["amplitude"].tolist() == pytest.approx([math.hypot(a, b)])
    assert table["share"].tolist() == pytest.approx([(a * a + b * b) / 2 / np.var(curve)])


def test_completions_at_the_compass(done: Run, plane: torch.Tensor):
    phase = float(done.table("axis").query("label == 'harmful' and of == 'metric'")["phase"].iloc[0])
    shown = [c for c in done.completions if c[1].startswith(COMPASS)]
    assert {c[1] for c in shown} == {f"{name} ({(phase + 90 * i) % 360:.0f}°)" for i, name in enumerate(COMPASS)}
    for i, point in enumerate(COMPASS):
        mine = [c for c in shown if c[1].startswith(f"{point} ")]
        change = aimed(plane, (phase + 90 * i) % 360)
        for prompt, _, _, text in mine[:2]:
            assert text == (runs.says(MODEL, prompt, change) or "(nothing)")


def test_refusal_by_angle_is_that_of_the_completions(done: Run):
    frame, table = done.data("circle"), done.table("circle")
    mine = frame[frame["label"] == "harmful"].groupby("angle")["refused"].mean()
    told = table[table["label"] == "harmful"].set_index("angle")["refusal_rate"]
    assert told.to_dict() == pytest.approx(mine.to_dict())
    most = re.findall(r"refused most at (\d+)° \((\d+) %\) and least at (\d+)° \((\d+) %\)", done.claim("circle"))[0]
    assert (mine[float(most[0])], mine[float(most[2])]) == (mine.max(), mine.min())
    assert [int(most[1]), int(most[3])] == [round(100 * mine.max()), round(100 * mine.min())]


def test_random_planes_are_the_null_of_the_comparison(done: Run):
    table = done.table("compared").set_index("plane")
    frame = done.data("compared")
    null = frame[frame["random"]]
    each = null.groupby(["plane", "prompt"])[["change", "displacement"]].agg(lambda c: math.sqrt((c**2).mean()))
    by_plane = (each["change"] / each["displacement"]).groupby("plane").mean()
    assert table["null_high"].iloc[0] == pytest.approx(np.quantile(by_plane, 0.95), rel=1e-5)
    rule = {v["hypothesis"]: v["rule"] for v in done.manifest["verdicts"]}
    bound = rule["the write-up's plane moves the metric more than random planes"].split()[-1]
    assert float(bound) == pytest.approx(table["null_high"].iloc[0], rel=0.06)
