"""What the studies conclude from numbers: each rule can come out either way, and chance alone does not pass it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import small_models
import torch
from torch import Tensor

from circuits.case.condition import Rows, verdict
from circuits.case.sections import steering
from circuits.cases.gemma2_replication import together
from circuits.cases.gemma2_replication.halves import template_halves
from circuits.cases.gemma2_replication.steered import VECTOR, beyond_random_vectors
from circuits.cases.rotation_plane.circle import angles_apart, arcs
from circuits.cases.rotation_plane.nulls import beyond_second_axes, beyond_shifts
from circuits.cases.single_direction.ranking import best_doses, told_on
from circuits.errors import CircuitError, UndefinedError
from circuits.measure.rotation import EditsOnCircle, PlaneComparison, RotationSweep
from circuits.measure.steering import Steering
from circuits.prompts import PairSet
from circuits.prompts.clusters import template_clusters
from circuits.result import Provenance

FROM = Provenance(model="planted", model_hash="", dtype="float32", device="cpu", pairs="planted", metric="metric")
N = 16


def swept(
    doses: Sequence[tuple[str, str, int | None, float]], refused: Tensor, *, score: Tensor | None = None,
    metric: Tensor | None = None,
) -> Steering:  # fmt: skip
    """A sweep of planted refusals (setting, pair), the unedited model first; scores are compliance and coherence."""
    settings, n = refused.shape
    given = torch.stack([(~refused).double(), torch.ones(settings, n).double()], -1) if score is None else score
    return Steering(
        provenance=FROM, metric=torch.zeros(n, settings - 1) if metric is None else metric, base=torch.zeros(n),
        refused=refused, score=given, scores=("substring.compliance", steering.COHERENCE), missing={}, cost="",
        completions=tuple(("text",) * n for _ in range(settings)), prompts=("prompt",) * n, labels=("harmful",) * n,
        doses=tuple(d[0] for d in doses), series=tuple(d[1] for d in doses), layers=tuple(d[2] for d in doses),
        coefficients=tuple(d[3] for d in doses),
    )  # fmt: skip


def rates(*shares: float, n: int = N) -> Tensor:
    """Refusals (setting, pair) at these rates."""
    return torch.stack([torch.arange(n) < round(share * n) for share in shares])


TWO = [("direction of layer 1, α 1", "direction", 1, 1.0), ("random 1, α 1", "random 1", None, 1.0)]


def test_a_rate_at_which_all_agree_has_an_interval():
    found = swept(TWO, rates(1, 0, 1))
    all_of_many = steering.refusing(found, "no edit", "refused", "at least")
    none = steering.refusing(found, TWO[0][0], "refused", "below")
    assert all_of_many.high == none.low + 1 == 1
    assert all_of_many.low == pytest.approx(0.806, abs=1e-3), "Wilson's, 16 of 16"
    assert none.high == pytest.approx(0.194, abs=1e-3)
    few = steering.refusing(swept(TWO, rates(1, 0, 1, n=2)), "no edit", "refused", "at least")
    assert few.holds is None, "two prompts that agree decide nothing"
    answered = steering.refusing(found, TWO[0][0], "answered", "at least", answered=True)
    assert (answered.mean, answered.holds) == (1.0, True)


def test_the_null_is_the_random_direction_that_does_most():
    doses = [*TWO, ("random 2, α 1", "random 2", None, 1.0), ("random 1, α 2", "random 1", None, 2.0)]
    found = swept(doses, rates(1, 0, 0.75, 0.5, 0))
    assert steering.extreme_null(found, 1.0, refused=False) == "random 2, α 1"
    assert steering.extreme_null(found, 1.0, refused=True) == "random 1, α 1"
    assert steering.extreme_null(found, 3.0, refused=True) is None


def test_the_best_dose_is_never_a_random_one_and_ties_are_told():
    doses = [
        ("direction of layer 1, α 1", "direction", 1, 1.0), ("direction of layer 2, α 1", "direction", 2, 1.0),
        ("direction of layer 3, α 1", "direction", 3, 1.0), ("random 1, α 1", "random 1", None, 1.0),
    ]  # fmt: skip
    found = swept(doses, rates(1, 0.5, 0.25, 0.25, 0))
    best = best_doses(found, found.scores)
    assert best == ["direction of layer 2, α 1", "direction of layer 3, α 1"], (
        "random 1 scores higher, and is no answer"
    )
    said = told_on(found, best[0], among=3, ties=best[1:])
    assert said.startswith("Best of 3: direction of layer 2, α 1 (exactly as good: direction of layer 3, α 1).")
    assert "random direction of that strength that changes most 0 %" in said
    nothing = swept(doses, rates(1, 0, 0, 0, 0), score=torch.full((5, N, 2), float("nan")).double())
    with pytest.raises(UndefinedError, match="no dose has a score"):
        best_doses(nothing, nothing.scores)


def test_other_words_where_no_one_forbids():
    found = swept(TWO, rates(1, 0, 1))
    section = steering.steering(found, "steering", "Title", said="say that they cannot")
    assert "refuse" not in section.claim
    assert "100 % [81, 100] say that they cannot" in section.claim


@pytest.mark.parametrize(("gain", "holds"), [(2.0, True), (-2.0, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_vector_is_ruled_beside_random_ones_as_long(gain: float, holds: bool, sign: int):
    doses = [("v", VECTOR, 4, float(sign)), ("r1", "random 1", 4, float(sign)), ("r2", "random 2", 4, float(sign)),
             ("other", VECTOR, 4, float(-sign))]  # fmt: skip
    noise = 0.1 * torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    metric = noise + sign * torch.tensor([5 + gain, 1.0, 5.0, 50.0])
    found = beyond_random_vectors(swept(doses, rates(1, 1, 1, 1, 1), metric=metric), float(sign), sign)
    assert found.mean == pytest.approx(gain, abs=0.2), "beyond the random vector that moves it most, not their mean"
    assert found.holds is holds


def turned(refused: Tensor, value: Tensor, angles: Sequence[float]) -> RotationSweep:
    n = refused.shape[1]
    return RotationSweep(
        provenance=FROM, value=value.float(), base=torch.zeros(n), refused=refused, base_refused=torch.ones(n).bool(),
        scores=None, score_names=(), completions=tuple(("text",) * n for _ in angles), own=torch.zeros(1, n, 2),
        plane=torch.eye(2), angles=tuple(angles), mode="aim", layers=(0,), labels=("harmful",) * n, prompts=("p",) * n,
    )  # fmt: skip


def test_the_best_and_worst_of_many_angles_by_luck_are_no_finding():
    """Refusal at one half whatever the angle: on the prompts that choose them, the extremes of 36 angles look far apart."""
    angles = [10.0 * k for k in range(36)]
    naive, fair = 0, 0
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        refused = torch.rand(36, 24, generator=draw) < 0.5
        chance = refused.double().mean(1).numpy()
        naive += chance.max() >= 17 / 24 and chance.min() <= 7 / 24  # Wilson's intervals exclude one half
        found = angles_apart(turned(refused, torch.zeros(36, 24), angles), "harmful")
        fair += all(c.holds for c in found)
    assert naive >= 6
    assert fair <= 1
    planted = torch.tensor([[abs((a + 180) % 360 - 180) < 60] * 24 for a in angles])
    value = torch.cos(torch.deg2rad(torch.tensor(angles)))[:, None].expand(-1, 24)
    found = angles_apart(turned(planted, value, angles), "harmful")
    assert [c.holds for c in found] == [True, True]
    assert found[0].name.startswith("refused at 0°"), "ties by the metric"
    assert found[1].name.startswith("refused at 180°")


@pytest.mark.parametrize(("held", "said"), [
    ([300, 330, 0, 30], "from 300° to 30°"), ([90], "at 90°"), ([], "at no angle"), (list(range(0, 360, 30)), "at every angle"),
    ([0, 180, 210], "at 0° and from 180° to 210°"),
])  # fmt: skip
def test_arcs(held: list[int], said: str):
    rows = [{"angle": float(a)} for a in range(0, 360, 30)]
    assert arcs(rows, lambda r: r["angle"] in held) == said


@pytest.mark.parametrize(("own", "holds"), [(-3.0, True), (-1.0, False)])
def test_ablation_is_ruled_beside_the_random_shift_that_moves_most(own: float, holds: bool):
    noise = 0.05 * torch.randn(3, N, generator=torch.Generator().manual_seed(1))
    edits = EditsOnCircle(
        provenance=FROM, value=noise + torch.tensor([[own], [0.5], [-2.0]]), base=torch.zeros(N), original=torch.zeros(N, 2),
        point=torch.zeros(3, N, 2), displacement=torch.ones(3, N), names=("ablation", "random shift #0", "random shift #1"),
        layer=1, shift=1.0, identity_error=0.0, labels=("harmful",) * N, prompts=("p",) * N,
    )  # fmt: skip
    found = beyond_shifts(edits)
    assert found.mean == pytest.approx(-2 - own, abs=0.05)
    assert found.holds is holds


def test_a_second_axis_that_adds_nothing_is_not_credited_with_the_first():
    names = ("best + PC1", "best + random #0", "best + random #1", "null #0")
    for gain, holds in ((0.0, (False, None)), (1.0, (True,))):
        noise = 0.05 * torch.randn(4, 3, N, generator=torch.Generator().manual_seed(2))
        value = noise + torch.tensor([5.0 + gain, 5.0, 4.5, 0.1])[:, None, None]
        found = beyond_second_axes(PlaneComparison(
            provenance=FROM, value=value, base=torch.zeros(N), displacement=torch.ones(4, 3, N), basis=torch.zeros(4, 2, 2),
            names=names, null=names[3:], angles=(0.0, 120.0, 240.0), mode="aim", layer=1, labels=("harmful",) * N,
        ), names[0], names[1:3])  # fmt: skip
        assert found.holds in holds
        assert found.mean == pytest.approx(gain, abs=0.05)


def test_halves_of_pairs_share_no_template():
    said = [("w1 w2 w3 w4", "w1 w2 w40 w4"), ("w1 w2 w5 w4", "w1 w2 w41 w4"), ("w6 w7 w8", "w6 w42 w8"),
            ("w9 w10 w11", "w9 w43 w11"), ("w1 w2 w12 w4", "w1 w2 w44 w4")]  # fmt: skip
    tokens = PairSet.from_pairs(said).tokenize(small_models.model("gpt2"))
    halves = template_halves(tokens)
    assert sorted(p.clean for half in halves for p in half.pairs) == sorted(a for a, _ in said)
    assert template_clusters(tokens) == (0, 0, 1, 2, 0)
    assert [[p.clean for p in half.pairs] for half in halves] == [[said[i][0] for i in (0, 1, 3, 4)], [said[2][0]]]
    same = template_halves(tokens.select([0, 1, 4]))
    assert [half.n_pairs for half in same] == [2, 1], "one template: every other pair"
    with pytest.raises(CircuitError, match="at least two"):
        template_halves(tokens.select([0]))


def test_heads_together_are_ruled_beside_sets_drawn_from_all_heads():
    """As good as any other half of the heads is no finding, however much of the metric it carries."""
    rng = np.random.default_rng(0)

    def rows(chosen: float) -> Rows:
        means: dict[str, float] = {together.CHOSEN: chosen, "random #0": 0.5, "random #1": 0.9}
        frames = [
            pd.DataFrame({"pair": range(N), "set": name, "fraction": mean + 0.02 * rng.standard_normal(N)})
            for name, mean in means.items()
        ]
        return Rows(pd.concat(frames, ignore_index=True))

    names = ["random #0", "random #1"]
    better, worse = together.beyond_random_sets(rows(1.0), names), together.beyond_random_sets(rows(0.8), names)
    assert better is not None
    assert worse is not None
    assert (better.holds, worse.holds) == (True, False)
    assert together.beyond_random_sets(rows(1.0), []) is None
    ruled = verdict("sufficient", "head-sets", [better, None], "every head was chosen")
    assert ruled.verdict == "undecided"
