"""A circuit: a set of edges of one model, how it was chosen, and what was left out of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, final, get_args

from circuits import display
from circuits.engine.edges import Edge
from circuits.engine.edges.grid import Grid
from circuits.engine.edges.names import read_at
from circuits.errors import SiteError, UndefinedError
from circuits.measure.circuit.connected import connected, grown
from circuits.model import Model

Rank = Literal["absolute", "signed"]
"""By |score|, or by the score: large positive ones first."""
RANKS: Final[tuple[Rank, ...]] = get_args(Rank)


@final
@dataclass(frozen=True, eq=False)
class Scores:
    """A score of each edge, any unit. Edges without one are kept by no choice."""

    value: Mapping[Edge, float]
    name: str = "scores"
    """Where they come from: `EAP-IG`, `exact effects`, …"""
    model_hash: str | None = None
    """The hash of the model they are of, compared with the model's own where given."""

    @classmethod
    def read(cls, model: Model, scores: Scores | Mapping[Edge, float], grid: Grid | None = None) -> Scores:
        """Checked scores. Raises SiteError for those of another model, UndefinedError without any or if one is not finite."""
        given = scores if isinstance(scores, Scores) else Scores(scores)
        if given.model_hash not in {None, model.hash}:
            raise SiteError(
                f"{given.name} are of another model (hash {given.model_hash}, {model.name} has {model.hash}); "
                "score the edges of this one"
            )
        if not given.value:
            raise UndefinedError(f"{given.name} hold no edge; a circuit is chosen from scored edges")
        table = grid or Grid(model)
        for edge, score in given.value.items():
            table.place(edge)
            if not math.isfinite(score):
                raise UndefinedError(f"{given.name}: {edge.label} has score {score}; leave it out or score it again")
        return given


@final
@dataclass(frozen=True)
class Circuit:
    """Edges of one model; all others are cut when it is run."""

    edges: frozenset[Edge]
    model_name: str
    model_hash: str
    n_all: int
    """Edges that the model has."""
    chosen: str
    """How its edges were chosen."""
    dangling: frozenset[Edge] = field(default_factory=frozenset[Edge])
    """Edges that were chosen and left out, since they lie on no path embed → … → metric."""

    def __len__(self) -> int:
        return len(self.edges)

    def __repr__(self) -> str:
        whole = ", the whole model" if len(self) == self.n_all else ""
        out = f", {len(self.dangling)} dangling left out" if self.dangling else ""
        return f"{len(self)} of {self.n_all} edges of {self.model_name}{whole} ({self.chosen}{out})"

    def _repr_html_(self) -> str:
        own = sorted(self.edges, key=lambda edge: (read_at(edge.receiver), edge))
        table = ((edge.sender, edge.kind, edge.receiver) for edge in own)
        return display.card(
            f"Circuit: {self!r}",
            display.lines(f"heads and MLPs whose writes it keeps: {', '.join(self.nodes) or 'none'}"),
            display.rows(("sender", "kind", "receiver"), table, total=len(self)),
        )  # fmt: skip

    @property
    def nodes(self) -> tuple[str, ...]:
        """Heads and MLPs whose writes it keeps somewhere, in the order of the forward pass."""
        names = {edge.sender for edge in self.edges if edge.sender != "embed" and not edge.sender.endswith("post-norm")}
        return tuple(sorted(names, key=_place))

    def without(self, *nodes: str) -> frozenset[Edge]:
        """Its edges but those from some nodes, whose writes then nothing reads."""
        return frozenset(edge for edge in self.edges if edge.sender not in nodes)

    @classmethod
    def of(
        cls, model: Model, edges: Iterable[Edge], *, prune: bool = True, chosen: str = "edges as given",
        grid: Grid | None = None,
    ) -> Circuit:  # fmt: skip
        """These edges, without the dangling ones unless `prune=False`. Raises SiteError for an edge the model lacks."""
        table, given = grid or Grid(model), frozenset(edges)
        for edge in given:
            table.place(edge)
        kept = connected(table, given) if prune else given
        return cls(kept, model.name, model.hash, table.n_edges, chosen, given - kept)

    @classmethod
    def between(cls, model: Model, nodes: Iterable[str], *, prune: bool = True) -> Circuit:
        """All edges between some heads and MLPs (`L2.H6`, `L3.MLP`), the embedding and the metric.

        A head brings its queries and its group's keys and values; where a block has a post-norm, its first head brings that
        too. Raises SiteError for a node the model lacks.
        """
        grid, wanted = Grid(model), set(nodes)
        known = {name for name in grid.senders[1:] if not name.endswith("post-norm")}
        lacking = sorted(wanted - known - {"embed"})
        if lacking:
            raise SiteError(f"{', '.join(lacking)}: no head or MLP of {model.name}; write L2.H6 or L3.MLP")
        norms = {f"{name.partition('.')[0]}.post-norm" for name in wanted if ".H" in name} & set(grid.senders)
        sent = wanted | norms | {"embed"}
        read = {r for r in grid.receivers if not grid.feeds(r) or wanted.intersection(grid.feeds(r))}
        edges = [edge for edge in grid.edges() if edge.sender in sent and edge.receiver in read]
        return cls.of(model, edges, prune=prune, chosen=f"between {len(wanted)} nodes", grid=grid)

    @classmethod
    def by_threshold(
        cls, model: Model, scores: Scores | Mapping[Edge, float], threshold: float, *, rank: Rank = "absolute",
        prune: bool = True,
    ) -> Circuit:  # fmt: skip
        """Edges whose score (`absolute`: |score|) is at least `threshold`. One that keeps every edge is said to.

        Raises UndefinedError for a threshold that keeps none, and as `Scores.read` does.
        """
        grid = Grid(model)
        keys = ranked(model, scores, rank, grid)
        kept = [edge for edge, key in keys.items() if key >= threshold]
        what = "|score|" if rank == "absolute" else "score"
        if not kept:
            raise UndefinedError(
                f"{what} ≥ {threshold:g} keeps none of {len(keys)} edges; the largest is {max(keys.values()):.3g}"
            )
        return cls.of(model, kept, prune=prune, chosen=f"{what} ≥ {threshold:g}", grid=grid)

    @classmethod
    def top_n(
        cls, model: Model, scores: Scores | Mapping[Edge, float], n: int, *, rank: Rank = "absolute", prune: bool = True
    ) -> Circuit:
        """The n edges of the largest scores. Raises UndefinedError for an n that is not among 1 … the scored edges."""
        grid = Grid(model)
        keys = ranked(model, scores, rank, grid)
        return cls.of(model, largest(keys, _proper(n, keys)), prune=prune, chosen=f"top {n} by {rank} score", grid=grid)

    @classmethod
    def greedy(
        cls, model: Model, scores: Scores | Mapping[Edge, float], n: int, *, rank: Rank = "absolute", prune: bool = True
    ) -> Circuit:
        """At most n edges, grown back from the metric by the largest score. Raises UndefinedError as `top_n` does."""
        grid = Grid(model)
        keys = ranked(model, scores, rank, grid)
        kept = grown(grid, keys, _proper(n, keys))
        return cls.of(model, kept, prune=prune, chosen=f"greedy {n} by {rank} score", grid=grid)


def ranked(model: Model, scores: Scores | Mapping[Edge, float], rank: Rank, grid: Grid) -> dict[Edge, float]:
    """What edges are chosen by, in the order of the forward pass, which decides between equal scores."""
    if rank not in RANKS:
        raise UndefinedError(f"rank {rank!r} is none of {', '.join(RANKS)}")
    value = Scores.read(model, scores, grid).value
    return {
        edge: abs(value[edge]) if rank == "absolute" else float(value[edge])
        for edge in sorted(value, key=grid.place)
    }  # fmt: skip


def largest(keys: Mapping[Edge, float], n: int) -> list[Edge]:
    """The n edges that come first."""
    return sorted(keys, key=lambda edge: -keys[edge])[:n]


def check_model(model: Model, circuits: Collection[Circuit]) -> None:
    """Raise SiteError for a circuit of another model."""
    for circuit in circuits:
        if circuit.model_hash != model.hash:
            raise SiteError(
                f"the circuit ({circuit}) is of another model (hash {circuit.model_hash}, {model.name} has {model.hash}); "
                "choose it from scores of this one"
            )


def _proper(n: int, keys: Mapping[Edge, float]) -> int:
    if not 1 <= n <= len(keys):
        raise UndefinedError(f"{n} edges of {len(keys)} scored ones; give a number from 1 to {len(keys)}")
    return n


def _place(node: str) -> tuple[int, int, int]:
    layer, _, part = node.removeprefix("L").partition(".")
    return int(layer), part == "MLP", 0 if part == "MLP" else int(part.removeprefix("H"))
