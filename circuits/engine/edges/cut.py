"""The metric of a circuit: some edges kept, all others cut, exactly.

    receiver r reads   x + Σ over cut edges (s, r) of (a_s − o_s)

x is the stream of this very run, o_s what s adds in it, a_s what s adds in the ablation run (`ablations`). A receiver whose
edges are all cut computes what it computes in the ablation run; with all kept nothing is changed.

Circuits travel as rows. Two circuits that agree on all receivers up to a block are one row up to there: rows are split
where circuits part. Within a row, receivers of a block that lack the same senders share one input.
Source: Hanna et al., arXiv:2403.17806 (EAP-IG); Mueller et al., arXiv:2504.13151 (MIB).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Final, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.batches import free_memory, in_batches
from circuits.engine.edges import ablations
from circuits.engine.edges.ablations import ABLATIONS, Ablation
from circuits.engine.edges.grid import Grid
from circuits.engine.edges.names import Edge
from circuits.engine.edges.walk import Reference, walk
from circuits.engine.kept import recall
from circuits.engine.progress import part_of_it
from circuits.engine.readout import Readout
from circuits.errors import AuditError, UndefinedError
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs

_MOST: Final = 2**30
"""Bytes of differences a − o held at once, unless a limit is given."""
_COPIES: Final = 3
"""A row stands in memory so often while rows are split."""
_TOLERANCE: Final = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Of the two identities, as a share of the metric's size; 5 % in reduced precision."""


@final
class Cuts:
    """Circuits of one model on one set of pairs, under one ablation.

    Made, it has run the clean and the ablation prompts and checked two identities: all edges kept is the clean run, none
    kept the ablation run. Raises SiteError for a model whose queries, keys or values are out of reach, UndefinedError for an
    unknown ablation, TokenError for a metric that does not fit the pairs (nothing run yet), AuditError where an identity
    does not hold.
    """

    def __init__(
        self, model: Model, tokens: TokenPairs, metric: Metric, *, ablation: Ablation = "resample",
        max_memory: int | None = None,
    ) -> None:  # fmt: skip
        if ablation not in ABLATIONS:
            raise UndefinedError(f"ablation {ablation!r} is none of {', '.join(ABLATIONS)}")
        self.grid = Grid(model)
        self.ablation: Ablation = ablation
        self.token_layers = 0
        """Tokens × blocks run by circuits so far; a call that stops at queries, keys and values counts as one."""
        self._model, self._tokens, self._max_memory = model, tokens, max_memory
        self._readout = Readout(model, metric.bind(tokens))
        self._means = ablations.mean_of(model, tokens) if ablation == "mean" else None
        self._groups = self._pair_groups()
        self._kept: list[Reference] = []
        ends = [(part.clean_end, part.ablated_end) for part in map(self._reference, range(len(self._groups)))]
        self.clean, self.ablated = (self._read(torch.cat(end)[None])[0] for end in zip(*ends, strict=True))
        """The metric of the clean run and of the ablation run, per pair, fp32 on the CPU."""
        self.identities = self._identities()
        """Largest deviations, in units of the metric: all kept against the clean run, none kept against the ablation run."""

    @property
    def line(self) -> str:
        """What was checked, for under a figure."""
        every, none = self.identities
        return (
            f"{self.ablation} ablation of edges: all kept is the clean run within {every:.0e}, "
            f"none kept is the ablation run within {none:.0e}"
        )

    def run(self, circuits: Sequence[Collection[Edge]]) -> Float[Tensor, "cell pair"]:
        """The metric of every circuit on every pair, fp32, on the CPU.

        Raises SiteError for an edge that the model lacks (nothing run yet for any circuit), UndefinedError where a metric
        is not a number.
        """
        kept = self.grid.kept(circuits)
        value = self._values(kept)
        bad = value.isnan().nonzero()
        if len(bad):
            cell, pair = bad[0].tolist()
            raise UndefinedError(
                f"{self._model.name}: circuit {cell} of {int(kept[cell].sum())} edges gives not-a-number on pair {pair} "
                f"under {self.ablation} ablation; load the model in float32"
            )
        return value

    def _values(self, kept: Bool[Tensor, "cell receiver sender"]) -> Float[Tensor, "cell pair"]:
        # circuits that begin alike come after each other, so that they share rows
        different, of = torch.unique(kept.flatten(1), dim=0, return_inverse=True)
        different = different.unflatten(1, kept.shape[1:])
        ends: list[Tensor] = []
        for group, pairs in enumerate(self._groups):
            part = self._reference(group)
            end = part.clean_end.new_empty(len(different), *part.clean_end.shape)
            before = part.replay.token_layers

            # blocks follow from the question, batches within them from the memory that is free
            size = max(1, self._most // self._bytes(len(pairs)))
            for first in range(0, len(different), size):
                cut = self.grid.there & ~different[first : first + size]
                asked = (self._model, part.tokens, self.ablation, self._means, cut)
                with part_of_it(len(cut) / len(different)):
                    found = recall("circuits", asked, partial(self._walked, part, cut))["end"]
                end[first : first + size] = found.to(end)
            self.token_layers += part.replay.token_layers - before
            ends.append(end)
        return self._read(torch.cat(ends, 1))[of]

    def _walked(self, part: Reference, cut: Bool[Tensor, "cell receiver sender"]) -> dict[str, Tensor]:
        """The final residual of every circuit of a block."""
        end = part.clean_end.new_empty(len(cut), *part.clean_end.shape)

        def run(batch: list[int]) -> None:
            end[batch] = walk(part, self.grid, cut[batch])

        in_batches(list(range(len(cut))), self._rows(part.tokens.n_pairs), run)
        return {"end": end}

    def _read(self, end: Float[Tensor, "row pair d_model"]) -> Float[Tensor, "row pair"]:
        return self._readout(end).float().cpu()

    def _reference(self, group: int) -> Reference:
        """The runs of some pairs; of the group used last they are kept."""
        if len(self._groups) == 1 and self._kept:
            return self._kept[0]
        self._kept.clear()
        tokens = self._tokens if len(self._groups) == 1 else self._tokens.select(self._groups[group])
        self._kept.append(Reference.of(self._model, tokens, self.ablation, self._means, self._max_memory))
        return self._kept[0]

    def _pair_groups(self) -> list[list[int]]:
        """As many pairs together as leave room for one row."""
        size = max(1, min(self._tokens.n_pairs, self._most // self._bytes(1)))
        every = list(range(self._tokens.n_pairs))
        return [every[i : i + size] for i in range(0, len(every), size)]

    def _rows(self, n_pairs: int) -> int:
        return max(1, self._room // self._bytes(n_pairs))

    @property
    def _room(self) -> int:
        return self._max_memory or min(free_memory(self._model.device) // 4, _MOST)

    @property
    def _most(self) -> int:
        return self._max_memory or _MOST

    def _bytes(self, n_pairs: int) -> int:
        size = torch.finfo(self._model.dtype).bits // 8
        return _COPIES * size * n_pairs * self._tokens.n_pos * len(self.grid.senders) * self._model.shape.d_model

    def _identities(self) -> tuple[float, float]:
        there = self.grid.there
        every, none = self._values(torch.stack([there, torch.zeros_like(there)]))
        found = (every - self.clean).abs().max().item(), (none - self.ablated).abs().max().item()
        size = torch.cat([self.clean, self.ablated]).abs().max().item()
        allowed = _TOLERANCE.get(self._model.dtype, 5e-2) * max(1.0, size)
        said = ("all edges kept and the clean run", "no edge kept and the ablation run")
        for what, off in zip(said, found, strict=True):
            if not off <= allowed:
                raise AuditError(
                    f"{self._model.name}: {what} differ by {off:.1e} in the metric (at most {allowed:.1e}); "
                    "do not use these numbers"
                )
        return found
