"""What is known of a planted model: its nodes and edges, and the metric under every ablation of each.

Numbers are per pair, in logits, and hold to `tolerance`: what is left to the norms, to the heads and neurons without a
role (small random weights, so that no site of the model is dead) and to single precision.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, final

import numpy as np

from circuits.errors import SiteError
from circuits.organisms.planted import circuit as c
from circuits.organisms.planted.ideal import Numbers, Outputs, ideal
from circuits.organisms.planted.prompts import raw

Relation = Literal["AND", "OR", "backup", "negative", "chain", "independent"]
TOLERANCE: Final = 5e-3
"""Of every number here, in logits."""

_RELATIONS: Final[dict[tuple[str, str], Relation]] = {
    ("and first", "and second"): "AND",
    ("or first", "or second"): "OR",
    ("mover", "backup"): "backup",
    ("previous token", "backup"): "backup",
    ("mover", "negative"): "negative",
    ("previous token", "negative"): "negative",
    ("previous token", "mover"): "chain",
}
"""Of all other heads, any two are independent: what both do is the sum of what each does."""
_FROM_ENRICHER: Final = (
    "previous token", "and first", "or first", "direct first", "and second", "or second", "direct second", "backup",
)  # fmt: skip
_INFORMATION: Final = (
    ("embedding", "enricher", "mlp"),
    *(("enricher", role, "v") for role in _FROM_ENRICHER),
    ("previous token", "mover", "v"),
    ("mover", "negative", "v"),
    ("mover", "backup", "q"),
    *((role, "gates", "mlp") for role in ("and first", "and second", "or first", "or second")),
    *((role, "metric", "final") for role in ("mover", "negative", "backup", "direct first", "direct second", "gates")),
)
_STRUCTURE: Final = (
    ("embedding", "previous token", "v"),
    ("previous token", "mover", "k"),
    *(("embedding", role, "k") for role in (*_FROM_ENRICHER[1:], "decoy")),
)


@final
@dataclass(frozen=True)
class Node:
    """A component: its label, its role, and the metric of the clean prompt while it is ablated at all positions."""

    name: str
    role: str
    """`idle` for heads and MLPs without one."""
    zero: tuple[float, ...]
    """What it gives is 0."""
    mean: tuple[float, ...]
    """… its mean over all prompts, clean and corrupt, column by column."""
    resample: tuple[float, ...]
    """… what it gives in the pair's corrupt run."""


@final
@dataclass(frozen=True)
class Edge:
    """What a receiver takes from a sender through one of its inputs."""

    sender: str
    receiver: str
    input: Literal["q", "k", "v", "mlp", "final"]
    carries: Literal["information", "structure"]
    """`structure` (where to attend) is the same in both runs: nothing that compares the two can see it."""
    resample: tuple[float, ...]
    """The clean prompt's metric where this receiver alone takes the sender's corrupt output."""


@final
@dataclass(frozen=True)
class Truth:
    """A planted model: what is in it, and what every ablation of it gives."""

    kind: c.Kind
    clean: tuple[float, ...]
    corrupt: tuple[float, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    tolerance: float = TOLERANCE

    def node(self, name: str) -> Node:
        """The node of this label. Raises SiteError where there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise SiteError(f"{name}: not a head or MLP of the planted model")

    @property
    def roles(self) -> dict[str, str]:
        """Role -> label, of all nodes that have one."""
        return {node.role: node.name for node in self.nodes if node.role != "idle"}

    def relation(self, a: str, b: str) -> Relation:
        """How two heads act together, in either order. Raises SiteError for what is not two heads of this model."""
        first, second = self.node(a), self.node(b)
        if a == b or a.endswith("MLP") or b.endswith("MLP"):
            raise SiteError(f"{a} and {b}: relations are known of two different heads")
        one_way = _RELATIONS.get((first.role, second.role), "independent")
        return _RELATIONS.get((second.role, first.role), one_way)

    @property
    def relations(self) -> dict[tuple[str, str], Relation]:
        """Labels -> relation, of the heads that do not act independently."""
        return {(c.NAMES[a], c.NAMES[b]): relation for (a, b), relation in _RELATIONS.items()}

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain lists and dicts."""
        named = [{"a": a, "b": b, "relation": relation} for (a, b), relation in self.relations.items()]
        return asdict(self) | {"relations": named}


def truth(kind: c.Kind) -> Truth:
    """What holds of the planted model of this kind on `pairs()`."""
    cap = c.SOFTCAP[kind]
    clean_raw, corrupt_raw = (np.array(side) for side in raw())
    clean, corrupt = ideal(clean_raw, softcap=cap), ideal(corrupt_raw, softcap=cap)

    def ablated(role: str, value: Numbers) -> tuple[float, ...]:
        return _plain(ideal(clean_raw, nodes={role: value}, softcap=cap))

    def node(name: str) -> Node:
        role = {label: role for role, label in c.NAMES.items()}.get(name, "idle")
        if role == "idle":
            return Node(name, role, _plain(clean), _plain(clean), _plain(clean))
        mean = np.full_like(clean_raw, np.concatenate([clean[role], corrupt[role]]).mean())
        return Node(
            name, role, ablated(role, np.zeros_like(clean_raw)), ablated(role, mean), ablated(role, corrupt[role])
        )

    def edge(sender: str, receiver: str, through: Any, *, informs: bool) -> Edge:
        taken = {(sender, receiver): corrupt[sender]} if informs else {}
        label = {"embedding": "embed", "metric": "logits", **c.NAMES}
        return Edge(
            label[sender], label[receiver], through, "information" if informs else "structure",
            _plain(ideal(clean_raw, edges=taken, softcap=cap)),
        )  # fmt: skip

    heads = [f"L{layer}.H{index}" for layer in range(c.N_LAYERS) for index in range(c.N_HEADS)]
    return Truth(
        kind=kind, clean=_plain(clean), corrupt=_plain(corrupt),
        nodes=tuple(map(node, [*heads, *(f"L{layer}.MLP" for layer in range(c.N_LAYERS))])),
        edges=(
            *(edge(*known, informs=True) for known in _INFORMATION),
            *(edge(*known, informs=False) for known in _STRUCTURE),
        ),
    )  # fmt: skip


def _plain(given: Outputs) -> tuple[float, ...]:
    return tuple(float(m) for m in given["metric"])
