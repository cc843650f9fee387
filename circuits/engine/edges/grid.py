"""The edges of one model as a table: receivers down, senders across, both in the order of the forward pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.engine.edges.names import (
    Edge,
    Step,
    all_receivers,
    all_senders,
    check_edges,
    reaches,
    read_at,
    written_at,
)  # fmt: skip
from circuits.errors import SiteError
from circuits.model import Model
from circuits.sites import Site


@final
class Grid:
    """Every edge of a model. What a receiver can read are the first so many senders."""

    def __init__(self, model: Model) -> None:
        """Raises SiteError for a model whose queries, keys or values are out of reach."""
        for kind in ("q", "k", "v"):
            model.parts.locate(Site(kind, 0))
        self.model = model
        self.senders, self.receivers = tuple(all_senders(model)), tuple(all_receivers(model))
        self._sender = {name: i for i, name in enumerate(self.senders)}
        self._receiver = {name: i for i, name in enumerate(self.receivers)}
        known: dict[tuple[Step, Step], bool] = {}
        written = [(s, written_at(s)) for s in self.senders]
        read = [(r, read_at(r)) for r in self.receivers]
        for r, later in read:
            for s, earlier in written:
                if (earlier, later) not in known:  # what stands at one place is reached together
                    known[earlier, later] = reaches(model, s, r)
        self.there: Bool[Tensor, "receiver sender"] = torch.tensor([[known[a, b] for _, a in written] for _, b in read])
        """[receiver, sender]: whether the edge exists."""
        self.before = [int(row.sum()) for row in self.there]
        """How many senders each receiver reads."""

    @property
    def n_edges(self) -> int:
        """How many edges the model has."""
        return int(self.there.sum())

    def edges(self) -> list[Edge]:
        """All of them, by receiver."""
        return [Edge(self.senders[s], self.receivers[r]) for r, s in self.there.nonzero().tolist()]

    def place(self, edge: Edge) -> tuple[int, int]:
        """Receiver and sender as numbers. Raises SiteError for an edge that is not in the table."""
        r, s = self._receiver.get(edge.receiver), self._sender.get(edge.sender)
        if r is not None and s is not None and self.there[r, s]:
            return r, s
        check_edges(self.model, [edge])
        raise SiteError(
            f"{edge.label}: {edge.sender} is several senders; give an edge of each head, and of any post-norm"
        )

    def kept(self, circuits: Sequence[Collection[Edge]]) -> Bool[Tensor, "cell receiver sender"]:
        """[circuit, receiver, sender]: what each circuit keeps. Raises SiteError for an edge the model lacks."""
        found = torch.zeros(len(circuits), *self.there.shape, dtype=torch.bool)
        places: dict[Edge, tuple[int, int]] = {}
        for i, circuit in enumerate(circuits):
            for edge in circuit:
                if edge not in places:
                    places[edge] = self.place(edge)
            if circuit:
                r, s = torch.tensor([places[edge] for edge in circuit]).T
                found[i, r, s] = True
        return found

    def feeds(self, receiver: str) -> tuple[str, ...]:
        """The senders that depend on what a receiver reads; none for the metric.

        A key-value head feeds every query head of its group; queries, keys and values feed the post-norm too.
        """
        layer, part = read_at(receiver)
        if receiver == self.receivers[-1]:
            return ()
        site = Site("mlp_out", layer)
        if part or receiver == site.label:
            return (site.label,)
        kind, index = receiver.partition(".")[2][0], int(receiver.partition("[")[2][:-1])
        size = 1 if kind == "q" else self.model.shape.n_heads // self.model.shape.n_kv_heads
        heads = tuple(Site("z", layer, h).label for h in range(index * size, (index + 1) * size))
        return tuple(name for name in (*heads, f"L{layer}.post-norm") if name in self._sender)
