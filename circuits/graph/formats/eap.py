"""EAP-IG's and MIB's JSON: scores of edges on the full computation graph, loaded by EAP-IG's `Graph.from_json`.

    {"cfg": {"n_layers": 18, "n_heads": 8, "parallel_attn_mlp": false, "d_model": 2048},
     "nodes": {"input": {"in_graph": true}, "a8.h7": {…}, "m9": {…}, "logits": {…}},
     "edges": {"a8.h7->a9.h6<k>": {"score": 0.2, "in_graph": true}, "a9.h6->m9": {…}, "m9->logits": {…}}}

EAP-IG reads the score (in single precision) and whether a component is in the circuit, of nodes and edges, and nothing
else; what it does not read stands beside it under `circuits`, so that `load_graph` returns the graph as it was. Its
heads are query heads: under grouped-query attention an edge into a shared key–value head stands once per query head of
its group (`receivers`), each with the score of the whole.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from circuits.errors import CircuitError, OutputError
from circuits.graph.assemble import Graph, Parts, assemble
from circuits.graph.formats import node_link
from circuits.graph.formats.form import NODE_LINK, Form
from circuits.graph.formats.kept import KEPT, unchanged
from circuits.graph.formats.plain_json import dump, field, load, need
from circuits.graph.scalars import called, joined, shorten

_CFG: Final[dict[str, type]] = {"n_layers": int, "n_heads": int, "parallel_attn_mlp": bool, "d_model": int}
_EDGES: Final = ("q", "k", "v", "mlp", "final")
_NODE: Final = re.compile(r"(?:(input)|(logits)|m(\d{1,9})|a(\d{1,9})\.h(\d{1,9}))", re.ASCII)
_EDGE: Final = re.compile(r"(?P<source>[^<>]+)->(?P<target>[^<>]+?)(?:<(?P<kind>[qkv])>)?", re.ASCII)


def write(graph: Graph, _stem: str = "") -> str:
    """The graph as EAP-IG reads it, and the whole of it beside that.

    EAP-IG's own part cannot carry classes, intervals, p-values or positions. Refused by name, since it would read
    another circuit: nodes other than heads, MLPs, `embed` and `metric` (a post-norm's own change too), or at a
    position; edges other than q, k, v, mlp and final; edges without `effect`, its score; a graph without n_layers, n_heads,
    d_model and parallel_attn_mlp.
    """
    return dump(_theirs(graph) | {KEPT: node_link.data(graph)})


def _theirs(graph: Graph) -> dict[str, Any]:
    for name, kind in _CFG.items():
        if type(graph.graph.get(name)) is not kind:
            raise OutputError(
                f"graph: EAP-IG's format needs the model's {name}; give it to component_graph's attributes"
            )
    names: dict[str, str] = {}
    for name, values in graph.nodes(data=True):
        spelled = _spelled(values)
        if spelled is None:
            raise OutputError(f"node {called(name)}: EAP-IG's format {_lacking(str(values['kind']))}")
        if spelled in names.values():
            raise OutputError(f"node {called(name)}: EAP-IG's format calls two nodes {spelled}; leave one out")
        names[name] = spelled
    nodes: dict[str, Any] = {}
    for name, values in graph.nodes(data=True):
        nodes[names[name]] = {"in_graph": values.get("in_circuit", True)}
        if "effect" in values and names[name] != "logits":  # EAP-IG has no place for a score of the logits
            nodes[names[name]]["score"] = values["effect"]
    edges: dict[str, Any] = {}
    for source, target, values in graph.edges(data=True):
        kind = str(values["kind"])
        if kind not in _EDGES or "effect" not in values:
            lacking = "its edges are q, k, v, mlp and final" if kind not in _EDGES else "each edge needs its `effect`"
            raise OutputError(
                f"{joined(source, target)} ({kind}): in EAP-IG's format {lacking}; leave it out, or choose another format"
            )
        into = f"<{kind}>" if kind in {"q", "k", "v"} else ""
        said = {"score": values["effect"], "in_graph": values.get("in_circuit", True)}
        edges[f"{names[source]}->{names[target]}{into}"] = said
    return {"cfg": {name: graph.graph[name] for name in _CFG}, "nodes": nodes, "edges": edges}


def _lacking(kind: str) -> str:
    if kind == "norm":
        return (
            "takes what heads add to be all that attention adds, and has no post-norm's own change; leave it and its edges out "
            "(the other scores stay as they are, but no longer add up to the metric), or choose another format"
        )
    return (
        "has heads, MLPs, the embedding and the logits, each once and at all positions; leave it out, or choose another "
        "format"
    )


def _spelled(values: dict[str, Any]) -> str | None:
    kind = values["kind"]
    if "position" in values:
        return None
    if kind == "head":
        return f"a{values['layer']}.h{values['head']}"
    return f"m{values['layer']}" if kind == "mlp" else {"embed": "input", "metric": "logits"}.get(kind)


def read(text: str) -> Parts:
    """The parts of a file of ours, or of EAP-IG's: `score` becomes `effect` (NaN is none), `in_graph` `in_circuit`.

    Raises CircuitError for scores of single neurons, which no attribute holds, and where a file of ours was changed.
    """
    found = load(text)
    kept = found.pop(KEPT, None)
    if kept is None:
        return _read_theirs(found)
    parts = node_link.parts(need(kept, dict, f"{KEPT!r}"), f"{KEPT!r}")
    unchanged(_theirs(assemble(parts)), found)
    return parts


def _read_theirs(found: dict[str, Any]) -> Parts:
    known = {"cfg", "nodes", "edges"}
    if found.keys() - known:
        raise CircuitError(f"it has {shorten(min(found.keys() - known))}, which EAP-IG's format does not")
    cfg = field(found, "cfg", dict, "the file")
    nodes: dict[str, dict[str, Any]] = {}
    for name, said in field(found, "nodes", dict, "the file").items():
        identity, values = _identity(name, f"node {shorten(name)}")
        # early versions of EAP-IG write only whether the node is in the circuit
        nodes[identity] = values | _scores(
            {"in_graph": said} if isinstance(said, bool) else said, f"node {called(name)}"
        )
    edges: list[tuple[str, str, dict[str, Any]]] = []
    for name, said in field(found, "edges", dict, "the file").items():
        where = f"edge {shorten(name)}"
        match = _EDGE.fullmatch(name)
        if match is None:
            raise CircuitError(f"{where}: no edge is written so; write a8.h7->a9.h6<q>, a8.h7->m9 or m9->logits")
        ends = [_identity(match[end], where) for end in ("source", "target")]
        # EAP-IG has every node of the model; those that it does not list are not in the circuit
        for identity, values in ends:
            nodes.setdefault(identity, values | {"in_circuit": False})
        into = {"mlp": "mlp", "metric": "final"}.get(ends[1][1]["kind"])
        kind = match["kind"] or into
        if kind is None or (match["kind"] and into):
            raise CircuitError(f"{where}: <q>, <k> or <v> stands on edges into heads, and on no others")
        scores = _scores(said, where)
        if "score" not in need(said, dict, where):
            raise CircuitError(f"{where} has no score")
        edges.append((ends[0][0], ends[1][0], {"kind": kind} | scores))
    return Parts(cfg, list(nodes.items()), edges)


def _identity(name: str, where: str) -> tuple[str, dict[str, Any]]:
    match = _NODE.fullmatch(name)
    if match is None:
        raise CircuitError(f"{where}: {shorten(name)} is none of input, a8.h7, m9 and logits")
    if match[1] or match[2]:
        kind = "embed" if match[1] else "metric"
        return kind, {"kind": kind}
    values: dict[str, Any] = {"kind": "mlp", "layer": int(match[3])} if match[3] else {
        "kind": "head", "layer": int(match[4]), "head": int(match[5])
    }  # fmt: skip
    if _spelled(values) != name:  # a08.h7
        raise CircuitError(f"{where}: {shorten(name)} is written {_spelled(values)}")
    label = f"L{values['layer']}.MLP" if match[3] else f"L{values['layer']}.H{values['head']}"
    return label, values


def _scores(said: Any, where: str) -> dict[str, Any]:
    values = dict(need(said, dict, where))
    if values.keys() & {"neurons", "neurons_scores"}:
        raise CircuitError(f"{where} has scores of single neurons, which a component graph does not hold")
    taken: dict[str, Any] = {"in_circuit": field(values, "in_graph", bool, where)}
    score = values.get("score")
    if "score" in values and not (isinstance(score, float) and math.isnan(score)):
        taken["effect"] = score
    clash = sorted(values.keys() & {"effect", "in_circuit", "kind", "layer", "head"})
    if clash:
        raise CircuitError(f"{where} has {clash[0]!r}, which EAP-IG's format does not")
    return taken | {key: value for key, value in values.items() if key not in {"in_graph", "score"}}


FORM = Form("eap", ".eap.json", write, read, NODE_LINK)
