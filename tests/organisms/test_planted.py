"""Every number that is said of a planted model is what plain forward passes of the checkpoint give."""

from __future__ import annotations

import json
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted_models
import pytest
import torch
from organisms.planted_hooks import Planted
from torch import Tensor

from circuits.errors import ModelError, SiteError
from circuits.metrics import LogitDifference
from circuits.model import Model
from circuits.organisms import planted
from circuits.organisms.planted import KINDS, circuit, prompts, spaces

HEADS = {role: name for role, name in circuit.NAMES.items() if role in circuit.HEADS}


@pytest.fixture(scope="module", params=KINDS)
def written(request: Any) -> tuple[Any, planted.Truth, Path]:
    return request.param, *planted_models.written(request.param)


@pytest.fixture(scope="module")
def truth(written: Any) -> planted.Truth:
    return written[1]


@pytest.fixture(scope="module")
def plain(written: Any) -> Planted:
    return Planted(written[0], written[2])


@pytest.fixture(scope="module")
def model(written: Any) -> Model:
    return planted_models.model(written[0])


def test_it_loads_with_all_its_proofs(model: Model, truth: planted.Truth):
    assert model.facts["smallest effect of zeroing a site"] > 3e-7
    assert model.shape.n_kv_heads == {"gpt2": 6, "gemma2": 3}[truth.kind]
    assert model.softcap == {"gpt2": None, "gemma2": 30.0}[truth.kind]
    tokens = planted.pairs().tokenize(model)
    assert set(tokens.lengths.tolist()) == {7, 8, 9, 10}
    assert (tokens.subject == tokens.n_pos - 4).all()
    metric = LogitDifference(model).bind(tokens)
    for ids, expected in ((tokens.clean, truth.clean), (tokens.corrupt, truth.corrupt)):
        logits = model.logits(ids, tokens.mask, keep=1)
        assert metric(logits.transpose(0, 1))[0].tolist() == pytest.approx(expected, abs=truth.tolerance)


def test_runs(plain: Planted, truth: planted.Truth):
    assert plain.metric("clean") == pytest.approx(truth.clean, abs=truth.tolerance)
    assert plain.metric("corrupt") == pytest.approx(truth.corrupt, abs=truth.tolerance)
    assert min(truth.clean) - max(truth.corrupt) > 4


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_every_node_under_ablation(plain: Planted, truth: planted.Truth, how: str):
    for node in truth.nodes:
        corrupt = plain.given(node.name, "corrupt")
        if how == "resample":
            values = corrupt
        elif how == "zero":
            values = [torch.zeros_like(t) for t in corrupt]
        else:
            values = _means([*plain.given(node.name, "clean"), *corrupt], corrupt)
        assert plain.metric("clean", {node.name: values}) == pytest.approx(getattr(node, how), abs=truth.tolerance), (
            f"{node.role} {node.name}"
        )


def _means(all_of: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """Column by column, counted from the last token, over the prompts that reach it."""
    by_column = {
        c: torch.cat([t[:, -c] for t in all_of if t.shape[1] >= c]).mean(0)
        for c in range(1, max(t.shape[1] for t in all_of) + 1)
    }
    return [torch.stack([by_column[c] for c in range(t.shape[1], 0, -1)]).expand_as(t) for t in like]


def test_the_ways_to_ablate_disagree_where_they_are_said_to(truth: planted.Truth):
    """Else a method that takes one for the other would pass."""
    mover = truth.node("L2.H0")
    assert np.abs(np.subtract(mover.zero, mover.mean)).min() > 0.1
    enricher = truth.node("L0.MLP")
    assert np.abs(np.subtract(enricher.zero, enricher.mean)).min() > 0.5


def test_every_edge(plain: Planted, truth: planted.Truth):
    for edge in truth.edges:
        measured = plain.along(edge.sender, edge.receiver, edge.input)
        assert measured == pytest.approx(edge.resample, abs=truth.tolerance), edge


def test_what_is_no_edge_does_nothing(plain: Planted, truth: planted.Truth):
    """All head → head and head → final edges that are not named."""
    known = {(e.sender, e.receiver, e.input) for e in truth.edges}
    others = [
        (a, b, through)
        for a, b in combinations(HEADS.values(), 2)
        if a[1] < b[1]
        for through in "qkv"
        if (a, b, through) not in known
    ] + [(a, "logits", "final") for a in HEADS.values() if (a, "logits", "final") not in known]
    assert len(others) > 60
    for i, edge in enumerate(others[::3]):
        group = i % len(plain.groups)
        unchanged = [truth.clean[pair] for pair in plain.groups[group]]
        assert plain.along_in(group, *edge).tolist() == pytest.approx(unchanged, abs=truth.tolerance), edge


def test_structure_is_where_heads_attend(plain: Planted, truth: planted.Truth):
    """Without the mark (of a subject, of the position after it) in what a key reads, the head brings something else."""
    base = spaces.basis(plain.kind, torch.Generator().manual_seed(0)).float()
    keys = [e for e in truth.edges if e.input == "k"]
    assert {e.carries for e in keys} == {"structure"}
    for edge in keys:
        feature = "mark" if edge.sender != "embed" else "subject"
        b = base[circuit.FEATURES.index(feature)]
        entering = plain.run(0, "clean", keep=[("norm", int(edge.receiver[1]))])[1]["norm", int(edge.receiver[1])]
        without = plain.through_input(0, edge.receiver, "k", -(entering @ b)[..., None] * b)
        if edge.receiver == circuit.NAMES["backup"]:  # it attends elsewhere anyway while the mover is there
            continue
        clean = plain.given(edge.receiver, "clean")[0]
        assert (without - clean)[:, -1].norm(dim=-1).min() > 0.5, edge


def test_the_decoy_knows_and_does_nothing(plain: Planted, truth: planted.Truth):
    name = circuit.NAMES["decoy"]
    z = torch.cat([t[:, -1] for side in ("clean", "corrupt") for t in plain.given(name, side)]).double()
    x = [max(r, 0.0) for side in prompts.raw() for r in _by_group(plain, side)]
    axis = z.std(0).argmax()
    assert np.corrcoef(z[:, axis].numpy(), x)[0, 1] > 0.9999
    assert z[:, axis].std() > 0.3
    node = truth.node(name)
    assert node.zero == node.mean == node.resample == truth.clean


def _by_group(plain: Planted, values: list[float]) -> list[float]:
    return [values[i] for group in plain.groups for i in group]


def test_relations(plain: Planted, truth: planted.Truth):
    """What each relation means, of all pairs of heads with a role, in averages over the pairs of prompts."""
    given = {side: {h: plain.given(h, side) for h in HEADS.values()} for side in ("clean", "corrupt")}
    base = {side: np.mean(plain.metric(side)) for side in given}
    gap = base["clean"] - base["corrupt"]

    @cache
    def lost(*heads: str) -> float:
        return (base["clean"] - np.mean(plain.metric("clean", {h: given["corrupt"][h] for h in heads}))) / gap

    @cache
    def found(*heads: str) -> float:
        return (np.mean(plain.metric("corrupt", {h: given["clean"][h] for h in heads})) - base["corrupt"]) / gap

    seen = set()
    for a, b in combinations(HEADS.values(), 2):
        relation = truth.relation(a, b)
        seen.add(relation)
        noise = lost(a), lost(b), lost(a, b)
        denoise = found(a), found(b), found(a, b)
        match relation:
            case "AND":
                holds = np.ptp(noise) < 0.01 and max(denoise[:2]) < 0.01 and denoise[2] > 0.1
            case "OR":
                holds = np.ptp(denoise) < 0.01 and max(noise[:2]) < 0.01 and noise[2] > 0.1
            case "backup":
                holds = abs(noise[1]) < 0.01 and noise[2] - noise[0] > 0.1 and denoise[0] > 0.1 and denoise[1] < 0.01
            case "negative":
                holds = noise[1] < -0.05 and abs(noise[2] - noise[0]) < 0.01
            case "chain":
                holds = np.ptp(noise) < 0.01 and noise[2] > 0.05 and abs(denoise[1] - denoise[2]) < 0.01
            case "independent":
                holds = abs(noise[2] - noise[0] - noise[1]) < 0.005 and abs(denoise[2] - denoise[0] - denoise[1]) < 0.01
        assert holds, (relation, a, b, noise, denoise)
    assert seen == {"AND", "OR", "backup", "negative", "chain", "independent"}


def test_the_soft_cap_counts(truth: planted.Truth):
    """The numbers of the two forms differ by it alone, and by more than the tolerance."""
    other = planted.truth("gpt2" if truth.kind == "gemma2" else "gemma2")
    assert np.abs(np.subtract(truth.clean, other.clean)).min() > truth.tolerance
    assert [n.role for n in truth.nodes] == [n.role for n in other.nodes]


def test_written_files(written: Any, tmp_path: Path):
    kind, truth, folder = written
    said = json.loads((folder / "truth.json").read_text())
    assert [n["name"] for n in said["nodes"]] == [n.name for n in truth.nodes]
    assert {"a": "L1.H1", "b": "L2.H1", "relation": "AND"} in said["relations"]
    assert pd.read_csv(folder / "pairs.csv")["clean"].tolist() == [p.clean for p in planted.pairs()]
    planted.write(kind, tmp_path)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "truth.json", "pairs.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_what_is_not_there():
    truth = planted.truth("gpt2")
    with pytest.raises(SiteError, match="L9.H0"):
        truth.node("L9.H0")
    with pytest.raises(SiteError, match="two different heads"):
        truth.relation("L1.H1", "L3.MLP")
    with pytest.raises(SiteError, match="two different heads"):
        truth.relation("L1.H1", "L1.H1")
    with pytest.raises(ModelError, match="no planted model of kind 'opt'"):
        planted.write("opt", "nowhere")
    assert truth.relation("L3.H1", "L2.H0") == truth.relation("L2.H0", "L3.H1") == "backup"
    assert truth.roles["mover"] == "L2.H0"
