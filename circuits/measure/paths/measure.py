"""The verb: which edges are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from circuits.engine.edges import Edge, all_edges
from circuits.engine.edges.paths import along_paths
from circuits.engine.sweep import Direction
from circuits.errors import SiteError
from circuits.measure.paths.result import Paths
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.tables import provenance


def patch_paths(  # noqa: PLR0913  which edges, and how they are patched
    model: Model, tokens: TokenPairs, metric: Metric, *, senders: Sequence[str] | None = None,
    receivers: Sequence[str] | None = None, edges: Sequence[Edge] | None = None, through: Sequence[str] = (),
    positions: Positions = "all", direction: Direction = "noise", audited: bool = True, max_memory: int | None = None,
) -> Paths:  # fmt: skip
    """Patch along every edge between `senders` and `receivers` (all there are where None), or along `edges`.

    Senders: embed, L2.H6, L2.ATTN, L2.post-norm, L3.MLP. Receivers: L9.q[6], L9.k[0], L9.v[0], L9.MLP, metric. `through`:
    heads, ATTN and MLPs that the change may also pass. `positions`: those of the receiver that are changed; the metric
    reads the last one whatever they are. Units of the metric, fp32.

    Costs about half a forward pass of the columns after the first difference for each edge; edges into `metric` cost
    nearly nothing. Raises SiteError (nothing run yet) for ends that the model lacks or that are given twice, for edges
    that run backwards, where none is left, and for positions that some prompt lacks; AuditError as sweeps do.
    """
    chosen = _edges(model, senders, receivers, edges)
    swept = along_paths(
        model, tokens, metric, chosen, through=through, positions=positions, direction=direction, audited=audited,
        max_memory=max_memory,
    )  # fmt: skip
    return Paths(
        provenance=provenance(model, tokens, metric, swept.certificate.line),
        value=swept.value.T.contiguous(), base=swept.base, source=swept.source,
        edges=tuple((edge.sender, edge.receiver) for edge in chosen), kinds=tuple(edge.kind for edge in chosen),
        through=tuple(through), positions=str(positions), direction=direction,
    )  # fmt: skip


def exact_edges(
    model: Model, tokens: TokenPairs, metric: Metric, *, direction: Direction = "noise", max_memory: int | None = None
) -> Callable[[Sequence[str | Edge]], Float[Tensor, "pair cell"]]:
    """What `verify` asks of a screen of edges: the change of the metric along each, by `patch_paths`.

    What it returns raises SiteError for a label that is no Edge.
    """

    def exact(edges: Sequence[str | Edge]) -> Float[Tensor, "pair cell"]:
        chosen: list[Edge] = []
        for edge in edges:
            if isinstance(edge, str):
                raise SiteError(f"{edge} is no edge; give verify the exact effects of nodes, exact_nodes(…)")
            chosen.append(edge)
        found = patch_paths(model, tokens, metric, edges=chosen, direction=direction, max_memory=max_memory)
        return found.value - found.base[:, None]

    return exact


def _edges(
    model: Model, senders: Sequence[str] | None, receivers: Sequence[str] | None, edges: Sequence[Edge] | None
) -> list[Edge]:
    if edges is not None:
        if senders is not None or receivers is not None:
            raise SiteError("give edges, or senders and receivers, not both")
        return list(edges)
    for name, ends in (("senders", senders), ("receivers", receivers)):
        if ends is not None and not ends:
            raise SiteError(f"no {name} given; leave them out to take all there are")
        twice = [end for end in ends or () if list(ends or ()).count(end) > 1]
        if twice:
            raise SiteError(f"{twice[0]} is given twice among the {name}; give every one once")
    found = all_edges(model, senders, receivers)
    if not found:
        raise SiteError("none of these senders writes before one of these receivers reads: there is no edge to patch")
    return found
