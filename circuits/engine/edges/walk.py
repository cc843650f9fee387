"""Block by block through circuits: every receiver of a block gets its own input, then the block runs once.

1. Queries, keys and values of every head from their own inputs; the block is left as soon as they are known.
2. The block with these queries, keys and values. What attention writes is seen, and the MLP's own input put in its place.
3. The stream goes on with what attention and MLP wrote.

An input is the run's stream with what is cut replaced, or, where that is most, the ablation run's with what is kept put
back: small differences of large numbers are avoided, which a norm behind them would blow up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.batches import rows_at_once
from circuits.engine.capture import capture
from circuits.engine.edges import ablations
from circuits.engine.edges.ablations import Ablation, Activations, Streams, Writes
from circuits.engine.edges.grid import Grid
from circuits.engine.edges.names import post_normed
from circuits.engine.edges.written import Written
from circuits.engine.replay import Replay, Rows
from circuits.engine.source import source_of
from circuits.engine.window import At, Windows, pack
from circuits.errors import AuditError
from circuits.model import Model
from circuits.model.hooks import Edit
from circuits.prompts.align import TokenPairs
from circuits.sites import Site, SiteKind

_READ: tuple[SiteKind, ...] = ("q", "k", "v")
Differences = Float[Tensor, "row _ pair pos d_model"]
"""a − o of every row and sender, where known; else 0."""


@final
@dataclass(frozen=True, eq=False)
class Reference:
    """The clean run of some pairs, to resume, and what every sender adds in the ablation run."""

    tokens: TokenPairs
    replay: Replay
    written: Written
    ablated: Writes
    streams: Streams
    """The residual stream where every sender is ablated, before every attention and MLP, and at the end."""
    start: int
    """First column where a circuit can differ from the clean run."""
    clean_end: Float[Tensor, "pair d_model"]
    """The final residual at the last column."""
    ablated_end: Float[Tensor, "pair d_model"]

    @classmethod
    def of(
        cls, model: Model, tokens: TokenPairs, ablation: Ablation, means: Activations | None, max_memory: int | None
    ) -> Reference:
        """Run the clean prompts, and the corrupt ones to resample from. `means` is what `mean` takes."""
        sites = ablations.sites(model)
        clean = capture(model, tokens.clean, tokens.mask, sites)
        replay = Replay(model, clean, max_memory=max_memory)
        written = Written(model, clean)
        start = tokens.first_difference if ablation == "resample" else 0
        if ablation == "resample":
            of = ablations.of_run(model, source_of(replay, tokens.corrupt, sites, start))
        else:
            of = ablations.zero_of(model, written, clean) if means is None else means
        n = tokens.n_pairs
        streams = ablations.streams(model, of, n, start)
        ablated = ablations.writes(model, written, of, n, start)
        return cls(tokens, replay, written, ablated, streams, start, clean.resid[-1][:, -1], streams[-1, :, -1])

    @property
    def windows(self) -> Windows:
        """The columns that are run."""
        return pack([self.start], self.replay.last + 1)


def walk(ref: Reference, grid: Grid, cut: Bool[Tensor, "cell receiver sender"]) -> Float[Tensor, "cell pair d_model"]:
    """What the metric reads of the final residual with some edges cut, [cell, receiver, sender], at the last column."""
    model = ref.replay.model
    cut = cut.to(model.device)
    x = ref.replay.base.resid[0][None, :, ref.start :]
    off = x.new_zeros(1, len(grid.senders), *x.shape[1:])
    off[:, 0] = ref.ablated[0] - x
    row = torch.zeros(len(cut), dtype=torch.long, device=cut.device)
    """The row of every circuit."""
    n_attention = model.shape.n_heads + 2 * model.shape.n_kv_heads
    for layer in range(model.shape.n_layers):
        first = layer * (n_attention + 1)
        mlp = first + n_attention
        mine = cut[:, first : mlp + 1]
        row, parents, kept = _split(row, mine.flatten(1))
        here, known = mine[kept], grid.before[first]
        if len(parents) > len(x) or not torch.equal(parents, torch.arange(len(x), device=parents.device)):
            old, off = off, off.new_zeros(len(parents), *off.shape[1:])
            off[:, :known] = old[parents, :known]
            x = x[parents]
        x = torch.cat([
            _block(ref, layer, x[some], off[some], here[some], known, grid.before[mlp])
            for some in _chunks(ref, len(x), x)
        ])  # fmt: skip
    return _end(x, off, cut[:, -1], row, ref.ablated_end)


def _end(
    x: Rows, off: Differences, cut: Bool[Tensor, "cell _"], row: Int[Tensor, " cell"], end: Float[Tensor, "pair d_model"]
) -> Float[Tensor, "cell pair d_model"]:  # fmt: skip
    """The final residual at the last column, with what the metric does not take of each sender replaced."""
    last = off[:, :, :, -1]
    rows = zip(row.tolist(), cut, strict=True)
    return torch.cat([_input(mine[None], last[r], x[r, :, -1], end) for r, mine in rows])


def _split(
    row: Int[Tensor, " cell"], mine: Bool[Tensor, "cell _"]
) -> tuple[Int[Tensor, " cell"], Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Rows split where their circuits cut something else in a block.

    Returns the new row of every circuit, and of every new row the old one and one of its circuits.
    """
    _, alike = torch.unique(mine, dim=0, return_inverse=True)
    both, new = torch.unique(torch.stack([row, alike], 1), dim=0, return_inverse=True)
    one = torch.empty(len(both), dtype=torch.long, device=row.device)
    one[new] = torch.arange(len(new), device=row.device)
    return new, row[one], one


def _chunks(ref: Reference, n: int, x: Rows) -> list[slice]:
    """Rows that one call of a block takes."""
    replay = ref.replay
    size = rows_at_once(replay.model, x.shape[1], replay.last + 1, x.shape[2], replay.max_memory)
    return [slice(i, i + size) for i in range(0, n, size)]


def _block(
    ref: Reference, layer: int, x: Rows, off: Differences, cut: Bool[Tensor, "row receiver sender"], known: int, for_mlp: int
) -> Rows:
    """The residual leaving a block; `off` is filled with what its senders add. Receivers: q, k and v of heads, MLP."""
    attention, mlp = cut[:, :-1, :known], cut[:, -1, :for_mlp]
    asked = _asked(ref, layer, x, off, attention)
    edits = _Setting(ref, x, asked, off, mlp, known)
    # queries, keys and values are set, so that what enters is read by an MLP beside the attention alone
    entering = _inputs(mlp, off, x, ref.streams[2 * layer + 1]) if edits.parallel else torch.zeros_like(x)
    ref.replay.block(layer, entering, ref.windows, edits)
    return x + edits.seen[0] + edits.seen[1]


def _asked(
    ref: Reference, layer: int, x: Rows, off: Differences, cut: Bool[Tensor, "row receiver sender"]
) -> dict[SiteKind, Float[Tensor, "row pair pos _ d_head"]]:
    """Queries, keys and values, each of its own input; receivers of a row that lack the same senders share one."""
    inputs: list[Tensor] = []
    place: list[Tensor] = []
    n = 0
    for i, mine in enumerate(cut):
        lacking, of = torch.unique(mine, dim=0, return_inverse=True)
        inputs.append(_input(lacking, off[i, : cut.shape[2]], x[i], ref.streams[2 * layer]))
        place.append(of + n)
        n += len(lacking)
    every = torch.cat(inputs)
    seen = [_looked(ref, layer, every[some]) for some in _chunks(ref, n, every)]
    shape = ref.replay.model.shape
    sizes = (shape.n_heads, shape.n_kv_heads, shape.n_kv_heads)
    found: dict[SiteKind, Tensor] = {}
    for kind, at in zip(_READ, torch.stack(place).split(sizes, 1), strict=True):
        whole = torch.cat([part[kind] for part in seen])  # [input, pair, pos, head, d_head]
        heads = torch.arange(at.shape[1], device=at.device)
        found[kind] = whole[at, :, :, heads].permute(0, 2, 3, 1, 4)
    return found


def _looked(ref: Reference, layer: int, x: Rows) -> dict[SiteKind, Float[Tensor, "row pair pos _ d_head"]]:
    looking = _Looking({})
    with contextlib.suppress(_KnownError):
        ref.replay.block(layer, x, ref.windows, looking)
        raise AuditError(f"{ref.replay.model.name}: block {layer} did not show its queries, keys and values")
    return {kind: seen.unflatten(0, x.shape[:2]) for kind, seen in looking.seen.items()}


def _input(
    cut: Bool[Tensor, "row sender"], off: Float[Tensor, "sender ..."], x: Float[Tensor, ...], ablated: Float[Tensor, ...]
) -> Float[Tensor, "row ..."]:
    """What receivers of one row read: its stream x, or that of the ablation run, with cut senders' a − o."""
    most = 2 * cut.sum(1) > cut.shape[1]
    shares = cut.to(off) - most[:, None].to(off)  # 1 for what is cut, or −1 for what is kept
    base = torch.where(most.view(-1, *[1] * x.ndim), ablated, x)
    return base + (shares @ off.flatten(1)).unflatten(1, x.shape)


def _inputs(cut: Bool[Tensor, "row _"], off: Differences, x: Rows, ablated: Float[Tensor, "pair pos d_model"]) -> Rows:
    """The same with one receiver in each row."""
    return torch.cat([_input(mine[None], off[i, : cut.shape[1]], x[i], ablated) for i, mine in enumerate(cut)])


class _KnownError(Exception):
    """Leaves a block as soon as its queries, keys and values are seen."""


@final
@dataclass(frozen=True, eq=False)
class _Looking:
    seen: dict[SiteKind, Tensor]

    def residual(self, layer: int, x: Rows, at: At) -> Rows:
        del layer, at
        return x

    def inside(self, layer: int, n_rows: int, at: At) -> Mapping[Site, Edit]:
        del n_rows, at

        def keep(kind: SiteKind) -> Edit:
            def look(activation: Tensor) -> None:
                self.seen[kind] = activation.clone()  # a view of a projection that other hooks may write to
                if len(self.seen) == len(_READ):
                    raise _KnownError

            return look

        return {Site(kind, layer): keep(kind) for kind in _READ}


@final
@dataclass(frozen=True, eq=False)
class _Setting:
    """Sets what heads read, sees what is written, and gives the MLP its own input."""

    ref: Reference
    x: Rows
    """The stream entering the block."""
    asked: dict[SiteKind, Tensor]
    off: Differences
    cut: Bool[Tensor, "row _"]
    """Of the MLP."""
    first: int
    """The number of this block's first sender."""
    seen: list[Rows] = field(default_factory=list[Tensor])
    """attn_out, then mlp_out."""

    @property
    def parallel(self) -> bool:
        return self.cut.shape[1] == self.first

    def residual(self, layer: int, x: Rows, at: At) -> Rows:
        del layer, at
        return x

    def inside(self, layer: int, n_rows: int, at: At) -> Mapping[Site, Edit]:
        del at
        n = self.ref.replay.model.shape.n_heads
        senders = slice(self.first, self.first + n)
        zs: list[Tensor] = []

        def of_attention(activation: Tensor) -> Tensor | None:
            attn_out = activation.unflatten(0, (n_rows, -1))
            heads = self.ref.written.heads(layer, zs[0], self.ref.start)
            self.off[:, senders] = self.ref.ablated[senders] - heads.movedim(-2, 1)
            if post_normed(self.ref.replay.model, layer):
                beyond = self.ref.written.post_norm(layer, heads, attn_out, self.ref.start)
                self.off[:, senders.stop] = self.ref.ablated[senders.stop] - beyond
            self.seen.insert(0, attn_out)
            if self.parallel:
                return None
            ablated = self.ref.streams[2 * layer + 1]  # nothing enters the block: this is all that its MLP reads
            return _inputs(self.cut, self.off, self.x + attn_out, ablated).flatten(0, 1)

        def of_mlp(activation: Tensor) -> None:
            mlp_out = activation.unflatten(0, (n_rows, -1))
            place = senders.stop + post_normed(self.ref.replay.model, layer)
            self.off[:, place] = self.ref.ablated[place] - mlp_out
            self.seen.append(mlp_out)

        def put(kind: SiteKind) -> Edit:
            return lambda _: self.asked[kind].flatten(0, 1)

        return {
            **{Site(kind, layer): put(kind) for kind in _READ},
            Site("z", layer): lambda z: zs.append(z.unflatten(0, (n_rows, -1))),
            Site("attn_out", layer): of_attention,
            Site("mlp_out", layer): of_mlp,
        }
