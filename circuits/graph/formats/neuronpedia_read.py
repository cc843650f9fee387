"""An attribution graph that circuit-tracer or Neuronpedia made, as parts of a component graph.

    node_id 14_2268_9 (cross layer transcoder)   L14.F2268@9, read where the MLP writes
    0_14_9 (mlp reconstruction error)            L14.ERR@9
    E_651_3 (embedding)                          embed@3
    27_318_9 (logit)                             logit318@9, of kind metric

Their names and fields stay as attributes (`node_id`, `feature_id`, `jsNodeId`, `influence`, …), their metadata as
attributes of the graph, lists and objects of it as JSON text. A link into a logit is of kind `final`, another one
`feeds`, unless it says its kind; its weight is the direct effect, in units of the receiver's activation.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from circuits.errors import CircuitError
from circuits.graph.assemble import Parts
from circuits.graph.formats.plain_json import field, need
from circuits.graph.names import read
from circuits.graph.scalars import scalars, shorten

TYPES: Final = {
    "embedding": "embed", "residual stream": "residual", "attention head": "head", "attention block": "attn",
    "post-norm": "norm", "mlp": "mlp", "sae feature": "feature", "cross layer transcoder": "feature",
    "mlp reconstruction error": "error", "logit": "metric",
}  # fmt: skip
"""`feature_type` -> our kind."""
_ID: Final = re.compile(r"(\d{1,9})_(\d{1,9})_(\d{1,9})", re.ASCII)
_OURS: Final = frozenset(("attention head", "attention block", "post-norm", "mlp", "residual stream", "sae feature"))
_TAKEN: Final = frozenset(("clerp", "feature", "layer"))


def parts(found: dict[str, Any]) -> Parts:
    """The parts of the file's object. Raises CircuitError naming the node or link that cannot be read."""
    metadata = field(found, "metadata", dict, "the file")
    own = scalars({name: _folded(value) for name, value in metadata.items()}, "metadata")
    if found.get("qParams"):
        own["qParams"] = _folded(found["qParams"])
    more = sorted(found.keys() - {"metadata", "qParams", "nodes", "links"})
    if more:
        raise CircuitError(f"it has {shorten(more[0])}, which Neuronpedia's format does not")
    ids: dict[str, str] = {}
    kinds: dict[str, str] = {}
    nodes: list[tuple[str, dict[str, Any]]] = []
    for number, node in enumerate(field(found, "nodes", list, "the file")):
        name, values = _node(need(node, dict, f"node {number}"), f"node {number}")
        identity = str(values.get("node_id", name))
        if identity in ids:
            raise CircuitError(f"repeated nodes: {shorten(identity)}; a node_id stands once")
        ids[identity], kinds[identity] = name, str(values["kind"])
        nodes.append((name, values))
    edges: list[tuple[str, str, dict[str, Any]]] = []
    for number, link in enumerate(field(found, "links", list, "the file")):
        where = f"link {number}"
        values = dict(need(link, dict, where))
        ends = [field(values, end, str, where) for end in ("source", "target")]
        for end in ends:
            if end not in ids:
                raise CircuitError(f"{where}: {shorten(end)} is none of the {len(ids)} nodes")
        if type(values.get("weight")) not in {int, float}:
            raise CircuitError(f"{where}: its weight is {shorten(values.get('weight'))}, not a number")
        more = {name: value for name, value in values.items() if name not in {"source", "target", "weight"}}
        kind = more.pop("kind", "final" if kinds[ends[1]] == "metric" else "feeds")
        edges.append((ids[ends[0]], ids[ends[1]], {"kind": kind, "effect": values["weight"]} | scalars(more, where)))
    return Parts(own, nodes, edges)


def _node(node: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    identity = field(node, "node_id", str, where)
    where = f"node {shorten(identity)}"
    said = field(node, "feature_type", str, where)
    if said not in TYPES:
        raise CircuitError(f"{where}: feature_type {shorten(said)} is none of {', '.join(TYPES)}")
    kind, column = TYPES[said], field(node, "ctx_idx", int, where)
    values: dict[str, Any] = {"kind": kind}
    if kind != "embed":  # the logits' layer is a row of the viewer, not a block of the model
        values["viewer_layer" if kind == "metric" else "layer"] = _layer(node.get("layer"), where)
    if node.get("feature") is not None:
        values["feature_id"] = field(node, "feature", int, where)
    for name in {"kind", "label", "position", "site", "feature_id", "viewer_layer"} & node.keys():
        raise CircuitError(f"{where} has {name!r}, which Neuronpedia's format does not")
    # a missing field is null or empty there
    values |= scalars({name: value for name, value in node.items() if name not in _TAKEN}, where)
    if node.get("clerp"):
        values["label"] = field(node, "clerp", str, where)
    if said in _OURS or read(identity).get("kind") == kind:
        return identity, values
    values["position"] = str(column)
    match = _ID.fullmatch(identity)
    if kind == "feature":
        values["site"] = "mlp_out"
        if match is None or int(match[1]) != values["layer"] or int(match[3]) != column:
            return identity, values
        return f"L{values['layer']}.F{int(match[2])}@{column}", values | {"feature": int(match[2])}
    token = values.get("feature_id", identity)
    return {"embed": "embed", "error": f"L{values.get('layer')}.ERR", "metric": f"logit{token}"}[
        kind
    ] + f"@{column}", values


def _layer(layer: Any, where: str) -> int:
    if type(layer) is int:
        return layer
    if isinstance(layer, str) and re.fullmatch(r"\d{1,9}", layer, re.ASCII):
        return int(layer)
    raise CircuitError(f"{where}: its layer is {shorten(layer)}, not a number")


def _folded(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
