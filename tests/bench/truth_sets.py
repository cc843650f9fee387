"""What is true of a planted model, one set for each question: the arithmetic of `planted.ideal`, and nothing of a model.

    effect       what this very intervention does to the metric: what an exact method has to give back
    mechanism    has a part in what the model does: all roles but the decoy; edges that carry information or structure
    information  tells the two prompts apart on the way to the metric: edges alone

Effects are per pair, in logits, intervened − not. A key or value belongs to a group of heads, and all of them lose it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from circuits.engine.edges import METRIC, Edge, all_edges, all_receivers
from circuits.model import Model
from circuits.organisms.planted import Truth, circuit, prompts
from circuits.organisms.planted.ideal import Outputs, ideal

Numbers = NDArray[np.float64]
Effects = dict[str, Numbers]
How = Literal["noise", "denoise", "zero", "mean"]
"""The other run's value put in; in the clean run: nothing, or the mean over prompts."""
NO_PART: Final = frozenset(("idle", "decoy"))
ROLE_OF: Final = {name: role for role, name in circuit.NAMES.items()} | {"embed": "embedding", METRIC: "metric"}
_LOOKS: Final = ("and first", "and second", "or first", "or second", "direct first", "direct second", "decoy")
"""Heads that attend from the last position to the subject in the clean run; the backup does not while the mover is there."""


def gap(truth: Truth) -> float:
    """How far the metric is from clean to corrupt, mean over pairs: the unit of a share."""
    return float(np.abs(np.subtract(truth.clean, truth.corrupt)).mean())


def node_effects(truth: Truth, how: How) -> Effects:
    """Every head and MLP."""
    return {n.name: _effect(truth, how, nodes=(ROLE_OF.get(n.name, ""),)) for n in truth.nodes}


def input_effects(truth: Truth, model: Model, how: How) -> Effects:
    """Every query, key and value, whole: all that its heads take through it."""
    names = [r for r in all_receivers(model) if r != METRIC and "MLP" not in r]
    known = {name: [e for e in _known(truth, "information") if name == receiver(model, e)] for name in names}
    return {name: _effect(truth, how, edges=[(e.sender, e.receiver) for e in found]) for name, found in known.items()}


def edge_effects(truth: Truth, model: Model, how: How) -> Effects:
    """Every edge of the graph."""
    found: dict[str, list[tuple[str, str]]] = {edge.label: [] for edge in all_edges(model)}
    for edge in _known(truth, "information"):
        found[_label(model, edge)].append((edge.sender, edge.receiver))
    return {label: _effect(truth, how, edges=edges) for label, edges in found.items()}


def direct_effects(truth: Truth) -> Effects:
    """What every head and MLP adds to the metric, clean − corrupt, before any soft cap."""
    names = [node.name for node in truth.nodes]
    return {
        n: -_effect(truth, "noise", edges=[(n, METRIC)] if n in ROLE_OF else [], softcap=None) for n in names
    }  # fmt: skip


def looks_at_subject(truth: Truth) -> Effects:
    """1 for heads that attend to the subject from the last position, 0 for all other heads."""
    return _attends(truth, _LOOKS)


def looks_one_back(truth: Truth) -> Effects:
    """1 for heads that attend to the token before, wherever they stand."""
    return _attends(truth, ("previous token",))


def node_mechanism(truth: Truth) -> set[str]:
    """Heads and MLPs with a role that does something."""
    return {node.name for node in truth.nodes if node.role not in NO_PART}


def edge_mechanism(truth: Truth, model: Model) -> set[str]:
    """Edges that carry information, or where to attend. Those into the decoy carry it to nothing: they are not in it."""
    return {_label(model, e) for e in truth.edges if ROLE_OF.get(e.receiver) not in NO_PART}


def edge_information(truth: Truth, model: Model) -> set[str]:
    """Those that tell the prompts apart."""
    return {_label(model, edge) for edge in _known(truth, "information")}


def structure_alone(truth: Truth, model: Model) -> set[str]:
    """Edges that say where to attend and carry no information to any head of a group."""
    return {_label(model, edge) for edge in _known(truth, "structure")} - edge_information(truth, model)


def receiver(model: Model, edge: Any) -> str:
    """What of a model reads an edge of the truth: a key or value is that of the group."""
    if edge.receiver == "logits":
        return METRIC
    if edge.input == "mlp":
        return edge.receiver
    layer, _, index = edge.receiver.partition(".H")
    group = model.shape.n_heads // model.shape.n_kv_heads if edge.input in ("k", "v") else 1
    return f"{layer}.{edge.input}[{int(index) // group}]"


def _label(model: Model, edge: Any) -> str:
    return Edge(edge.sender, receiver(model, edge)).label


def _known(truth: Truth, carries: str) -> list[Any]:
    return [edge for edge in truth.edges if edge.carries == carries]


def _attends(truth: Truth, roles: tuple[str, ...]) -> Effects:
    n = len(truth.clean)
    return {x.name: np.full(n, float(x.role in roles)) for x in truth.nodes if ".H" in x.name}


def _effect(
    truth: Truth, how: How, *, nodes: tuple[str, ...] = (), edges: list[tuple[str, str]] | None = None,
    softcap: float | Literal["own"] | None = "own",
) -> Numbers:  # fmt: skip
    cap = circuit.SOFTCAP[truth.kind] if softcap == "own" else softcap
    base, other = (np.array(side) for side in prompts.raw()[:: -1 if how == "denoise" else 1])
    of_base, given = (_intact(tuple(side), cap) for side in (base, other))

    def instead(role: str, *, over: Mapping[str, Numbers] | None) -> Numbers:
        if how in ("noise", "denoise"):
            return given[role]
        if how == "zero":
            return np.zeros_like(base)
        # of nodes over all prompts, of edges over the corrupt ones, as either is ablated
        values = given[role] if over is None else np.concatenate([given[role], over[role]])
        return np.full_like(base, values.mean())

    roles = [role for role in nodes if role]
    taken = {
        (ROLE_OF[s], ROLE_OF.get(r, "metric")): instead(ROLE_OF[s], over=None) for s, r in edges or []
    }  # fmt: skip
    replaced = {role: instead(role, over=of_base) for role in roles}
    return ideal(base, nodes=replaced, edges=taken, softcap=cap)["metric"] - of_base["metric"]


@cache
def _intact(raw: tuple[float, ...], softcap: float | None) -> Outputs:
    """What the circuit computes with nothing replaced; to be read alone."""
    return ideal(raw, softcap=softcap)
