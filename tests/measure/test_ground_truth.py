"""What theory gives: exact methods separate what acts from what does not, rules name planted roles; the page says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import ground_truth, truth_roles, truth_rows, truth_scores, truth_screens, truth_sets
from bench.truth_scores import Planted, Scored
from scipy import stats

from circuits.engine.edges import METRIC, Edge, all_edges
from circuits.engine.edges.cut import Cuts
from circuits.measure.screens import Screen
from circuits.organisms import planted
from circuits.result import Provenance

EXACT = [
    *(f"exact, {how}" for how in ("noise", "denoise", "zero ablation", "mean ablation")),
    "direct logit attribution",
]


@pytest.fixture(scope="module", params=planted.KINDS)
def of(request: Any, tmp_path_factory: Any) -> Planted:
    return ground_truth.known(request.param, tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def nodes(of: Planted) -> dict[str, Scored]:
    return {each.method: each for each in truth_scores.nodes(of)}


@pytest.fixture(scope="module")
def edges(of: Planted) -> dict[str, Scored]:
    return {each.method: each for each in truth_scores.edges(of, ablations=(), methods=())}


def _is_exact(scored: Scored, tolerance: float) -> None:
    """Every number within the tolerance: then whatever acts by more than two of them stands above all that does not."""
    place = {name: i for i, name in enumerate(scored.names)}
    for name, effect in scored.effect.items():
        np.testing.assert_allclose(scored.value[:, place[name]], effect, atol=tolerance, rtol=0, err_msg=name)
    sizes = [np.abs(effect).mean() for effect in scored.effect.values()]
    assert min(size for size in sizes if size > 0) > 2 * tolerance
    assert min(abs(size - scored.limit) for size in sizes) > tolerance
    found = truth_rows.judged(scored)
    assert found.area is not None
    assert found.area.estimate == 1
    assert not found.wrong
    assert not found.missed


# --- truth ------------------------------------------------------------------------------------------------------------


def test_the_sets_are_what_the_planted_truth_says(of: Planted):
    """Of single nodes and edges the numbers of `Truth` itself, which plain forward passes are held to."""
    truth = of.truth
    for how, field in (("noise", "resample"), ("zero", "zero"), ("mean", "mean")):
        for name, effect in truth_sets.node_effects(truth, how).items():  # type: ignore[arg-type]
            expected = np.subtract(getattr(truth.node(name), field), truth.clean)
            np.testing.assert_allclose(effect, expected, atol=1e-12)
    by_label = truth_sets.edge_effects(truth, of.model, "noise")
    assert list(by_label) == [edge.label for edge in all_edges(of.model)]
    for edge in truth.edges:
        label = Edge(edge.sender, truth_sets.receiver(of.model, edge)).label
        if of.model.shape.n_kv_heads == of.model.shape.n_heads or edge.input not in ("k", "v"):
            np.testing.assert_allclose(by_label[label], np.subtract(edge.resample, truth.clean), atol=1e-12)
    acting = {label for label, effect in by_label.items() if effect.any()}
    information, structure = truth_sets.edge_information(truth, of.model), truth_sets.structure_alone(truth, of.model)
    assert acting < information
    assert not information & structure
    assert truth_sets.edge_mechanism(truth, of.model) <= information | structure
    roles = {truth.node(name).role for name in truth_sets.node_mechanism(truth)}
    assert len(roles) == 12
    assert not roles & {"idle", "decoy"}


def test_denoising_and_direct_effects_are_what_the_gains_say(of: Planted):
    truth, roles = of.truth, of.truth.roles
    x, y = (np.maximum(side, 0) for side in planted.prompts.raw())
    direct = truth_sets.direct_effects(truth)
    gains = planted.circuit
    np.testing.assert_allclose(direct[roles["mover"]], gains.MOVED * (x - y), atol=1e-12)
    np.testing.assert_allclose(direct[roles["negative"]], -gains.NEGATIVE * (x - y), atol=1e-12)
    np.testing.assert_allclose(direct[roles["backup"]], -gains.BACKUP * y, atol=1e-12)  # silent in the clean run
    assert {n for n, effect in direct.items() if effect.any()} == {
        roles[r] for r in ("mover", "negative", "backup", "direct first", "direct second", "gates")
    }  # fmt: skip
    denoised = truth_sets.node_effects(truth, "denoise")
    np.testing.assert_allclose(denoised[roles["enricher"]], np.subtract(truth.clean, truth.corrupt), atol=1e-12)
    for role in ("and first", "and second", "decoy"):
        assert not denoised[roles[role]].any()
    for role in ("or first", "or second"):
        assert not truth_sets.node_effects(truth, "noise")[roles[role]].any()
        assert denoised[roles[role]].mean() > 1


# --- exact methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EXACT)
def test_exact_methods_of_nodes_have_area_one(of: Planted, nodes: dict[str, Scored], method: str):
    assert nodes[method].exact
    _is_exact(nodes[method], of.truth.tolerance)


def test_exact_methods_of_queries_keys_and_values_have_area_one(of: Planted):
    found = {each.method: each for each in truth_scores.inputs(of, directions=("noise",))}
    _is_exact(found["exact, noise"], of.truth.tolerance)
    query = of.truth.roles["backup"].replace("H", "q[") + "]"
    # saturated: the tangent has nothing, and what it has nothing of is the backup's query alone
    assert truth_rows.judged(found["atp, noise"]).missed == (query,)
    assert query not in truth_rows.judged(found["atp-qk, noise"]).missed


@pytest.mark.parametrize("how", ["noise", "denoise"])
def test_exact_methods_of_edges_have_area_one(of: Planted, edges: dict[str, Scored], how: str):
    _is_exact(edges[f"exact, {how}"], of.truth.tolerance)


def test_structure_is_seen_by_no_comparison_and_by_zero_ablation(of: Planted, edges: dict[str, Scored]):
    structure = truth_sets.structure_alone(of.truth, of.model)
    for how in ("noise", "denoise"):
        size = edges[f"exact, {how}"].size
        assert max(size[label] for label in structure) < of.truth.tolerance
    roles = of.truth.roles
    mark = next(e for e in of.truth.edges if e.sender == roles["previous token"] and e.carries == "structure")
    edge = Edge(mark.sender, truth_sets.receiver(of.model, mark))
    cuts = Cuts(of.model, of.tokens, of.metric, ablation="zero")
    lost = (cuts.run([set(all_edges(of.model)) - {edge}]) - cuts.clean).abs().mean().item()
    assert lost > 10 * of.truth.tolerance


# --- roles ------------------------------------------------------------------------------------------------------------


def test_rules_on_exact_measurements_name_the_planted_roles(of: Planted, nodes: Any, edges: Any):
    rows = truth_roles.rows(of, nodes, edges, "exact")
    assert {row[0] for row in rows} == {*truth_roles.ROLES, *truth_roles.WIRED}
    assert all(row[2:] == ("yes", "none", "none") for row in rows), rows
    known = (truth_sets.node_effects(of.truth, how) for how in ("noise", "denoise"))
    gap, looks = truth_sets.gap(of.truth), {n: e[0] for n, e in truth_sets.looks_at_subject(of.truth).items()}
    shares = ({n: s * e.mean() / gap for n, e in effects.items()} for s, effects in zip((-1, 1), known, strict=True))
    named = truth_roles.by_effects(*shares, looks)
    assert named == {rule: {of.truth.roles[r] for r in roles} for rule, roles in truth_roles.ROLES.items()}


def test_rules_name_no_one_where_nothing_acts(of: Planted):
    nothing = dict.fromkeys((n.name for n in of.truth.nodes), 0.0)
    looks = nothing | {of.truth.roles["decoy"]: 1.0, "L0.H3": 1.0}
    named = truth_roles.by_effects(nothing, nothing, looks)
    assert named.pop("looks at the subject, without effect (decoy)") == {of.truth.roles["decoy"], "L0.H3"}
    assert not any(named.values())
    assert not any(truth_roles.by_edges({Edge("L0.H1", METRIC).label: 0.0}, nothing, 1).values())


# --- rows -------------------------------------------------------------------------------------------------------------


def _made_up(value: Any, effect: Any) -> Scored:
    names = tuple(f"L0.H{i}" for i in range(len(effect)))
    effects = {name: np.full(2, float(e)) for name, e in zip(names, effect, strict=True)}
    return Scored("made up", names, np.array([value, value], dtype=float), effects, 1.0, 10.0)


def test_a_method_is_judged_by_counting():
    found = truth_rows.judged(_made_up([2, -3, 0, 0, 1.5, 0], [2, -2, 3, 0, 0.5, 0]))
    assert found.area is not None
    # acting 2, 3, 0, 1.5; not acting 0, 0: one of four ties with both
    assert found.area.estimate == pytest.approx(0.875)
    assert found.tied == pytest.approx(0.25)
    assert found.wrong == ("L0.H4",)
    assert found.missed == ("L0.H2",)
    assert truth_rows.judged(_made_up([1, 2], [1, 1])).area is None
    middle, low, high = truth_rows.null([f"L0.H{i}" for i in range(60)], {f"L0.H{i}" for i in range(20)})
    assert middle == pytest.approx(0.5, abs=0.02)
    # the spread of Mann and Whitney's U without ties
    assert (high - low) / 3.92 == pytest.approx(np.sqrt(61 / (12 * 20 * 40)), rel=0.1)


# --- screens ----------------------------------------------------------------------------------------------------------

N, PAIRS, LARGE = 300, 12, 30


def _compared(score: Any, exact: Any) -> truth_screens.Compared:
    origin = Provenance(
        model="made up",
        model_hash="",
        dtype="float32",
        device="cpu",
        pairs="",
        metric="",
        clusters=(0, 0, 1, 1, *range(2, 10)),
    )
    names = tuple(map(str, range(N)))
    screen = Screen(
        provenance=origin, score=torch.tensor(score, dtype=torch.float32), base=torch.zeros(PAIRS),
        source=torch.full((PAIRS,), 10.0), names=names, senders=(), receivers=(), method="atp", direction="noise",
        positions="all", steps=1, forward_passes=3, backward_passes=1,
    )  # fmt: skip
    return truth_screens.Compared(screen, np.asarray(exact), 50.0, 2.0, 1.0, draws=200)


def test_a_screen_is_compared_by_counting():
    rng = np.random.default_rng(0)
    size = np.where(np.arange(N) < LARGE, 1.0, 0.05) * rng.uniform(1, 2, size=(PAIRS, N))
    score = size.copy()
    score[:, :6] = -0.001  # six of the large ones are missed, with the wrong sign
    found = _compared(score, size)
    assert found.recall(0.05, LARGE).estimate == pytest.approx(0.8)
    assert found.recall(0.05, N).estimate == 1
    assert found.missed(LARGE) == (
        "012345"[int(size[:, :6].mean(0).argmax())],
        pytest.approx(size[:, :6].mean(0).max() / 10),
    )
    signs = found.signs(0.05)
    assert signs is not None
    assert signs.estimate == pytest.approx(0.8)
    expected = stats.spearmanr(np.abs(score).mean(0), size.mean(0)).statistic
    assert found.correlation.estimate == pytest.approx(expected)
    assert found.correlation.low <= expected <= found.correlation.high
    assert found.own_passes == 5
    assert np.isnan(found.recall(0.5, 10).estimate)
    # pairs of one template are drawn together
    assert (found.weights[:, 0] == found.weights[:, 1]).all()
    assert (found.weights[:, 0] != found.weights[:, 2]).any()


def test_intervals_of_verify_hold_the_true_recall():
    """Twenty large effects that the screen missed, and a top that has ten: 95 % of samples ought to hold one third."""
    rng = np.random.default_rng(1)
    size = np.where(np.arange(N) < LARGE, 1.0, 0.05) * rng.uniform(1, 2, size=(PAIRS, N))
    score = rng.uniform(0, 1, size=(PAIRS, N))
    score[:, :10] += 5
    score[:, 10:LARGE] *= 0.01
    found = _compared(score, size)
    assert found.recall(0.05, 10).estimate == pytest.approx(1 / 3)
    held, bounded = found.coverage(0.05, 10, seeds=60)
    assert held >= 54
    assert bounded >= 54
    one = found.verified(0.05, 10, 0)
    assert one.n_top == 10
    assert len(one.names) == 160


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_what_would_be_written(of: Planted, nodes: dict[str, Scored], root: Path):
    """Every row of nodes; of exact methods all that theory gives, of the others the names alone."""
    page = (root / "docs" / "ground-truth.md").read_text()
    assert "not Gemma" in page
    _, _, rest = page.partition(f"## {of.model.title}\n")
    assert rest, "the page has no such model: run make ground-truth"
    written = rest.partition("### Nodes")[2].partition("### Queries")[0].strip().splitlines()
    table = [line for line in written if line.startswith("|")]
    now = ground_truth.node_table(of, nodes).splitlines()
    assert table[0] == now[0]
    for old, new in zip(table, now, strict=True):
        cells, fresh = ([cell.strip() for cell in line.split(" | ")] for line in (old, new))
        assert cells[0] == fresh[0]
        if fresh[0].removeprefix("| ") in EXACT:  # but for the area of the mechanism, where rounding has a part
            assert [*cells[:5], cells[-1]] == [*fresh[:5], fresh[-1]]
    for heading in ("### Queries, keys and values", "### Edges", "### Roles"):
        assert heading in rest
