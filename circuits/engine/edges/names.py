"""Who sends, who receives, and who comes before whom.

    sender        adds to the residual stream                   receiver     reads it
    embed         what enters block 0                           L9.q[6]      the queries of one head
    L2.H6         one head's product, through any post-norm     L9.k[0]      the keys of a key-value head
    L2.post-norm  what attention adds beyond its heads          L9.v[0]      its values
    L2.ATTN       all of that together                          L9.MLP       the MLP of a block
    L3.MLP        what the MLP adds                             metric       the final norm, and so the metric

A head's product goes through a post-norm at the scale that a reference run gives it; what another run's scale changes is
the sender `post-norm`, so that senders add up. Heads and MLP of one block follow each other, unless they are parallel.
A k or v receiver is read by every query head of its group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from circuits.errors import SiteError
from circuits.model import Model
from circuits.model.value_path import post_norm
from circuits.sites import Site, head, parse

EdgeKind = Literal["q", "k", "v", "mlp", "final"]
METRIC: Final = "metric"
_POST_NORM: Final = re.compile(r"^L(\d+)\.post-norm$", re.ASCII)
_SENDERS: Final = ("embed", "z", "attn_out", "mlp_out")
_RECEIVERS: Final[dict[str, EdgeKind]] = {"q": "q", "k": "k", "v": "v", "mlp_out": "mlp"}
Step = tuple[int, int]
"""(block, 0 attention or 1 MLP); the embedding is (-1, 1)."""


@final
@dataclass(frozen=True, order=True)
class Edge:
    """What `sender` adds to the stream, as `receiver` reads it."""

    sender: str
    receiver: str

    @property
    def kind(self) -> EdgeKind:
        """What of the receiver reads: its q, k or v, an MLP (`mlp`) or the final norm (`final`)."""
        return "final" if self.receiver == METRIC else _RECEIVERS[parse(self.receiver).kind]

    @property
    def label(self) -> str:
        """`L2.H6 → L9.q[6]`."""
        return f"{self.sender} → {self.receiver}"


def written_at(sender: str) -> Step:
    """When a sender writes. Raises SiteError for what is no sender."""
    found = _POST_NORM.match(sender)
    if found:
        return int(found[1]), 0
    site = parse(sender)
    if site.kind not in _SENDERS or (site.kind == "z") != (site.index is not None):
        raise SiteError(f"{sender!r} is no sender; write embed, L2.H6, L2.ATTN or L3.MLP")
    return (-1, 1) if site.kind == "embed" else (site.layer, int(site.kind == "mlp_out"))


def read_at(receiver: str) -> Step:
    """When a receiver reads; the metric last. Raises SiteError for what is no receiver."""
    if receiver == METRIC:
        return 2**53, 0
    site = parse(receiver)
    if site.kind not in _RECEIVERS or (site.kind != "mlp_out") != (site.index is not None):
        raise SiteError(f"{receiver!r} is no receiver; write L9.q[6], L9.k[0], L9.v[0], L9.MLP or {METRIC}")
    return site.layer, int(site.kind == "mlp_out")


def reaches(model: Model, sender: str, receiver: str) -> bool:
    """Whether what a sender adds is in the stream where a receiver reads it."""
    written, read = written_at(sender), read_at(receiver)
    return written < read and not (parallel(model) and written[0] == read[0])


def all_senders(model: Model) -> list[str]:
    """Embedding, heads, post-norms where there are any, MLPs, in order: together they are the residual stream."""
    found = ["embed"]
    for layer in range(model.shape.n_layers):
        found += [head(layer, h).label for h in range(model.shape.n_heads)]
        found += [f"L{layer}.post-norm"] if post_normed(model, layer) else []
        found.append(Site("mlp_out", layer).label)
    return found


def all_receivers(model: Model) -> list[str]:
    """Queries of every head, keys and values of every key-value head, MLPs, in order, and the metric last."""
    found: list[str] = []
    sizes: tuple[tuple[Literal["q", "k", "v"], int], ...] = (
        ("q", model.shape.n_heads), ("k", model.shape.n_kv_heads), ("v", model.shape.n_kv_heads),
    )  # fmt: skip
    for layer in range(model.shape.n_layers):
        found += [Site(kind, layer, h).label for kind, n in sizes for h in range(n)]
        found.append(Site("mlp_out", layer).label)
    return [*found, METRIC]


def all_edges(model: Model, senders: Iterable[str] | None = None, receivers: Iterable[str] | None = None) -> list[Edge]:
    """Every edge from one of `senders` to one of `receivers` that it reaches, by receiver; all where None."""
    sent = all_senders(model) if senders is None else list(senders)
    read = all_receivers(model) if receivers is None else list(receivers)
    return [Edge(s, r) for r in read for s in sent if reaches(model, s, r)]


def check_edges(model: Model, edges: Iterable[Edge]) -> None:
    """Raise SiteError for an edge whose ends this model lacks, that runs backwards, or that is given twice."""
    known: set[Edge] = set()
    for edge in edges:
        _sends(model, edge.sender, edge.label)
        read_at(edge.receiver)
        if edge.receiver != METRIC:
            _exists(model, parse(edge.receiver), edge.label)
        if not reaches(model, edge.sender, edge.receiver):
            beside = " (attention and MLP of a block are parallel here)" if parallel(model) else ""
            raise SiteError(f"{edge.label}: the receiver reads the stream before the sender writes{beside}")
        if edge in known:
            raise SiteError(f"{edge.label} is given twice; give every edge once")
        known.add(edge)


def check_mediators(model: Model, mediators: Sequence[str]) -> None:
    """Raise SiteError for what cannot stand between two ends of a path: not there, given twice, or part of another."""
    for mediator in mediators:
        _sends(model, mediator, mediator)
        if mediator == "embed":
            raise SiteError("embed reads nothing, so no path leads through it; give heads, ATTN and MLPs")
        if mediators.count(mediator) > 1:
            raise SiteError(f"{mediator} is given twice; give every component of a path once")
        whole = Site("attn_out", written_at(mediator)[0]).label
        if whole in mediators and mediator != whole and written_at(mediator) == written_at(whole):
            raise SiteError(f"{mediator} is part of {whole}; give one of them")


def post_normed(model: Model, layer: int) -> bool:
    """Whether what the heads of a block write is normalised before it is added."""
    return post_norm(model, layer) is not None


def parallel(model: Model) -> bool:
    """Whether attention and MLP of a block read the same residual."""
    return "resid_mid" in model.parts.lacking


def _sends(model: Model, sender: str, asked: str) -> None:
    layer, _ = written_at(sender)
    if not _POST_NORM.match(sender):
        _exists(model, parse(sender), asked)
    elif layer >= model.shape.n_layers or not post_normed(model, layer):
        raise SiteError(f"{asked}: {model.name} has no post-norm on the attention of block {layer}")


def _exists(model: Model, site: Site, asked: str) -> None:
    model.parts.locate(site)
    n_heads = model.shape.n_kv_heads if site.kind in {"k", "v"} else model.shape.n_heads
    if site.index is not None and site.index >= n_heads:
        heads = "key-value heads" if site.kind in {"k", "v"} else "heads"
        raise SiteError(f"{asked}: {site.label} does not exist; block {site.layer} has {heads} 0 to {n_heads - 1}")
