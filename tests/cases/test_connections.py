"""The chapter on connections and its graph: what is said is what the tables hold, planted edges are found, models differ."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import planted_models
import pytest
import small_models
from case_told import check, estimates, held, setting

from circuits.case.wording import number
from circuits.cases.gemma_refusal import graph
from circuits.cases.gemma_refusal.chapters import connections, connections_told
from circuits.cases.gemma_refusal.setting import Chapter, Missing, Setting
from circuits.engine.edges import Edge
from circuits.errors import OutputError
from circuits.frames import records
from circuits.graph import export, load_graph
from circuits.measure.attention import classify_heads
from circuits.measure.blocks import patch_blocks
from circuits.measure.circuit import Circuit
from circuits.measure.heads import patch_heads
from circuits.metrics import BoundMetric, LogitDifference, RefusalMetric
from circuits.organisms import planted
from circuits.prompts import TokenPairs

Real = tuple[Setting, connections.Found, Chapter]


@pytest.fixture(scope="module", autouse=True)
def fewer() -> Iterator[None]:
    """Fewer edges of the rest than a report has, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "SAMPLE", 30)
        patch.setattr(connections, "SIZES", (20, 100, 200, connections.TOP))
        patch.setattr(connections_told, "SAMPLE", 30)
        yield


@pytest.fixture(scope="module")
def real(tmp_path_factory: Any) -> Real:
    s = setting(8, tmp_path_factory.mktemp("data"))
    found = measured(s)
    return s, found, connections_told.tell(found)


def measured(s: Setting) -> connections.Found:
    found = connections.measure(s)
    assert not isinstance(found, Missing), found.reason
    return found


def sound(chapter: Chapter) -> None:
    """Both sections obey what every chapter has to; only the second has a verdict."""
    edges, rest = chapter.sections
    check(Chapter([rest], chapter.verdicts), "connections")
    check(Chapter([edges], [replace(chapter.verdicts[0], figure="edges")]), "edges")


def written(s: Setting, found: Any, out: Path) -> tuple[Chapter, Any, dict[str, Any]]:
    """The chapter on the graph, the graph as a file gives it back, and what the page holds."""
    sweeps = s.both(patch_blocks), s.both(patch_heads)
    chapter = graph.tell(s, *sweeps, classify_heads(s.model, s.tokens), Missing("not asked for"), found, out)
    page = (out / "circuit.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return chapter, load_graph(out / "circuit.json", model_hash=s.model.hash), json.loads(data)


@pytest.fixture(scope="module")
def drawn(real: Real, tmp_path_factory: Any) -> Any:
    s, found, _ = real
    return written(s, found, tmp_path_factory.mktemp("drawn"))


def measurements(found: Any) -> dict[tuple[str, str, Any], float]:
    """(sender, receiver as it was edited) -> effect, of a graph's edges."""
    values: dict[Any, float] = {}
    for source, target, has in found.edges(data=True):
        head = found.nodes[target]
        into = f"L{head['layer']}.{has['kind']}[{has.get('kv_head', head.get('head'))}]" if "head" in head else target
        assert values.setdefault((source, into), has["effect"]) == has["effect"]
    return values


def test_what_is_said_is_what_the_tables_hold(real: Real):
    _, found, chapter = real
    sound(chapter)
    edges, rest = chapter.sections
    assert len(estimates(edges.claim)) == 1
    assert set(estimates(edges.claim)) <= held(edges.table, "mean", "low", "high", say=number)
    top = edges.table.iloc[0]
    assert f"the largest is {top['sender']} → {top['receiver']}, " in edges.claim
    assert abs(top["mean"]) == edges.table["mean"].abs().max()
    assert f"{int(edges.table['survives'].sum())} of them survive" in edges.claim
    assert f"Of {len(found.screen.names)} edges the {connections.TOP} " in edges.claim
    assert len(estimates(rest.claim)) == 3
    assert set(estimates(rest.claim)) <= held(rest.table, "faithfulness", "low", "high", say=number)
    assert set(estimates(chapter.verdicts[0].numbers)[:2]) <= held(
        rest.table[rest.table["pairs"] == "held out"], "faithfulness", "low", "high"
    )


def test_estimates_are_shares_of_the_gap_in_the_order_of_the_scores(real: Real):
    _, found, chapter = real
    gap = (found.screen.source - found.screen.base).double().mean().item()
    score = dict(zip(found.screen.names, found.screen.score.double().mean(0).tolist(), strict=True))
    for r in records(chapter.sections[0].table):
        assert r["estimate"] == pytest.approx(score[f"{r['sender']} → {r['receiver']}"] / gap)


def test_the_circuit_is_the_smallest_that_is_surely_faithful(real: Real):
    _, found, chapter = real
    assert not isinstance(found.circuit, Missing)
    table = chapter.sections[1].table.query("pairs == 'all' and part == 'circuit'")
    enough = table[table["low"] >= connections.FAITHFUL]
    assert len(found.circuit) == enough["n_edges"].min()
    assert all(len(found.circuits[r["circuit"]]) == r["n_edges"] for r in records(table))
    effect = found.paths.to_summary()["mean"].abs().to_numpy()
    largest = {Edge(*found.paths.edges[i]) for i in np.argsort(-effect, kind="stable")[:100]}
    assert found.circuits["100 by effect"].edges | found.circuits["100 by effect"].dangling == largest


def test_the_pairs_a_circuit_is_run_on_have_no_say_in_its_edges(real: Real):
    """Whichever edges all pairs put first: held out, candidates are those that the other templates rank first."""
    s, found, _ = real
    paths = found.paths
    ends = [
        replace(paths, value=paths.value[:, i], edges=paths.edges[i], kinds=paths.kinds[i])
        for i in (slice(40), slice(-40, None))
    ]
    first, last = (connections._held_out(s, some, found.screen) for some in ends)
    assert not isinstance(first, Missing)
    assert not isinstance(last, Missing)
    assert first.n_edges == last.n_edges
    assert np.allclose(first.value, last.value, atol=1e-4)
    assert np.ptp(first.value.numpy(), axis=1).max() > 0.1


def test_the_row_that_is_told_is_that_of_the_circuit(real: Real):
    """Two circuits may be described in the same words; the numbers are those of the one that was chosen."""
    _, found, _ = real
    assert not isinstance(found.circuit, Missing)
    name = next(name for name, circuit in found.circuits.items() if circuit is found.circuit)
    other = next(one for one in found.circuits if one != name and one.split()[0] == name.split()[0])
    alike = {other: replace(found.circuit), name: found.circuit} | {
        key: value for key, value in found.circuits.items() if key not in (name, other)
    }
    assert repr(alike[other]) == repr(found.circuit)
    claim = connections_told.tell(replace(found, circuits=alike)).sections[1].claim
    assert f"(the {name})" in claim


def test_the_graphs_and_the_pages_edges_are_those_of_the_tables(real: Real, drawn: Any):
    _, found, chapter = real
    told, read, page = drawn
    table = chapter.sections[0].table
    effects = {(r["sender"], r["receiver"]): r["mean"] for r in records(table)}
    kept = {(e.sender, e.receiver): effects[e.sender, e.receiver] for e in found.connected.edges}
    assert measurements(read) == kept
    assert f"{len(kept)} measured connections" in told.sections[0].claim
    assert nx.is_directed_acyclic_graph(read)
    # the page counts a measurement once, and its curve is the table's
    assert (page["measured"], page["total"]) == (len(kept), len(kept))
    assert len(page["edges"]) == read.number_of_edges() > len(kept)
    rows = chapter.sections[1].table.query("pairs == 'all' and part == 'circuit'")
    rows = {r["circuit"]: r for r in records(rows)}
    sizes = np.sort(table["mean"].abs())[::-1]
    curve: list[tuple[int, float, float, float]] = []
    for name, r in rows.items():
        if name.endswith("by effect"):
            threshold = sizes[int(name.split()[0]) - 1]
            n = sum(abs(effect) >= threshold for effect in kept.values())
            curve.append((n, r["faithfulness"], r["low"], r["high"]))
    assert sorted(tuple(p[k] for k in ("edges", "faithfulness", "low", "high")) for p in page["curve"]) == sorted(curve)


def test_the_chosen_circuit_is_marked_where_heads_write(real: Real, drawn: Any):
    found, read = real[1], drawn[1]
    assert not isinstance(found.circuit, Missing)
    senders = {edge.sender for edge in found.circuit.edges}
    assert {name for name, chosen in read.nodes(data="in_circuit") if chosen} == senders | {"metric"}
    marked = nx.MultiDiGraph([edge for edge in read.edges(keys=True) if read.edges[edge]["in_circuit"]])
    assert set(marked) == senders | {"metric"}  # no edge of it ends where nothing goes on
    assert set(measurements(read.edge_subgraph(marked.edges(keys=True)))) == {
        (edge.sender, edge.receiver) for edge in found.circuit.edges
    }


@pytest.mark.parametrize("kind", planted.KINDS)
def test_planted_edges_are_found_and_stand_in_the_file(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "TOP", 160)
    truth, model = planted_models.truth(kind), planted_models.model(kind)
    s = replace(setting(2, tmp_path), model=model, tokens=planted_models.tokens(kind), metric=LogitDifference(model))
    found = measured(s)
    sound(connections_told.tell(found))
    _, read, _ = written(s, found, tmp_path)
    clean, corrupt = (np.array(side) for side in (truth.clean, truth.corrupt))
    group = model.shape.n_heads // model.shape.n_kv_heads
    large = 0
    for edge in truth.edges:
        effect = float(np.mean((np.array(edge.resample) - clean) / (corrupt - clean)))
        if edge.input in ("k", "v") and group > 1:  # heads that share it lose it together
            continue
        target = "metric" if edge.receiver == "logits" else edge.receiver
        if abs(effect) > 0.02:
            large += 1
            assert read.edges[edge.sender, target, edge.input]["effect"] == pytest.approx(effect, abs=0.01)
    assert large >= (8 if group == 1 else 5)
    decoy = truth.roles["decoy"]
    assert not [e for e in read.edges if e[0] == decoy and abs(read.edges[e]["effect"]) > 0.01]


def own(architecture: str, out: Path, pairs: TokenPairs | None = None) -> Setting:
    model = small_models.model(architecture)
    return replace(setting(2, out), model=model, tokens=pairs or small_models.uneven(), metric=LogitDifference(model))


@cache
def of_own(architecture: str) -> tuple[Setting, connections.Found]:
    """Measured once; results are written to a folder that lives as long as the process."""
    s = own(architecture, Path(_FOLDER.name))
    return s, measured(s)


_FOLDER = tempfile.TemporaryDirectory(prefix="connections-")


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_models_with_post_norms_and_parallel_blocks(architecture: str, tmp_path: Path):
    s, found = of_own(architecture)
    told = connections_told.tell(found)
    sound(told)
    assert "no test can tell them from zero" in told.sections[0].claim  # five pairs
    _, read, _ = written(s, found, tmp_path)
    norms = {name for name, kind in read.nodes(data="kind") if kind == "norm"}
    assert norms == {e.sender for e in found.connected.edges if e.sender.endswith("post-norm")}
    assert bool(norms) == (architecture == "gemma2")
    assert read.graph["parallel_attn_mlp"] == (architecture == "gpt_neox")
    rest = nx.MultiDiGraph(read)
    rest.remove_nodes_from([name for name, kind in read.nodes(data="kind") if kind == "attn"])
    if norms:
        with pytest.raises(OutputError, match=r"node L\d.post-norm: EAP-IG's format takes what heads add"):
            export(rest, tmp_path / "c.eap.json")
    rest.remove_nodes_from(norms)
    assert nx.utils.graphs_equal(rest, load_graph(export(rest, tmp_path / "c.eap.json")))
    for suffix in ("graphml", "gexf", "cyjs"):
        assert nx.utils.graphs_equal(read, load_graph(tmp_path / f"circuit.{suffix}"))


def test_keys_that_a_post_norm_alone_hears_of_stand_on_their_heads(tmp_path: Path):
    s, found = of_own("gemma2")
    edges = [Edge("embed", "L1.k[1]"), Edge("L1.post-norm", "metric")]
    assert set(edges) <= {Edge(*ends) for ends in found.paths.edges}
    one = Circuit.of(s.model, edges)
    assert one.edges == set(edges)
    few = replace(found, circuits={"2 by effect": one}, circuit=one, faithful=Missing("not run"))
    read = written(s, few, tmp_path)[1]
    size = s.model.shape.n_heads // s.model.shape.n_kv_heads
    group = [f"L1.H{head}" for head in range(size, 2 * size)]
    assert set(measurements(read)) == {(e.sender, e.receiver) for e in edges}
    assert [target for _, target, kind in read.edges if kind == "k"] == [h for h in group if h in read]
    assert all(values["in_circuit"] for *_, values in read.edges(data=True))


# --- where numbers do not exist -------------------------------------------------------------------------------------------


def test_a_metric_without_gradient_has_no_connections(tmp_path: Path):
    s = setting(4, tmp_path)

    class Counting(BoundMetric):
        def __call__(self, logits: Any) -> Any:
            return (logits > logits.mean(-1, keepdim=True)).float().mean(-1)

    class Share(RefusalMetric):
        def bind(self, pairs: TokenPairs) -> BoundMetric:
            del pairs
            return Counting()

    found = connections.measure(replace(s, metric=Share(s.model, "I")))
    assert isinstance(found, Missing)
    chapter = connections_told.tell(found)
    assert [section.claim for section in chapter.sections] == [f"Not measured: {found.reason}."] * 2
    assert chapter.verdicts[0].verdict == "undecided"
    told, read, page = written(s, found, tmp_path)
    assert {kind for *_, kind in read.edges(keys=True)} == {"writes"}
    assert "connections were not measured" in told.sections[0].claim
    assert page["curve"] == []
    assert not [name for name, chosen in read.nodes(data="in_circuit") if chosen is not None]


def test_two_pairs_of_one_template_decide_nothing(tmp_path: Path):
    """No p, no interval and no other template: every number is shown, none is ruled on."""
    s = own("gpt2", tmp_path, small_models.uneven().select([0, 1]))
    found = measured(s)
    alone = replace(found.paths, provenance=replace(found.paths.provenance, clusters=(3, 3)))
    lone = connections._held_out(s, alone, found.screen)
    assert isinstance(lone, Missing)
    assert "one template leaves none" in lone.reason
    chapter = connections_told.tell(replace(found, held_out=lone))
    sound(chapter)
    assert chapter.verdicts[0].verdict == "undecided"
    _, read, page = written(s, found, tmp_path)
    assert {point["low"] for point in page["curve"]} == {None}
    assert len(page["curve"]) == sum(name.endswith("by effect") for name in found.circuits)
    assert not [1 for *_, chosen in read.edges(data="in_circuit") if chosen is not None]


def test_a_graph_without_any_way_through(tmp_path: Path):
    s, found = of_own("gemma2")
    empty = {name: replace(circuit, edges=frozenset()) for name, circuit in found.circuits.items()}
    told, read, page = written(s, replace(found, circuits=empty), tmp_path)
    assert read.number_of_edges() == 0
    assert page["curve"] == []
    assert "and 0 measured connections" in told.sections[0].claim
