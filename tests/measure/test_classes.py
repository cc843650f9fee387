"""Separation and components of classes: scores against slow loops, planted clusters, and components that hold a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_models
import torch

from circuits.engine.collect import last_residuals
from circuits.errors import CircuitError, UndefinedError
from circuits.linalg import cosine
from circuits.measure.classes import compare_pca_directions, pca_directions, separate_classes, separation
from circuits.measure.classes.activations import Labelled, principal, require_scaling, scaled
from circuits.measure.classes.scores import nearest_mean, silhouettes
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.stats import holm, wilson
from circuits.tables import provenance

MODEL = small_models.model("gemma2")
LABELS = ("harmful", "harmless", "incapable")


def prompts(ending: str = "", n: int = 8) -> Any:
    """Every class speaks of its own words; without an ending of its own it also ends in one of them."""
    rng = np.random.default_rng(0)
    said = [
        Instruction(" ".join(f"w{i}" for i in rng.integers(20 * k, 20 * k + 20, rng.integers(3, 6))) + ending, label)
        for k, label in enumerate(LABELS)
        for _ in range(n)
    ]
    return InstructionSet(tuple(said), "made up").tokenize(MODEL)


def planted(centres: Any, d: int = 40, n: int = 15, seed: int = 0) -> Labelled:
    """One layer of Gaussian classes."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(3), n)
    x = rng.normal(size=(3 * n, d))
    x[:, :2] += np.array(centres)[of]
    return Labelled(
        x=scaled(x[:, None], "centred"), of_prompt=of, labels=LABELS, text=("",) * 3 * n, scaling="centred",
        defined=np.array([True]), about=provenance(MODEL, small_models.uneven()),
    )  # fmt: skip


def test_silhouette_is_sklearns_and_the_definitions():
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(20, 6)) + 5, np.array([rng.permutation([0] * 5 + [1] * 7 + [2] * 8) for _ in range(3)])
    x[4] = x[5]  # two prompts with one activation
    found = silhouettes(x, labels, 3)
    for of, value in zip(labels, found, strict=True):
        own: list[float] = []
        for i in range(20):
            mean = [
                np.mean([np.linalg.norm(x[i] - x[j]) for j in range(20) if of[j] == c and j != i]) for c in range(3)
            ]
            a, b = mean[of[i]], min(m for c, m in enumerate(mean) if c != of[i])
            own.append((b - a) / max(a, b))
        assert value == pytest.approx(np.mean(own))
        assert value == pytest.approx(silhouette_score(x, of))


def test_leave_one_out_is_the_loop_that_leaves_one_out():
    rng = np.random.default_rng(2)
    of = np.repeat([0, 1, 2], [6, 9, 5])
    x = rng.normal(size=(20, 4)) + of[:, None] + 3
    labels = np.stack([of, rng.permutation(of)])
    found = nearest_mean(x, labels, 3)
    for row, classes in zip(found, labels, strict=True):
        for i in range(20):
            others = [np.delete(x, i, axis=0)[np.delete(classes, i) == c].mean(axis=0) for c in range(3)]
            assert row[i] == (np.argmin([np.linalg.norm(x[i] - m) for m in others]) == classes[i])
    assert 0.4 < found[0].mean() < 1


def test_components_are_sklearns():
    from sklearn.decomposition import PCA

    x = np.random.default_rng(3).normal(size=(12, 5)) * [5, 4, 3, 2, 1]
    found = principal(scaled(x, "centred"))
    theirs = PCA().fit(x)
    assert found.variance == pytest.approx(theirs.explained_variance_ratio_)
    assert np.abs((found.axes * theirs.components_).sum(axis=1)) == pytest.approx(np.ones(5))
    assert found.scores @ found.axes == pytest.approx(scaled(x, "centred"))
    assert (found.axes[np.arange(5), np.abs(found.axes).argmax(axis=1)] > 0).all()
    twice = np.concatenate([x[:3], x[:3]])
    assert len(principal(scaled(twice, "centred")).variance) == 2  # three points lie in a plane
    assert np.linalg.norm(scaled(x, "unit norm") - scaled(x, "unit norm")[0], axis=1).max() <= 2
    assert principal(scaled(x + 100, "raw")).variance[0] > 0.99


def test_planted_clusters_are_found_and_noise_is_not():
    apart = separation.measured(planted([(0, 0), (12, 0), (0, 12)]), draws=99, seed=0)
    assert apart["right_full"].all()
    assert apart["right_plane"].all()
    assert apart["silhouette_plane"] > 0.7 > apart["silhouette_full"]  # in all dimensions noise counts
    assert apart["null_silhouette_full"].max() < 0.05 < apart["silhouette_full"]
    p: list[tuple[float, float]] = []
    for seed in range(120):
        none = separation.measured(planted([(0, 0)] * 3, d=8, n=7, seed=seed), draws=39, seed=seed)
        hits = none["null_silhouette_full"][:, 0] >= none["silhouette_full"][0]
        right = none["null_accuracy_full"][:, 0] >= none["right_full"].double().mean()
        p.append(((1 + hits.sum().item()) / 40, (1 + right.sum().item()) / 40))
    both = np.array(p)
    assert both[:, 0].mean() == pytest.approx(0.51, abs=0.08)
    assert ((both <= 0.05).mean(axis=0) <= 0.1).all()


def test_on_a_model_every_number_comes_from_the_residuals(says: Callable[..., None]):
    given = prompts()
    found = separate_classes(MODEL, given, draws=100)
    x = last_residuals(MODEL, given)[:, 2].double().numpy()
    of = np.array([LABELS.index(i.label) for i in given.instructions])
    assert float(found.silhouette_full[2]) == pytest.approx(silhouettes(x, of[None], 3)[0])
    plane = found.coordinates[:, 2].numpy()
    assert float(found.silhouette_plane[2]) == pytest.approx(silhouettes(plane, of[None], 3)[0])
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    assert found.variance[2].numpy() == pytest.approx(values[:2] / values.sum())
    assert plane.var(axis=0) == pytest.approx(values[:2])
    table = found.to_summary().set_index(["space", "layer"])
    row = table.loc[("full", 2)]
    right = int(found.right_full[:, 2].sum())
    assert (row["accuracy"], row["accuracy_low"]) == (right / 24, wilson(right, 24).low)
    by_class = [row[f"found_{label}"] for label in LABELS]
    assert np.mean(by_class) == pytest.approx(row["accuracy"])  # classes of one size
    assert (table["p_accuracy_holm"] >= table["p_accuracy"]).all()
    assert (
        table.loc[("full", 0), "accuracy"] > table.loc[("full", 0), "null_accuracy_high"]
    )  # they end in their own words
    assert len(found.to_frame()) == 24 * 4
    for figure in (found.figure(), found.score_figure()):
        says(figure, MODEL.name)
    titles = [a.text for a in found.figure().layout.annotations]
    assert any(t.startswith("layer 2<br>") and t.count("%") == 2 for t in titles)
    assert separate_classes(MODEL, given, draws=100).to_summary().equals(found.to_summary())


def test_one_last_token_is_undefined_at_layer_0():
    found = separate_classes(MODEL, prompts(" w79"), draws=100, scaling="unit norm")
    assert found.undefined == (0,)
    table = found.to_summary()
    first = table[table["layer"] == 0]
    assert first[["silhouette", "accuracy", "p_silhouette", "p_accuracy_holm", "null_accuracy"]].isna().all(axis=None)
    assert table[table["layer"] > 0]["p_accuracy_holm"].notna().all()
    assert sum(a.text == "undefined" for a in found.figure().layout.annotations) == 1
    angles = compare_pca_directions(MODEL, prompts(" w79"), halvings=2, draws=20)
    assert angles.undefined == (0,)
    frame = angles.to_frame()
    assert frame[frame["layer"] == 0][["share", "angle", "p", "held_out"]].isna().all(axis=None)
    assert frame[frame["layer"] > 0][["share", "angle", "p", "held_out"]].notna().all(axis=None)


@pytest.mark.parametrize("scaling", ["centred", "raw", "unit norm"])
def test_with_all_components_the_derived_direction_is_the_difference_of_means(scaling: Any):
    given = prompts()
    found = compare_pca_directions(MODEL, given, ks=(1, 2, 24), scaling=scaling, halvings=1, draws=20)
    assert torch.allclose(found.derived[:, :, 2], found.difference, atol=1e-9)
    x = last_residuals(MODEL, given).double()
    x = x / x.norm(dim=-1, keepdim=True) if scaling == "unit norm" else x
    means = [x[given.labelled(label)].mean(0) for label in LABELS]
    assert torch.allclose(found.difference, torch.stack([means[0] - means[1], means[2] - means[1]]), atol=1e-9)
    # and with fewer its cosine is the root of the share, which grows with k
    for k in range(3):
        assert torch.allclose(cosine(found.derived[:, :, k], found.difference), found.share[..., k].sqrt(), atol=1e-9)
    assert (found.share.diff(dim=-1) >= -1e-12).all()
    assert torch.allclose(found.share[..., 2], torch.ones(()).double())


def test_two_components_hold_what_varies_most_and_not_the_smaller_concept():
    """The write-up's contrast of two concepts, from classes that differ in size of effect alone."""
    both = planted([(20, 0), (0, 0), (0, 2.5)], d=200, n=40)
    concepts = [("harmful", "harmless"), ("incapable", "harmless")]
    found = pca_directions.measured(both, concepts, (1, 2, 119), halvings=4, draws=200, seed=0)
    large, small = found["share"][:, 0]
    assert large[0] > 0.9
    assert small[0] < 0.2
    assert small[2] == pytest.approx(1.0)
    held = found["held_out"].mean(0)[:, 0]
    assert held[0, 0] > 0.9
    assert held[1, 2] < 0.6 < small[2]  # noise of a difference is not held by others' components


def test_the_null_is_what_arbitrary_labels_give():
    none = planted([(0, 0)] * 3, d=12, n=20)
    none.x[:, 0] *= np.linspace(1, 4, 12)
    found = pca_directions.measured(none, [("harmful", "harmless")], (1, 2, 5), halvings=1, draws=2000, seed=1)
    rng, x = np.random.default_rng(0), none.x[:, 0]
    axes = np.linalg.svd(x - x.mean(0))[2]
    shares = []
    for _ in range(2000):
        order = rng.permutation(60)
        d = x[order[:20]].mean(0) - x[order[20:40]].mean(0)
        shares.append([((axes[:k] @ d) ** 2).sum() / (d @ d) for k in (1, 2, 5)])
    null = found["null_share"][:, 0].numpy()
    assert null.mean(axis=0) == pytest.approx(np.mean(shares, axis=0), abs=0.03)
    assert np.quantile(null, 0.95, axis=0) == pytest.approx(np.quantile(shares, 0.95, axis=0), abs=0.05)


def test_the_figure_of_derived_directions(says: Callable[..., None]):
    found = compare_pca_directions(MODEL, prompts(), halvings=2, draws=50)
    says(found.figure(), MODEL.name)
    assert len(found.to_frame()) == 2 * 4 * 4
    assert (found.to_summary()["k"] == 2).all()
    frame = found.to_frame()
    one = frame[(frame["k"] == 2) & (frame["concept"] == "incapable − harmless")]
    assert one["p_holm"].to_numpy() == pytest.approx(holm(one["p"].to_numpy()))
    assert found.held_out.shape == (2, 2, 4, 4)


def test_what_cannot_be_asked():
    given = prompts()
    few = given.only(~given.labelled("incapable") | (torch.arange(24) < 19))
    for ask in (separate_classes, compare_pca_directions):
        with pytest.raises(CircuitError, match="incapable: 3"):
            ask(MODEL, few)
    with pytest.raises(CircuitError, match="no scaling called 'whitened'"):
        require_scaling("whitened")
    with pytest.raises(CircuitError, match="one class alone"):
        separate_classes(MODEL, given, labels=("harmful",))
    with pytest.raises(CircuitError, match="at least 80"):
        separate_classes(MODEL, given, draws=10)
    with pytest.raises(CircuitError, match="k from 1"):
        compare_pca_directions(MODEL, given, ks=(0, 2))
    with pytest.raises(CircuitError, match="two different classes"):
        compare_pca_directions(MODEL, given, concepts=[("harmful", "harmful")])
    one = InstructionSet(tuple(Instruction("w1 w2 w3", label) for label in LABELS for _ in range(5)), "one").tokenize(
        MODEL
    )
    with pytest.raises(UndefinedError, match="one activation"):
        separate_classes(MODEL, one, draws=100)
