"""Where each site lives in the module tree of a Hugging Face model.

transformer-lens knows, for every architecture, which submodule is the attention, the MLP, their post-norms and the
projections. This file reads that map once and turns a `Site` into a `Place`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from circuits.errors import ModelError, SiteError
from circuits.sites import Site

Side = Literal["in", "out", "attention", "product", "sum"]
"""How a place is reached. `in`: the module's first input; `out`: its (first) output; `attention`: the weights it mixes
values with; `product`: each head's share of its output; `sum`: its output plus what entered its block."""
View = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]
"""From what a module takes or gives to the part of it that a site names, as a view of the same memory."""

_CONTIGUOUS = ("gpt2", "phi3")
"""Fused projections that give all queries, then all keys, then all values."""
_INTERLEAVED = ("gpt_neox",)
"""Fused projections that give query, key and value of each head in turn."""
_HEADS_FIRST = ("gemma3", "gemma3_text")
"""Where the norm on queries and keys sees [row, head, pos, d_head]; elsewhere heads come after positions."""


@final
@dataclass(frozen=True, eq=False)
class Place:
    """The module of a site, how it is reached, and which part of its tensor the site is."""

    module: nn.Module
    side: Side
    view: View | None = None
    block: nn.Module | None = None
    """For `sum`: the block whose input is added."""


@final
@dataclass(frozen=True, eq=False)
class Block:
    """One block: the whole module, and the place of every site kind within it."""

    whole: nn.Module
    places: dict[str, Place]
    cache_name: str
    """What the block calls the argument that brings earlier keys and values."""


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """The modules of a decoder-only transformer that a site can name."""

    embed: nn.Module
    blocks: tuple[Block, ...]
    ln_final: nn.Module
    unembed: nn.Module
    lacking: dict[str, str] = field(default_factory=dict[str, str])
    """Site kinds that this architecture does not have (or not in a known form), with the reason."""

    def locate(self, site: Site) -> Place:
        """Where a site lives. Raises SiteError for a layer or site this model lacks."""
        if site.kind == "embed":
            return Place(self.embed, "out")
        if not 0 <= site.layer < len(self.blocks):
            raise SiteError(f"{site.label}: this model has layers 0 to {len(self.blocks) - 1}")
        if site.kind in self.lacking:
            raise SiteError(f"{site.label}: {self.lacking[site.kind]}")
        return self.blocks[site.layer].places[site.kind]


def read_parts(hf: nn.Module, mapping: Any, *, n_heads: int, n_kv_heads: int, d_head: int) -> Parts:
    """Resolve transformer-lens' component mapping against the modules of `hf`.

    Raises ModelError naming what is missing for architectures without the attention-and-MLP blocks needed here.
    """
    missing = [part for part in ("embed", "blocks", "ln_final", "unembed") if part not in mapping]
    if missing:
        raise ModelError(f"{type(hf).__name__} has no {', '.join(missing)}: not a decoder-only transformer")
    submodules = mapping["blocks"].submodules
    lacking = [part for part in ("attn", "mlp") if part not in submodules]
    if lacking:
        raise ModelError(
            f"the blocks of {type(hf).__name__} have no {' and no '.join(lacking)} to hook (they have: "
            f"{', '.join(submodules) or 'nothing known'}); this toolkit needs attention-and-MLP transformers"
        )
    model_type: str = hf.config.model_type  # type: ignore[union-attr]  nn.Module types its attributes loosely
    reader = _Reader(mapping["blocks"], model_type, n_heads, n_kv_heads, d_head)
    blocks = tuple(reader.block(whole) for whole in hf.get_submodule(mapping["blocks"].name).children())
    if getattr(hf.config, "clip_qkv", None):
        reader.lacking |= dict.fromkeys(("q", "k", "v"), "the projections are clipped after they are made, out of reach")
    return Parts(
        embed=hf.get_submodule(mapping["embed"].name),
        blocks=blocks,
        ln_final=hf.get_submodule(mapping["ln_final"].name),
        unembed=hf.get_submodule(mapping["unembed"].name),
        lacking=reader.lacking,
    )


@final
class _Reader:
    """Reads the places of one architecture's blocks, and notes which it has not."""

    def __init__(self, blocks: Any, model_type: str, n_heads: int, n_kv_heads: int, d_head: int) -> None:
        self._sub: dict[str, Any] = blocks.submodules
        self._attn: dict[str, Any] = self._sub["attn"].submodules
        self._parallel = type(blocks).__name__ == "ParallelBlockBridge"
        self._aliases: dict[str, str] = blocks.hook_aliases or {}
        self._type, self._n_heads, self._n_kv, self._d = model_type, n_heads, n_kv_heads, d_head
        self.lacking: dict[str, str] = {}

    def block(self, whole: nn.Module) -> Block:
        attn = whole.get_submodule(self._sub["attn"].name)
        attn_out, o = self._written(whole, "attn"), attn.get_submodule(self._attn["o"].name)
        places = {
            "resid_pre": Place(whole, "in"),
            "resid_post": Place(whole, "out"),
            "attn_out": Place(attn_out, "out"),
            "mlp_out": Place(self._written(whole, "mlp"), "out"),
            "z": Place(o, "in", partial(_heads, n=self._n_heads)),
            "result": Place(o, "product", partial(_heads, n=self._n_heads)),
            **self._projections(attn),
        }
        if self._parallel:
            self.lacking["resid_mid"] = "attention and MLP are parallel here, nothing stands between them"
        else:
            places["resid_mid"] = Place(attn_out, "sum", block=whole)
        if hasattr(sys.modules[type(attn).__module__], "eager_attention_forward"):
            places["pattern"] = Place(attn, "attention")
        else:
            self.lacking["pattern"] = f"{type(attn).__name__} computes its attention inline, where no hook reaches"
        last = getattr(self._sub["mlp"], "submodules", {}).get("out")
        if last is not None and last.name:
            places["post"] = Place(whole.get_submodule(self._sub["mlp"].name).get_submodule(last.name), "in")
        else:
            self.lacking["post"] = "the MLP has no single last projection (experts?)"
        named = inspect.signature(whole.forward).parameters
        return Block(whole, places, next((n for n in ("past_key_values", "layer_past") if n in named), ""))

    def _written(self, whole: nn.Module, part: str) -> nn.Module:
        """The module whose output is added to the residual stream: a post-norm where there is one."""
        alias = self._aliases.get(f"hook_{part}_out", part)
        return whole.get_submodule(self._sub[alias.removesuffix(".hook_out")].name)

    def _projections(self, attn: nn.Module) -> dict[str, Place]:
        """Queries, keys and values: after the norm on them where there is one, before rotation."""
        sizes = {"q": self._n_heads, "k": self._n_kv, "v": self._n_kv}
        if "qkv" not in self._attn and all(kind in self._attn for kind in sizes):
            places: dict[str, Place] = {}
            for kind, n in sizes.items():
                norm = self._attn.get(f"{kind}_norm")
                first = norm is not None and self._type in _HEADS_FIRST
                module = attn.get_submodule((norm or self._attn[kind]).name)
                places[kind] = Place(module, "out", _heads_first if first else partial(_heads, n=n))
            return places
        if "qkv" not in self._attn or self._type not in (*_CONTIGUOUS, *_INTERLEAVED):
            self.lacking |= dict.fromkeys(sizes, f"the projections of {self._type} are fused in a way not known here")
            return {}
        fused = attn.get_submodule(self._attn["qkv"].name)
        if self._type in _INTERLEAVED:
            return {
                kind: Place(fused, "out", partial(_interleaved, n=self._n_heads, nth=i, of=3))
                for i, kind in enumerate(sizes)
            }
        cut: dict[str, Place] = {}
        start = 0
        for kind, n in sizes.items():
            cut[kind] = Place(fused, "out", partial(_slice, start=start, n=n, size=self._d))
            start += n * self._d
        return cut


def _heads(t: Float[Tensor, ...], *, n: int) -> Float[Tensor, ...]:
    """Flat heads apart; a norm per head has them apart already."""
    return t if t.ndim == 4 else t.unflatten(-1, (n, -1))


def _heads_first(t: Float[Tensor, "row head pos d_head"]) -> Float[Tensor, "row pos head d_head"]:
    return t.transpose(1, 2)


def _slice(t: Float[Tensor, ...], *, start: int, n: int, size: int) -> Float[Tensor, ...]:
    return t[..., start : start + n * size].unflatten(-1, (n, size))


def _interleaved(t: Float[Tensor, ...], *, n: int, nth: int, of: int) -> Float[Tensor, ...]:
    return t.unflatten(-1, (n, of, -1))[..., nth, :]
