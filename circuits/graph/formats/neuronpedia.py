"""Neuronpedia's and circuit-tracer's JSON: an attribution graph for their viewers.

    {"metadata": {"slug", "scan", "prompt", "prompt_tokens", "transcoder_list"}, "qParams": {…},
     "nodes": [{"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"}],
     "links": [{"source", "target", "weight"}]}

The viewers have one column per token. A component graph is of many prompts: its columns are the named positions, the
embedding before them and what has no position after them, unless the graph has `prompt_tokens`. Each node has a
`feature` of its own within its layer and column, since the viewers drop nodes that share one; it is negative where the
node is no feature, so that no dashboard of some feature is shown for a head. What they do not read stands beside it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from circuits.errors import CircuitError, OutputError
from circuits.graph.assemble import Graph, Parts, assemble
from circuits.graph.formats import neuronpedia_read, node_link
from circuits.graph.formats.form import NODE_LINK, Form
from circuits.graph.formats.kept import KEPT, unchanged
from circuits.graph.formats.plain_json import dump, load, need
from circuits.graph.scalars import Scalar, called, joined, shorten

_TYPES: Final = {kind: name for name, kind in neuronpedia_read.TYPES.items()} | {"feature": "sae feature"}
_PARTS: Final = ("node_threshold", "feature_details", "info", "generation_settings", "pruning_settings")
"""Of a file's metadata, what is written again where a graph that was read has it."""
_MORE: Final[dict[str, tuple[type, ...]]] = {
    "influence": (int, float), "activation": (int, float), "token_prob": (int, float), "is_target_logit": (bool,),
    "run_idx": (int,), "reverse_ctx_idx": (int,),
}  # fmt: skip


def write(graph: Graph, stem: str = "circuit") -> str:
    """The graph as the viewers read it, and the whole of it beside that. `stem` is its slug, the name of its file.

    The viewers' part cannot carry classes, intervals and p-values; it has one weight per link, the edge's `effect`, and
    the link's `kind`, which they pass over: parallel links lie on each other. The metric is nameless there, for a logit
    with a name needs a probability. Neuronpedia's site opens no graph whose blocks are all block 0. Refused by name: edges
    without `effect`, a graph without `model`.
    """
    return dump(_theirs(graph, stem) | {KEPT: node_link.data(graph)})


def _theirs(graph: Graph, slug: str) -> dict[str, Any]:
    own = graph.graph
    if not own.get("scan") and not own.get("model"):
        raise OutputError("graph: Neuronpedia's format needs the model's title; give the graph its attribute `model`")
    tokens, columns = _columns(graph)
    metadata: dict[str, Any] = {
        "slug": slug, "scan": str(own.get("scan") or own["model"]), "prompt_tokens": tokens,
        "transcoder_list": _texts(own.get("transcoder_list", "[]"), "transcoder_list"),
        "prompt": str(own.get("prompt", own.get("pairs", ""))),
    }  # fmt: skip
    if "schema_version" in own or "scan" not in own:  # a file that names none numbers its features otherwise
        metadata["schema_version"] = own.get("schema_version", 1)
    metadata |= {name: _unfolded(own[name]) for name in _PARTS if name in own}
    params = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    nodes = _nodes(graph, columns)
    ids = dict(zip(graph, [node["node_id"] for node in nodes], strict=True))
    if len(set(ids.values())) < len(ids):
        raise OutputError("two nodes have one `node_id`; rename that attribute, or leave it out")
    links: list[dict[str, Any]] = []
    for source, target, values in graph.edges(data=True):
        if "effect" not in values:
            raise OutputError(
                f"{joined(source, target)}: Neuronpedia's format needs each edge's `effect`; leave it out"
            )
        links.append({
            "source": ids[source], "target": ids[target], "weight": values["effect"], "kind": values["kind"],
        })  # fmt: skip
    shown = _unfolded(own["qParams"]) if "qParams" in own else params
    return {"metadata": metadata, "qParams": shown, "nodes": nodes, "links": links}


def _columns(graph: Graph) -> tuple[list[str], dict[str, int]]:
    """The viewers' tokens, and the column of each node."""
    if "prompt_tokens" in graph.graph:
        tokens = _texts(graph.graph["prompt_tokens"], "prompt_tokens")
        columns = {name: values.get("ctx_idx", len(tokens) - 1) for name, values in graph.nodes(data=True)}
        for name, column in columns.items():
            if type(column) is not int or not 0 <= column < len(tokens):
                raise OutputError(
                    f"node {called(name)}: ctx_idx {shorten(column)} is no column of {len(tokens)} prompt_tokens"
                )
        return tokens, columns
    roles = list(dict.fromkeys(str(v["position"]) for _, v in graph.nodes(data=True) if "position" in v))
    roles.sort(key=lambda role: role == "last")
    place = {role: number for number, role in enumerate(roles, start=1)}
    columns = {
        name: place.get(str(values.get("position")), 0 if values["kind"] == "embed" else len(roles) + 1)
        for name, values in graph.nodes(data=True)
    }
    # two columns at least: of one, the viewers drop every node as one that is everywhere
    return ["(embedding)", *roles, "(all positions)"], columns


def _nodes(graph: Graph, columns: dict[str, int]) -> list[dict[str, Any]]:
    layers = [int(v["layer"]) for _, v in graph.nodes(data=True) if v["kind"] not in {"embed", "metric"}]
    last = max(layers, default=0) + 1
    used: dict[tuple[str, int], set[int]] = {}
    nodes: list[dict[str, Any]] = []
    for name, values in graph.nodes(data=True):
        row = {"embed": "E", "metric": values.get("viewer_layer", last)}.get(str(values["kind"]), values.get("layer"))
        layer = str(row)
        taken = used.setdefault((layer, columns[name]), set())
        number = values.get("feature_id", cantor(values))
        if type(number) is not int or number in taken:
            number = -1 - len(taken)
        taken.add(number)
        identity = str(values.get("node_id", name))
        node: dict[str, Any] = {
            "node_id": identity, "feature": number, "layer": layer, "ctx_idx": columns[name],
            "feature_type": str(values.get("feature_type", _TYPES[str(values["kind"])])),
            "jsNodeId": str(values.get("jsNodeId", identity)), "clerp": _clerp(name, values),
        }  # fmt: skip
        nodes.append(node | {key: values[key] for key, kinds in _MORE.items() if type(values.get(key)) in kinds})
    return nodes


def cantor(values: dict[str, Scalar]) -> int | None:
    """The one number by which the viewers know a layer and a feature; None for what is no feature."""
    if values["kind"] != "feature" or "feature" not in values:
        return None
    layer, feature = int(values["layer"]), int(values["feature"])
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def _clerp(name: str, values: dict[str, Scalar]) -> str:
    """What the viewers show. They read a probability out of a logit's, and fail where there is none."""
    label = str(values.get("label", "" if "node_id" in values else name))
    if values["kind"] == "metric" and ")" not in label.partition("(p=")[2]:
        return ""
    return f"{label} {values['klass']}" if "klass" in values else label


def _texts(text: Scalar, name: str) -> list[str]:
    items = _unfolded(text)
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        if items == []:
            return []
        raise OutputError(f"graph: {name} is {shorten(text)}; it must be a JSON list of strings, written as text")
    return [str(item) for item in items]


def _unfolded(text: Scalar) -> Any:
    """The list or object that `text` is JSON of; `text` itself where it is none."""
    if not isinstance(text, str) or text[:1] not in {"[", "{"}:
        return text
    try:
        found = json.loads(text)
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return found


def read(text: str) -> Parts:
    """The parts of a file of ours, or of another's: see `neuronpedia_read`.

    Raises CircuitError for kinds of nodes that are not known, and where a file of ours was changed.
    """
    found = load(text)
    kept = found.pop(KEPT, None)
    if kept is None:
        return neuronpedia_read.parts(found)
    parts = node_link.parts(need(kept, dict, f"{KEPT!r}"), f"{KEPT!r}")
    metadata = found.get("metadata")
    slug = metadata.get("slug") if isinstance(metadata, dict) else None
    if not isinstance(slug, str):
        raise CircuitError("its metadata has no slug; is the file complete?")
    unchanged(_theirs(assemble(parts), slug), found)
    return parts


FORM = Form("neuronpedia", ".neuronpedia.json", write, read, NODE_LINK)
