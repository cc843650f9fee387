"""The chapter on components together: which are taken, what their labels rest on, and what is said of them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import planted_models
import pytest
from case_told import check, estimates, held, setting

from circuits.cases.gemma_refusal.chapters import together
from circuits.cases.gemma_refusal.setting import Missing, Setting
from circuits.frames import records
from circuits.measure.attention import classify_heads
from circuits.measure.blocks import patch_blocks
from circuits.measure.heads import patch_heads
from circuits.measure.interaction import interactions
from circuits.metrics import LogitDifference, LogOdds
from circuits.model import Model
from circuits.organisms import planted
from circuits.prompts import TokenPairs
from circuits.report import Section
from circuits.sites import Site, parse

Real = tuple[Setting, together.Found, Any, Any]


@pytest.fixture(scope="module")
def real(tmp_path_factory: Any) -> Real:
    s = setting(8, tmp_path_factory.mktemp("data"))
    heads, blocks = s.both(patch_heads), s.both(patch_blocks)
    classes = classify_heads(s.model, s.tokens, threshold=s.threshold)
    return s, together.measure(s, classes, heads, blocks), heads, blocks


def only(s: Setting, found: together.Found) -> tuple[Section, Any]:
    chapter = together.tell(s, found)
    check(chapter, "together")
    return chapter.sections[0], chapter.verdicts[0]


def test_the_components_are_the_largest_that_survive(real: Real):
    s, found, heads, blocks = real
    assert not isinstance(found.joint, Missing)
    taken = [parse(cell[0]) for cell in found.joint.cells[: found.joint.n_components]]
    assert 2 <= len(taken) <= together.MOST
    effects: dict[str, float] = {}
    for direction in ("noise", "denoise"):
        single, whole = heads[direction].to_summary(), blocks[direction].to_summary().query("pos == -1")
        rows = [(r["label"], r) for r in records(single)]
        rows += [(Site(r["kind"], int(r["layer"])).label, r) for r in records(whole)]
        for label, r in rows:
            if r["survives"]:
                effects[label] = max(effects.get(label, 0.0), abs(r["mean"]))
    with_heads = {parse(label).layer for label in effects if ".H" in label}
    for label in [label for label in effects if label.endswith("ATTN") and parse(label).layer in with_heads]:
        del effects[label]
    expected = sorted(effects, key=lambda label: -effects[label])[: together.MOST]
    assert {site.label for site in taken} == set(expected)
    assert found.left_out == max(0, len(effects) - together.MOST)
    assert not {(site.layer, "z") for site in taken if site.kind == "attn_out"} & {(t.layer, t.kind) for t in taken}
    assert (s.data / "together.csv").is_file()
    assert set(s.progress.passes) == {"together"}


def test_what_is_said_is_what_the_table_holds(real: Real):
    s, found, *_ = real
    assert not isinstance(found.joint, Missing)
    section, ruling = only(s, found)
    assert section.table is not None
    beyond = held(section.table.dropna(), "interaction", "interaction_low", "interaction_high")
    assert len(estimates(section.claim)) == 2
    assert set(estimates(section.claim)) <= beyond
    assert set(estimates(ruling.numbers)) <= beyond
    pairs = section.table[section.table["b"] != ""].drop_duplicates(["a", "b"])
    n = found.joint.n_components
    assert len(pairs) == n * (n - 1) // 2
    for label, count in Counter(pairs["label"]).items():
        assert f"{count} {label}" in section.claim
        assert f"{count} {label}" in ruling.numbers
    a, b, both = (
        float(x) for x in re.findall(r"\((-?[\d.]+) and (-?[\d.]+) alone, (-?[\d.]+) together\)", section.claim)[0]
    )
    top = float(estimates(section.claim)[0][0].replace("−", "-"))
    assert both - a - b == pytest.approx(top, abs=0.021)


def test_interactions_are_effects_less_those_of_each(real: Real):
    s, found, *_ = real
    table = only(s, found)[0].table
    assert table is not None
    alone = {(r["a"], r["direction"]): r["effect"] for r in records(table) if r["b"] == ""}
    pairs = [r for r in records(table) if r["b"] != ""]
    assert pairs
    for r in pairs:
        each = alone[r["a"], r["direction"]] + alone[r["b"], r["direction"]]
        assert r["interaction"] == pytest.approx(r["effect"] - each, abs=1e-6)
    place = {"undecided": 2, "independent": 3}
    order = [1 if r["b"] == "" else place.get(r["label"], 0) for r in records(table)]
    assert order == sorted(order), "what has a name comes first"


def test_every_label_says_what_it_rests_on(real: Real):
    s, found, *_ = real
    section, _ = only(s, found)
    assert section.table is not None
    notes = " ".join(section.notes)
    assert f"{found.joint.cost} cells were run" in notes  # type: ignore[union-attr]
    reasons = [note for note in section.notes if " (a) and " in note]
    if (section.table["label"] == "undecided").any():
        assert reasons
    for reason in reasons:
        assert not re.search(r"noise_|_after_|\bzero\b", reason), "names of columns are not for readers"


# --- planted relations ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known() -> tuple[Model, TokenPairs, planted.Truth]:
    return planted_models.model("gpt2"), planted_models.tokens("gpt2"), planted_models.truth("gpt2")


@pytest.mark.parametrize(
    ("roles", "ruling", "named"),
    [
        (("or first", "or second", "direct first"), "supported", ("or first", "or second")),
        (("mover", "backup", "decoy"), "supported", ("mover", "backup")),
        (("and first", "and second", "direct first"), "contradicted", ()),
        (("direct first", "direct second", "decoy"), "contradicted", ()),
    ],
)
def test_planted_relations_decide(
    known: Any, roles: tuple[str, ...], ruling: str, named: tuple[str, ...], tmp_path: Path
):
    model, tokens, truth = known
    sites = [parse(truth.roles[role]) for role in roles]
    joint = interactions(model, tokens, LogitDifference(model), components=sites, positions=("last",), null_draws=2)
    joint = replace(joint, provenance=replace(joint.provenance, clusters=()))  # four templates are too few to decide
    section, found = only(setting(4, tmp_path), together.Found(joint, {}, 0))
    assert found.verdict == ruling
    assert all(truth.roles[role] in found.numbers for role in named)
    assert section.table is not None
    first = section.table.iloc[0]
    if named:
        assert {first["a"], first["b"]} == {truth.roles[role] for role in named}
        assert first["label"] in ("OR", "backup")
        assert any(f"{first['label']}, {first['a']} (a)" in note for note in section.notes)


def test_of_a_planted_circuit_those_that_act_are_taken(known: Any, tmp_path: Path):
    """A backup does nothing alone and is not among them; either of two OR heads denoises everything they do."""
    model, tokens, truth = known
    s = replace(setting(4, tmp_path), model=model, tokens=tokens, metric=LogitDifference(model))
    classes = classify_heads(model, tokens)

    def free(results: Any) -> Any:
        return {d: replace(r, provenance=replace(r.provenance, clusters=())) for d, r in results.items()}

    heads, blocks = s.both(patch_heads), s.both(patch_blocks)
    clustered = together.measure(s, classes, heads, blocks)
    assert isinstance(clustered.joint, Missing), "twelve pairs of four templates: no p below 1/8"
    assert "p is at least 0.12" in clustered.joint.reason
    found = together.measure(s, classes, free(heads), free(blocks))
    assert not isinstance(found.joint, Missing)
    taken = {cell[0] for cell in found.joint.cells[: found.joint.n_components]}
    acting = {truth.roles[role] for role in ("mover", "direct second", "and first", "and second", "gates")}
    assert acting <= taken
    assert truth.roles["backup"] not in taken
    assert truth.roles["decoy"] not in taken
    joint = replace(found.joint, provenance=replace(found.joint.provenance, clusters=()))
    for r in records(only(s, replace(found, joint=joint))[0].table.query("b != ''")):  # type: ignore[union-attr]
        if truth.roles["gates"] not in (r["a"], r["b"]):
            assert r["label"] == truth.relation(r["a"], r["b"]), (r["a"], r["b"])


# --- where numbers do not exist -------------------------------------------------------------------------------------------


def test_four_pairs_cannot_survive(tmp_path: Path):
    s = setting(4, tmp_path)
    classes = classify_heads(s.model, s.tokens, threshold=0.9999)
    found = together.measure(s, classes, s.both(patch_heads), s.both(patch_blocks))
    section, ruling = only(s, found)
    assert "so few independent pairs" in section.claim
    assert ruling.verdict == "undecided"
    assert not s.progress.passes, "nothing was run"


def test_one_component_is_none_together(real: Real):
    """All effects but one head's made zero: one survives, and its block holds it."""
    _, _, heads, blocks = real
    quiet: dict[str, Any] = {}
    for name, results in (("heads", heads), ("blocks", blocks)):
        flat = {}
        for direction, r in results.items():
            value = r.base.reshape(-1, *[1] * (r.value.ndim - 1)).expand_as(r.value).clone()
            if name == "heads":
                value[:, 2, 6] = r.value[:, 2, 6]
            else:
                value[:, 0, 2, -1] = r.value[:, 0, 2, -1]
            flat[direction] = replace(r, value=value)
        quiet[name] = flat
    found = together._acting(quiet["heads"], quiet["blocks"])
    assert isinstance(found, Missing)
    assert found.reason.startswith("only L2.H6 has an effect")
    none = {d: replace(r, value=r.base[:, None, None].expand_as(r.value).clone()) for d, r in heads.items()}
    silent = {d: replace(r, value=r.base.reshape(-1, 1, 1, 1).expand_as(r.value).clone()) for d, r in blocks.items()}
    assert isinstance(together._acting(none, silent), Missing)


def test_a_metric_that_is_not_linear(real: Real):
    s, found, *_ = real
    assert not isinstance(found.joint, Missing)
    sites = [parse(cell[0]) for cell in found.joint.cells[:3]]
    odds = interactions(s.model, s.tokens, LogOdds(s.model, "I"), components=sites, positions=("last",), null_draws=2)
    section, _ = only(s, replace(found, joint=odds))
    assert section.table is not None
    assert np.isfinite(section.table[["effect", "low", "high"]].to_numpy(float)).all()
