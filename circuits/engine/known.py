"""What follows about a patch without running it.

A patch from the source run changes nothing on a pair where it writes what is there already:

    before the pair's first difference
    a residual that is the same in both runs
    a query, key or value of block 0, made of its own column's residual alone, where that is the same
    weights of a pattern that are the same: both are 0 for keys that the row does not see

One that replaces the only residual that differs gives the source run. Values of one's own are never compared, not even
where they happen to be the base run's: a check may give these to see that they are run and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.engine.capture import Run
from circuits.engine.edits import Bound
from circuits.interventions import Patch
from circuits.sites import Site

_OF_THE_COLUMN = ("q", "k", "v")
"""Sites of a block that depend on the residual entering it at their own column alone."""


@final
@dataclass(frozen=True, eq=False)
class Known:
    """The pairs on which a patch is bound to give the base run's value, and those on which it gives the source run's."""

    base: Bool[Tensor, " pair"]
    source: Bool[Tensor, " pair"]


@final
class Compared:
    """Where the source run differs from the base run, to the bit; each site is compared once, for all cells."""

    def __init__(self, base: Run, source: Run) -> None:
        self._base, self._source = base, source
        self._found: dict[Site, Bool[Tensor, "pair pos ..."]] = {}

    def known(self, bound: Bound, column: int) -> Known | None:
        """What follows about a bound patch of one column, on the CPU; None for a value of one's own."""
        patch, site = bound.intervention, bound.site
        if not isinstance(patch, Patch) or patch.value is not None:
            return None
        changed = self._reached[:, column]
        if site.kind == "resid_pre":
            differs = self._residual(site.layer)
            changed = differs[:, column]
            return Known(~changed, changed & (differs.sum(1) == 1))
        if site.kind == "pattern" and bound.keys is not None:
            weights = self._weights(site)[:, column] & bound.keys[:, None].cpu()
            heads = slice(None) if bound.index is None else [bound.index]
            changed = changed & weights[:, heads].flatten(1).any(1)
        elif site.kind in _OF_THE_COLUMN and site.layer == 0:
            changed = changed & self._residual(0)[:, column]
        return Known(~changed, torch.zeros_like(changed))

    @cached_property
    def _reached(self) -> Bool[Tensor, "pair pos"]:
        """From each pair's first difference on: by causality nothing differs before it, whatever rounding says."""
        return self._residual(0).cumsum(1) > 0

    def _residual(self, layer: int) -> Bool[Tensor, "pair pos"]:
        """Where the residual entering a block differs and is read: the final one is read at the last column alone."""
        site = Site("resid_pre", layer)
        if site not in self._found:
            differs = (self._source.resid[layer] != self._base.resid[layer]).any(-1).cpu()
            if layer:
                differs &= self._reached
            if layer == len(self._base.resid) - 1:
                differs[:, :-1] = False
            self._found[site] = differs
        return self._found[site]

    def _weights(self, site: Site) -> Bool[Tensor, "pair pos head key"]:
        if site not in self._found:
            self._found[site] = (self._source.seen[site] != self._base.seen[site]).cpu()
        return self._found[site]
