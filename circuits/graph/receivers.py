"""What an edge runs into: a head through its queries, keys or values, an MLP, the final residual stream.

    kind     into                               what was edited in the receiver
    q, k, v  a head                             the residual stream as its queries, keys or values read it
    mlp      an MLP                             the residual stream as the MLP reads it
    final    the metric or the last resid_post  the residual stream as the final norm reads it
    writes   any                                nothing: what the sender adds to the stream, or its whole effect
    feeds    any                                what the receiver reads of the sender, by whatever measure

Several kinds may join the same two nodes. Under grouped-query attention one key–value head serves a group of query
heads. Its edges are written to *each query head of the group* that is a node, with the attribute `kv_head`: every format
holds that, EAP-IG's too, which knows query heads only. Such edges carry one measurement, so their effects are equal;
a sum counts them once per sender, kind, layer and `kv_head`. An edge that was measured on one query head's own copy of
the keys (attention ungrouped) has no `kv_head` and counts by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from circuits.errors import CircuitError, SiteError
from circuits.graph.scalars import Scalar, called, shorten
from circuits.sites import Site, parse

EDGE_KINDS: Final = ("q", "k", "v", "mlp", "final", "writes", "feeds")
"""In the order in which parallel edges stand."""
_INTO: Final = {"q": ("head",), "k": ("head",), "v": ("head",), "mlp": ("mlp",), "final": ("metric", "residual")}


def fits(kind: Any, values: Mapping[str, Scalar], target: str, edge: str, n_layers: int | None) -> None:
    """Raise CircuitError where `kind` is none, or one that its receiver `target` does not have."""
    if kind not in EDGE_KINDS:
        raise CircuitError(f"{edge}: kind {shorten(kind)} is none of {', '.join(EDGE_KINDS)}")
    into = _INTO.get(kind)
    if into and values["kind"] not in into:
        raise CircuitError(
            f"{edge}: kind {kind!r} runs into a {' or '.join(into)}, but {called(target)} is a {values['kind']}; "
            "write `feeds`, or name the head or MLP that reads it"
        )
    if kind == "final" and values["kind"] == "residual":
        last = values.get("site") == "resid_post" and n_layers in {None, int(values["layer"]) + 1}
        if not last:
            raise CircuitError(
                f"{edge}: {called(target)} is not the final residual stream (resid_post of the last block)"
            )


def receiver(target: str) -> tuple[Site, str] | None:
    """`L9.k[0]@last` as its site and `@last`; None where `target` is not queries, keys or values of one head."""
    label, at, role = target.partition("@")
    try:
        site = parse(label) if len(label) <= 24 else None
    except SiteError:
        return None
    if site is None or site.kind not in {"q", "k", "v"} or site.index is None or site.label != label:
        return None
    return site, at + role


def addressed(target: str, names: Iterable[str], heads: Any, kv_heads: Any) -> list[tuple[str, dict[str, Scalar]]]:
    """The nodes that an edge into `target` ends in, each with what the edge says beside its effect.

    `L9.q[6]` is head `L9.H6`; `L9.k[0]` each of `names` that is a query head of key–value head 0. Raises CircuitError
    where the number of query heads per key–value head (`heads` / `kv_heads`) is not known or no head of the group is there.
    """
    found = receiver(target)
    if found is None:
        return [(target, {})]
    site, role = found
    if site.kind == "q":
        return [(f"L{site.layer}.H{site.index}{role}", {"kind": "q"})]
    size = group_size(heads, kv_heads)
    if size is None:
        raise CircuitError(
            f"edge into {called(target)}: which query heads share it? give the graph its attributes n_heads and n_kv_heads"
        )
    first = (site.index or 0) * size
    group = {f"L{site.layer}.H{head}{role}" for head in range(first, first + size)} if first < heads else set[str]()
    here = sorted(group.intersection(names))
    if not here:
        raise CircuitError(
            f"edge into {called(target)}: none of its query heads L{site.layer}.H{first}…H{first + size - 1} is a node; add one"
        )
    return [(name, {"kind": site.kind, "kv_head": site.index or 0}) for name in here]


def group_size(heads: Any, kv_heads: Any) -> int | None:
    """How many query heads share a key–value head; None where that is not known."""
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or kv_heads < 1:
        return None
    if heads % kv_heads:
        raise CircuitError(f"graph: n_heads {heads} is no multiple of n_kv_heads {kv_heads}; which is wrong?")
    return heads // kv_heads


def shared(
    edge: str, kind: str, values: Mapping[str, Scalar], receiver_of: Mapping[str, Scalar], size: int | None
) -> None:
    """Raise CircuitError where `kv_head` stands on another kind of edge, or on a head of another group."""
    if "kv_head" not in values:
        return
    if kind not in {"k", "v"}:
        raise CircuitError(f"{edge}: kv_head stands on an edge of kind {kind!r}; only k and v run into shared heads")
    head, kv_head = int(receiver_of["head"]), int(values["kv_head"])
    if size is not None and head // size != kv_head:
        raise CircuitError(
            f"{edge}: head {head} reads key–value head {head // size} (groups of {size}), but kv_head is {kv_head}"
        )
