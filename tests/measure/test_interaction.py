"""Planted relations are found and no others; numbers are the oracle's; what adds up has no interaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import oracle
import planted_models
import pytest
import small_models
import torch
from oracle import PairOracle

from circuits.errors import SiteError, UndefinedError
from circuits.measure.interaction import RULES, Interactions, interactions, rules
from circuits.metrics import LogitDifference, RefusalMetric
from circuits.model import Model
from circuits.organisms import planted
from circuits.prompts import TokenPairs
from circuits.sites import Site, head, parse
from circuits.stats import Interval, bootstrap_mean, max_t

TOKENS = small_models.uneven()
MODEL = small_models.model("gemma2")
METRIC = RefusalMetric(MODEL, "w60")
THREE = [head(1, 0), head(2, 3), Site("mlp_out", 2)]


@pytest.fixture(scope="module", params=planted.KINDS)
def known(request: Any) -> tuple[Model, planted.Truth]:
    return planted_models.model(request.param), planted_models.truth(request.param)


@pytest.fixture(scope="module")
def found(known: Any) -> Interactions:
    model, truth = known
    heads = [parse(name) for role, name in truth.roles.items() if role not in ("enricher", "gates")]
    tokens = planted.pairs().tokenize(model)
    return _apart(interactions(model, tokens, LogitDifference(model), components=heads, null_draws=10))


def _apart(found: Interactions) -> Interactions:
    """Every pair as a draw of its own: a planted circuit reads the subject alone, whatever request it stands in."""
    assert len(set(found.clusters or ())) == 4
    return replace(found, provenance=replace(found.provenance, clusters=()))


def test_planted_relations_are_recovered_and_no_others(known: Any, found: Interactions):
    _, truth = known
    table = found.to_summary()
    assert len(table) == 11 * 10 // 2
    wrong = [
        (row.a, row.b, row.label, row.reason)
        for row in table.itertuples()
        if row.label != truth.relation(str(row.a), str(row.b))
    ]
    assert not wrong
    named = table[table["label"] != "independent"]
    # a comes first as the truth says it, also where it was given second
    ordered = named[~named["label"].isin(["AND", "OR"])]
    assert {(r.a, r.b): r.label for r in ordered.itertuples()} == {
        pair: label for pair, label in truth.relations.items() if label not in ("AND", "OR")
    }
    assert Counter(named["label"]) == {"AND": 1, "OR": 1, "backup": 2, "negative": 2, "chain": 1}
    assert named["noise_survives"].all()
    assert not table.loc[table["label"] == "independent", ["noise_survives", "denoise_survives"]].any(axis=None)
    assert (table["n"] == 12).all()
    for row in named.itertuples():
        assert all(condition in row.reason for condition in RULES[row.label]), row.reason


def test_effects_of_one_component(known: Any, found: Interactions):
    _, truth = known
    table = found.to_components().set_index(["component", "direction"])
    gap = np.subtract(truth.clean, truth.corrupt)
    for name in truth.roles.values():
        if name.endswith("MLP"):
            continue
        expected = np.mean(np.subtract(truth.clean, truth.node(name).resample) / gap)
        assert table.loc[(name, "noise"), "mean"] == pytest.approx(expected, abs=1e-3)
    effects = {role: table.loc[(name, "noise"), "effect"] for role, name in truth.roles.items() if "MLP" not in name}
    assert effects["negative"] == "negative"
    assert {effects[r] for r in ("decoy", "backup", "or first", "or second")} == {"none"}
    assert {effects[r] for r in ("mover", "previous token", "and first", "and second", "direct first")} == {"positive"}


def test_order_of_the_components_does_not_matter(known: Any, found: Interactions):
    model, truth = known
    tokens = planted.pairs().tokenize(model)
    some = ["backup", "mover", "and second", "and first", "negative"]
    chosen = [parse(truth.roles[r]) for r in some]
    again = _apart(interactions(model, tokens, LogitDifference(model), components=chosen, null_draws=0)).to_summary()
    before = found.to_summary().set_index(["a", "b"])
    for row in again[~again["label"].isin(["AND", "independent"])].itertuples():
        assert row.label == before.loc[(row.a, row.b), "label"]
        assert row.noise_b_after_a == pytest.approx(before.loc[(row.a, row.b), "noise_b_after_a"], abs=1e-5)
    assert Counter(again["label"]) == {"AND": 1, "backup": 1, "negative": 1, "independent": 7}


def test_what_adds_up_has_no_interaction(known: Any, found: Interactions):
    """Two heads that write to the unembedding past a norm of fixed scale: exactly in GPT-2, else up to the soft cap."""
    model, truth = known
    a, b = truth.roles["direct first"], truth.roles["direct second"]
    frame = found.to_frame().set_index(["direction", "a", "b", "pair"]).sort_index()
    clean, corrupt = found.clean.double().numpy(), found.corrupt.double().numpy()
    for direction, base in (("noise", clean), ("denoise", corrupt)):
        one, other, both = (
            frame.loc[(direction, *names), "value"].to_numpy() - base for names in ((a, ""), (b, ""), (a, b))
        )
        assert np.abs(one).min() > 0.3
        gap = np.abs(both - one - other).max()
        assert gap < (1e-4 if model.softcap is None else 0.01)
        if model.softcap is not None and direction == "noise":
            assert gap > 1e-4  # the cap is there, and bends


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_values_equal_the_oracles(direction: str):
    result = interactions(MODEL, TOKENS, METRIC, components=THREE, positions=("subject", "last"), null_draws=2)
    assert result.n_components == 6
    frame = result.to_frame()
    frame = frame[(frame["direction"] == direction) & (frame["pair"].isin([1, 3]))]
    token = MODEL.tokenizer.get_vocab()["w60"]
    oracles = {pair: PairOracle(small_models.raw("gemma2"), TOKENS, pair, direction) for pair in (1, 3)}
    for row in frame[::3].itertuples():
        one = oracles[row.pair]
        edits = []
        for label in filter(None, (row.a, row.b)):
            name, _, where = label.partition("@")
            site = parse(name)
            edits.append(one.from_source(site.kind, site.layer, where, site.index))
        assert row.value == pytest.approx(oracle.against_mean(one.logits(edits), token), abs=1e-5)
        base, source = (result.clean, result.corrupt) if direction == "noise" else (result.corrupt, result.clean)
        expected = (row.value - base[row.pair].item()) / (source[row.pair] - base[row.pair]).item()
        assert row.fraction == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_terms_intervals_and_p_values_from_the_frame():
    result = interactions(MODEL, TOKENS, METRIC, components=THREE, null_draws=5)
    wide = result.to_frame().pivot_table(index="pair", columns=["direction", "a", "b"], values="fraction")
    table = result.to_summary()
    columns = []
    for a, b in combinations([s.label for s in THREE], 2):
        for direction in ("noise", "denoise"):
            one, other, both = (wide[direction, *names].to_numpy() for names in ((a, ""), (b, ""), (a, b)))
            columns.append(both - one - other)
    expected = max_t(np.stack(columns, 1)).reshape(3, 2)
    for i, row in enumerate(table.to_dict("records")):
        for d, direction in enumerate(("noise", "denoise")):
            interaction = columns[2 * i + d]
            interval = bootstrap_mean(interaction)
            assert row[f"{direction}_interaction"] == pytest.approx(interaction.mean())
            assert row[f"{direction}_interaction_low"] == pytest.approx(interval.low)
            assert row[f"{direction}_interaction_high"] == pytest.approx(interval.high)
            assert row[f"{direction}_p"] == pytest.approx(expected[i, d])
            after = row[f"{direction}_both"] - row[f"{direction}_a"]
            assert row[f"{direction}_b_after_a"] == pytest.approx(after)


def test_random_pairs_are_others_of_the_same_kinds():
    result = interactions(MODEL, TOKENS, METRIC, components=THREE, null_draws=4)
    first_null = result.n_singles + result.n_pairs_measured
    null = result.cells[first_null:]
    kinds = Counter(result.kinds[first_null:])
    # one MLP was asked for, so no two MLPs are drawn; of four layers three have another
    assert kinds == {"z@all + z@all": 4, "mlp_out@all + z@all": 4}
    assert not {label for cell in null for label in cell} & {site.label for site in THREE}
    assert len(set(map(frozenset, null))) == len(null)
    assert result.cost == 2 * (result.n_singles + 3 + 8) == 2 * len(result.cells)
    assert interactions(MODEL, TOKENS, METRIC, components=THREE, null_draws=4).cells == result.cells
    # the share is counted from what the frame says of these pairs
    wide = result.to_frame().pivot_table(index="pair", columns=["direction", "a", "b"], values="fraction").mean()
    means = [
        wide["noise", a, b] - wide["noise", a, ""] - wide["noise", b, ""]
        for (a, b), kind in zip(null, result.kinds[first_null:], strict=True)
        if kind == "z@all + z@all"
    ]
    row = result.to_summary().set_index(["a", "b"]).loc[(THREE[0].label, THREE[1].label)]
    beyond = sum(abs(m) >= abs(row["noise_interaction"]) for m in means)
    assert row["noise_null"] == pytest.approx((1 + beyond) / 5)
    assert row["null_pairs"] == 4


def test_without_random_pairs_there_is_no_null():
    result = interactions(MODEL, TOKENS, METRIC, components=THREE, null_draws=0)
    assert result.cost == 2 * (3 + 3)
    table = result.to_summary()
    assert table["noise_null"].isna().all()
    assert (table["null_pairs"] == 0).all()


def test_pairs_without_a_gap_are_left_out_and_counted():
    same = TokenPairs(**{**vars(TOKENS), "corrupt": TOKENS.corrupt.clone()})
    same.corrupt[3] = same.clean[3]
    result = interactions(MODEL, same, METRIC, components=THREE, null_draws=0)
    assert result.to_frame().query("pair == 3")["fraction"].isna().all()
    assert (result.to_summary()["n"] == 4).all()
    assert (result.to_components()["n"] == 4).all()
    same.corrupt[1:] = same.clean[1:]
    with pytest.raises(UndefinedError, match="1 of 5 pairs have a gap"):
        interactions(MODEL, same, METRIC, components=THREE, null_draws=0).to_summary()


def test_figures(says: Callable[..., None], found: Interactions, known: Any):
    says(found.figure(), known[0].name)
    bars = found.labels_figure()
    says(bars, known[0].name)
    assert any("backup L2.H0 L3.H1" in str(bars.layout.xaxis.ticktext[i]) for i in range(7))
    assert len(bars.layout.xaxis.ticktext) == 7


# --- rules ----------------------------------------------------------------------------------------------------------


def _numbers(
    noise: tuple[float, float, float], denoise: tuple[float, float, float], half: float = 0.01
) -> dict[str, Interval]:
    columns = [float(term[0]) for way in (noise, denoise) for term in rules.terms(*(np.array([x]) for x in way))]
    return {
        name: Interval(x, x - half, x + half, 0.95, 9, "said") for name, x in zip(rules.COLUMNS, columns, strict=True)
    }


CASES = {
    "AND": ((0.4, 0.4, 0.4), (0.0, 0.0, 0.4)),
    "OR": ((0.0, 0.0, 0.4), (0.4, 0.4, 0.4)),
    "chain": ((0.4, 0.4, 0.4), (0.4, 0.4, 0.4)),
    # b does all that a did: noising sees neither, as with OR, and only denoising tells them apart
    "backup": ((0.0, 0.0, 0.4), (0.4, 0.0, 0.4)),
    "negative": ((0.2, -0.2, 0.2), (0.4, -0.2, 0.2)),
    "independent": ((0.4, -0.2, 0.2), (0.4, -0.2, 0.2)),
    "undecided": ((0.3, 0.3, 0.4), (0.3, 0.3, 0.4)),
}


def _verdict(numbers: dict[str, Interval], *, p: float = 0.001, later: int = 1) -> rules.Verdict:
    return rules.name(numbers, p=p, later=later, threshold=0.05, alpha=0.05)


@pytest.mark.parametrize("label", CASES)
def test_each_rule(label: str):
    numbers = _numbers(*CASES[label])
    assert _verdict(numbers).label == label
    assert not _verdict(numbers).swapped
    turned = _verdict(rules.swapped(numbers), later=-1)
    assert turned.label == label
    assert turned.swapped == (label in rules.ORDERED)
    wide = _verdict(_numbers(*CASES[label], half=0.5))
    assert wide.label == "undecided"
    assert wide.reason.startswith("nearest is")  # and not that they interact, which is not known either
    if label not in ("independent", "undecided"):
        unlikely = _verdict(numbers, p=0.2)
        assert unlikely.label == "undecided"
        assert "p of the interaction 0.2" in unlikely.reason


@pytest.mark.parametrize("label", sorted(rules.ORDERED))
def test_what_reads_nothing_of_the_other_is_no_backup(label: str):
    """Side by side, or in the wrong order."""
    for later in (0, -1):
        found = _verdict(_numbers(*CASES[label]), later=later)
        # a chain is symmetric in these numbers, so that the other order is one too
        assert found.label == ("chain" if label == "chain" and later == -1 else "undecided")


def test_what_interacts_in_another_way_is_said_to():
    found = _verdict(_numbers(*CASES["undecided"]))
    assert found.reason.startswith("they interact; nearest is ")
    assert "independent" not in found.reason


def test_an_interval_without_limits_decides_nothing():
    nan = float("nan")
    one = {name: Interval(0.0, nan, nan, 0.95, 1, "one") for name in rules.COLUMNS}
    assert _verdict(one).label == "undecided"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ([head(1, 0)], "two components; 1 given"),
        ([head(1, 0), head(1, 0)], "overlap"),
        ([head(1, 0), Site("attn_out", 1)], "L1.H0 and L1.ATTN overlap"),
        ([Site("mlp_out", 1), Site("post", 1)], "overlap"),
        ([head(1, 0), head(1, 9)], "heads 0 to 3"),
        ([head(1, 0), head(7, 0)], "layers 0 to 3"),
    ],
)
def test_components_that_are_none(components: list[Site], message: str):
    with pytest.raises(SiteError, match=message):
        interactions(MODEL, TOKENS, METRIC, components=components)


def test_overlapping_positions():
    with pytest.raises(SiteError, match="L1.H0@all and L1.H0@last overlap"):
        interactions(MODEL, TOKENS, METRIC, components=[head(1, 0)], positions=("all", "last"))
    apart = interactions(MODEL, TOKENS, METRIC, components=[head(1, 0)], positions=("subject", "last"), null_draws=0)
    assert apart.cells[-1] == ("L1.H0@subject", "L1.H0@last")


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.5}, {"alpha": 0.0}])
def test_thresholds_that_are_no_shares(wrong: dict[str, float]):
    with pytest.raises(UndefinedError, match="between 0 and 1"):
        interactions(MODEL, TOKENS, METRIC, components=THREE, **wrong)


def test_it_is_saved(tmp_path: Any):
    result = interactions(MODEL, TOKENS, METRIC, components=THREE, null_draws=2)
    path = result.save(tmp_path)
    from safetensors.torch import load_file

    assert torch.equal(load_file(path.with_suffix(".safetensors"))["noised"], result.noised)
    assert "L1.H0" in path.with_suffix(".json").read_text()
