"""Two concepts' angle: planted angles are found, noise alone gives 60°, and each null rejects what it should and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_models
import torch

from circuits.engine.collect import last_residuals
from circuits.errors import CircuitError
from circuits.measure.concepts import ConceptAngles, compare_concepts
from circuits.measure.concepts.angles import measured
from circuits.measure.concepts.contrasts import drawn_again, gram, halved, inner, means, relabelled, resampled
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.tables import provenance

SIGNS = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
"""Classes: harmful, incapable, harmless."""
CONCEPTS = (("harmful", "harmless"), ("incapable", "harmless"))
MODEL = small_models.model("gemma2")


def instructions(n: int = 8) -> InstructionSet:
    rng = np.random.default_rng(0)
    said = [
        Instruction(" ".join(f"w{i}" for i in [*rng.integers(0, 60, rng.integers(2, 6)), 60 + k]), label)
        for k, label in enumerate(("harmful", "harmless", "incapable"))
        for _ in range(n)
    ]
    return InstructionSet(tuple(said), "made up")


def classes(sizes: tuple[int, int, int], centres: Any, d: int, seed: int, spread: float = 1.0) -> tuple[Any, Any]:
    """Activations [prompt, 1, d] of Gaussian classes, and the class of each."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(3), sizes)
    x = spread * rng.normal(size=(len(of), d))
    x[:, : len(centres[0])] += np.array(centres)[of]
    return x[:, None], of


def test_an_inner_product_is_the_loop_over_prompts():
    x, of = classes((4, 6, 5), [(1, 0), (0, 1), (0, 0)], 7, 3)
    found = inner(gram(x), means(of[None], 3), SIGNS)
    m = [x[of == c, 0].mean(0) for c in range(3)]
    d = m[0] - m[2], m[1] - m[2]
    assert found.plain[0, 0] == pytest.approx(np.array([[a @ b for b in d] for a in d]))
    assert found.cosine[0, 0] == pytest.approx(d[0] @ d[1] / np.linalg.norm(d[0]) / np.linalg.norm(d[1]))

    def product(a: int, b: int) -> float:
        """Mean inner product of a prompt of one class with another prompt of the other."""
        rows = [(i, j) for i in np.flatnonzero(of == a) for j in np.flatnonzero(of == b) if i != j]
        return float(np.mean([x[i, 0] @ x[j, 0] for i, j in rows]))

    without = product(0, 1) - product(0, 2) - product(1, 2) + product(2, 2)
    assert found.unbiased[0, 0, 0, 1] == pytest.approx(without)
    assert found.unbiased[0, 0, 0, 0] == pytest.approx(product(0, 0) - 2 * product(0, 2) + product(2, 2))


def test_noise_alone_gives_sixty_degrees_and_the_correction_none():
    found = [measured_on((20, 20, 20), [(0,), (0,), (0,)], 300, seed) for seed in range(30)]
    cosine = np.mean([float(f["cosine"]) for f in found])
    assert cosine == pytest.approx(0.5, abs=0.02)
    assert np.mean([float(f["split"]) for f in found]) == pytest.approx(0.0, abs=0.02)
    products = [inner(gram(x), means(of[None], 3), SIGNS).unbiased[0, 0, 0, 1]
                for x, of in (classes((20, 20, 20), [(0,), (0,), (0,)], 300, s) for s in range(200))]  # fmt: skip
    assert abs(np.mean(products)) < 4 * np.std(products) / np.sqrt(200)


def measured_on(
    sizes: tuple[int, int, int], centres: Any, d: int, seed: int, draws: int = 60
) -> dict[str, torch.Tensor]:
    x, of = classes(sizes, centres, d, seed)
    return measured(torch.from_numpy(x).float(), of, SIGNS, draws=draws, seed=seed)


@pytest.mark.parametrize("degrees", [40.0, 90.0, 120.0])
def test_a_planted_angle_is_found_where_the_plain_one_is_pulled_to_sixty(degrees: float):
    a = np.radians(degrees)
    centres = [(4, 0), (4 * np.cos(a), 4 * np.sin(a)), (0, 0)]
    found = [measured_on((25, 25, 25), centres, 200, seed, draws=2) for seed in range(40)]
    plain, corrected = (np.degrees(np.arccos(np.mean([float(f[n]) for f in found]))) for n in ("cosine", "corrected"))
    assert corrected == pytest.approx(degrees, abs=2.5)
    assert abs(plain - 60) < abs(degrees - 60) - 3  # noise pulls towards its own 60°
    halves = np.mean([float(f["split"]) for f in found])
    assert abs(halves) <= abs(np.cos(a)) + 0.02  # and halves towards 90°


def test_the_corrected_interval_covers_the_truth():
    a, hits, plain_hits, runs = np.radians(75), 0, 0, 120
    for seed in range(runs):
        x, of = classes((20, 20, 20), [(4, 0), (4 * np.cos(a), 4 * np.sin(a)), (0, 0)], 100, seed)
        boot = resampled(gram(x), drawn_again(of, 3, np.random.default_rng(seed)), SIGNS, 200)
        low, high = np.nanquantile(boot.corrected[:, 0], [0.025, 0.975])
        hits += low <= np.cos(a) <= high
        low, high = np.nanquantile(boot.cosine[:, 0], [0.025, 0.975])
        plain_hits += low <= np.cos(a) <= high
    assert hits / runs > 0.88
    assert plain_hits < hits


@pytest.mark.parametrize("of", [[0, 1], [0, 1, 2]], ids=["swapped", "shuffled"])
def test_a_null_is_uniform_where_it_holds(of: list[int]):
    shift = 0.0 if 2 in of else 3.0  # for the swapped one both classes may differ from the third
    p: list[float] = []
    for seed in range(150):
        x, labels = classes((8, 8, 8), [(shift,), (shift,), (0,)], 20, seed)
        g, rng = gram(x), np.random.default_rng(seed)
        seen = inner(g, means(labels[None], 3), SIGNS).cosine[0, 0]
        null = resampled(g, relabelled(labels, 3, np.array(of), rng), SIGNS, 99).cosine[:, 0]
        p.append((1 + (null <= seen).sum()) / 100)
    assert np.mean(p) == pytest.approx(0.505, abs=0.08)
    assert 0.005 <= np.mean(np.array(p) <= 0.05) <= 0.11


def result(centres: Any, draws: int = 400) -> ConceptAngles:
    found = measured_on((20, 20, 20), centres, 60, 5, draws)
    about = provenance(MODEL, small_models.uneven())
    return ConceptAngles(
        provenance=about, concepts=CONCEPTS, counts=dict.fromkeys(("harmful", "incapable", "harmless"), 20), undefined=(),
        **found,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("centres", "verdict"),
    [
        ([(0, 0), (0, 0), (0, 0)], "no direction"), ([(3, 0), (0, 0), (0, 0)], "no direction"),
        ([(4, 0), (4, 0), (0, 0)], "one direction"), ([(4, 4), (-4, 4), (0, 0)], "distinct, unrelated"),
        ([(5, 4), (0, 4), (0, 0)], "distinct, related"), ([(4, 0), (-4, 0), (0, 0)], "distinct, related"),
    ],
)  # fmt: skip
def test_the_verdict_names_what_was_planted(centres: Any, verdict: str):
    row = result(centres).to_summary().iloc[0]
    assert row["verdict"] == verdict
    if verdict == "one direction":
        assert row["corrected_low"] < 1 < row["corrected_high"]


def test_halves_share_no_prompt():
    _, of = classes((4, 4, 9), [(0,), (0,), (0,)], 2, 0)
    draw, signs = halved(of, SIGNS, np.random.default_rng(0))
    for weights in draw(20):
        own = [signs[i] @ weights for i in range(2)]
        assert not ((own[0] != 0) & (own[1] != 0)).any()
        assert [w.sum() for w in own] == pytest.approx([0, 0])
        assert sorted((w < 0).sum() for w in own) == [4, 5]


def test_on_a_model_the_directions_are_differences_of_residuals(says: Callable[..., None]):
    prompts = instructions().tokenize(MODEL)
    found = compare_concepts(MODEL, prompts, draws=100)
    x = last_residuals(MODEL, prompts)
    mean = {name: x[prompts.labelled(name)].mean(0) for name in ("harmful", "harmless", "incapable")}
    first, second = mean["harmful"] - mean["harmless"], mean["incapable"] - mean["harmless"]
    assert torch.allclose(found.cosine.float(), torch.cosine_similarity(first, second, dim=-1), atol=1e-4)
    assert torch.allclose(found.norm.float(), torch.stack([first.norm(dim=-1), second.norm(dim=-1)]), atol=1e-4)
    frame = found.to_frame()
    assert frame["angle"].to_numpy() == pytest.approx(np.degrees(np.arccos(found.cosine.numpy())))
    assert (frame["angle_low"] <= frame["angle_high"]).all()
    assert "8 harmful, 8 harmless, 8 incapable" in found.provenance.pairs
    assert found.expected == 0.5
    for figure in (found.figure(), found.cosine_figure()):
        says(figure, MODEL.name)
    again = compare_concepts(MODEL, prompts, draws=100)
    assert found.to_frame().equals(again.to_frame())


def test_one_last_token_is_undefined_at_layer_0_and_said():
    same = InstructionSet(tuple(Instruction(f"{i.text} w79", i.label) for i in instructions()), "one ending")
    found = compare_concepts(MODEL, same.tokenize(MODEL), draws=100)
    assert found.undefined == (0,)
    frame = found.to_frame().set_index("layer")
    assert frame.loc[0, ["cosine", "corrected", "split", "angle", "p_distinct", "shuffled_mean"]].isna().all()
    assert frame.loc[0, "norm_first"] == pytest.approx(0, abs=1e-4)
    assert frame.loc[1:, ["cosine", "p_distinct", "p_labels_holm"]].notna().all(axis=None)
    assert found.to_summary()["verdict"][0] == "undefined"
    said = " ".join(a.text.replace("<br>", " ") for a in found.figure().layout.annotations)
    assert "undefined (no difference of means): layer 0" in said


def test_what_cannot_be_asked():
    prompts = instructions().tokenize(MODEL)
    for given in (
        {"first": ("harmful", "harmful")},
        {"second": ("harmful", "harmless")},
        {"second": ("incapable", "harmful")},
    ):
        with pytest.raises(CircuitError, match="nowhere else"):
            compare_concepts(MODEL, prompts, **given)
    with pytest.raises(CircuitError, match="allow no adjusted p"):
        compare_concepts(MODEL, prompts, draws=20)
    with pytest.raises(CircuitError, match="harmless: 3"):
        compare_concepts(MODEL, prompts.only(~prompts.labelled("harmless") | (torch.arange(24) < 11)))
    with pytest.raises(CircuitError, match="incapable: 0"):
        compare_concepts(MODEL, prompts.only(~prompts.labelled("incapable")))
