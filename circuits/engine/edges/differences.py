"""What every sender adds to the stream in the source run minus what it adds in the base run.

    D_s = s(source) − s(base)         heads through post-norms at the base run's scale

All of them together are the difference of the two residual streams. Columns before the first difference have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Run
from circuits.engine.edges.names import post_normed, written_at
from circuits.engine.edges.written import Written
from circuits.errors import AuditError
from circuits.model import Model
from circuits.sites import Site, parse

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest deviation allowed, as a share of what is checked; reduced precision is allowed 5 %."""


def sites_of_senders(senders: Iterable[str]) -> set[Site]:
    """What both runs have to keep."""
    sites: set[Site] = set()
    for sender in senders:
        layer, part = written_at(sender)
        if sender == "embed":
            continue
        if part:
            sites.add(Site("mlp_out", layer))
            continue
        sites.add(Site("attn_out", layer))
        if sender != Site("attn_out", layer).label:
            sites.add(Site("z", layer))
    return sites


@final
class Differences:
    """Senders' writes in the source run minus those in the base run, on columns from `start`."""

    def __init__(self, model: Model, base: Run, source: Run, start: int) -> None:
        self.base, self.start = base, start
        self._model, self._source = model, source
        self.written = Written(model, base)
        self._heads: tuple[int, Float[Tensor, "pair pos head d_model"]] | None = None

    def of(self, sender: str) -> Float[Tensor, "pair pos d_model"]:
        """D of one sender, which this model has; cheapest when senders are asked for in their order."""
        if sender == "embed":
            return (self._source.resid[0] - self.base.resid[0])[:, self.start :]
        layer, part = written_at(sender)
        whole = Site("mlp_out" if part else "attn_out", layer)
        if sender == whole.label:
            return self._between(whole)
        heads = self.heads(layer)
        if sender.endswith(".post-norm"):
            return self._between(whole) - heads.sum(-2)
        return heads[:, :, parse(sender).index]

    def heads(self, layer: int) -> Float[Tensor, "pair pos head d_model"]:
        """D of every head of a block."""
        if self._heads is None or self._heads[0] != layer:
            self._heads = layer, self.written.heads(layer, self._between(Site("z", layer))[None], self.start)[0]
        return self._heads[1]

    def check(self, layers: Iterable[int]) -> None:
        """Raise AuditError for a block whose heads do not add up to what its attention adds.

        In both runs without a post-norm; with one, in the base run, whose scale its heads are given.
        """
        for layer in layers:
            site = Site("attn_out", layer)
            whole = self.base.seen[site][:, self.start :]
            if post_normed(self._model, layer):
                heads = self.written.heads(layer, self.base.seen[Site("z", layer)][None, :, self.start :], self.start)
                off = self.written.post_norm(layer, heads, whole[None], self.start)[0]
            else:
                off = self._between(site) - self.heads(layer).sum(-2)
            real = self.base.mask[:, self.start :]
            worst, largest = off[real].abs().max().item(), whole[real].abs().max().item()
            share = TOLERANCE.get(self._model.dtype, 5e-2)
            if not worst <= share * largest:
                raise AuditError(
                    f"{self._model.name}: what the heads of block {layer} write is off what its attention adds by "
                    f"{worst:.1e} (at most {share * largest:.1e}); do not use edges of its heads"
                )

    def _between(self, site: Site) -> Float[Tensor, "pair pos ..."]:
        return (self._source.seen[site] - self.base.seen[site])[:, self.start :]
