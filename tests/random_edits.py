"""Edits with random values, of the right size for any site of any architecture."""

from __future__ import annotations

from typing import Any

import oracle
import small_models
import torch

from circuits.interventions import Ablate, Add, Clamp, Intervention, Patch, Rotate
from circuits.prompts import TokenPairs
from circuits.sites import Site

EDITS = ("value", "ablate", "add", "clamp", "rotate")


class RandomEdits:
    """Values of the sizes that one architecture's sites have, for one set of pairs; `each` gives one for each pair."""

    def __init__(self, architecture: str, tokens: TokenPairs, *, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._n_pairs, self._n_pos = tokens.n_pairs, tokens.n_pos
        hf, ids = small_models.raw(architecture), tokens.clean[0][tokens.mask[0]]
        _, seen = oracle.run(hf, ids, keep=[(kind, 0) for kind in oracle.kinds(hf)])
        self._shape = {kind: tuple(x.shape[1:]) for (kind, _), x in seen.items()}
        self._scale = {kind: float(x.std()) for (kind, _), x in seen.items()}

    def numbers(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator)

    def vector(self, kind: str, *, each: bool) -> torch.Tensor:
        """Along the site's last axis, of the size that its activations have."""
        pairs = (self._n_pairs,) if each else ()
        return 2 * self._scale[kind] * self.numbers(*pairs, self._shape[kind][-1])

    def plane(self, kind: str, *, each: bool) -> torch.Tensor:
        pairs = (self._n_pairs,) if each else ()
        return torch.linalg.qr(self.numbers(*pairs, self._shape[kind][-1], 2)).Q.mT.contiguous()

    def number(self, scale: float, *, each: bool) -> Any:
        return scale * (1 + 0.5 * self.numbers(self._n_pairs)) if each else scale

    def value(self, site: Site, *, each: bool) -> torch.Tensor:
        """For all pairs [head, d] or [d]; for each [pair, pos, head, d] or [pair, pos, d].

        Of a pattern d is the key; of one neuron it is an axis of length one.
        """
        tail = (self._shape[site.kind] if site.index is None else self._shape[site.kind][1:]) or (1,)
        if site.kind == "pattern":
            tail = (*tail[:-1], self._n_pos)
        return self._scale[site.kind] * self.numbers(*((self._n_pairs, self._n_pos) if each else ()), *tail)

    def edit(self, name: str, site: Site, where: Any, *, each: bool) -> Intervention:
        kind = site.kind
        match name:
            case "value":
                return Patch(site, where, self.value(site, each=each))
            case "ablate":
                return Ablate(site, self.vector(kind, each=each), where, self.number(0.8, each=each))
            case "add":
                return Add(site, self.vector(kind, each=each), where, self.number(-1.5, each=each))
            case "clamp":
                value = self.number(3 * self._scale[kind], each=each)
                return Clamp(site, self.vector(kind, each=each), value, where)
            case _:
                return Rotate(site, self.plane(kind, each=each), self.number(120.0, each=each), where)
