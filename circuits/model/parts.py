"""Where each site lives in the module tree of a Hugging Face model.

transformer-lens knows, for every architecture, which submodule is the attention, the MLP, their post-norms and the
output projection. This file reads that map once and turns a `Site` into (module, which side of it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

from torch import nn

from circuits.errors import ModelError, SiteError
from circuits.sites import Site

Side = Literal["in", "out", "weights"]
"""`in`: the module's first input; `out`: its (first) output; `weights`: the attention weights it returns."""


@final
@dataclass(frozen=True, eq=False)
class Block:
    """The modules of one block. `attn_out` and `mlp_out` are those whose output is added to the residual stream."""

    whole: nn.Module
    attn: nn.Module
    attn_o: nn.Module
    attn_out: nn.Module
    mlp: nn.Module
    mlp_out: nn.Module
    ln2: nn.Module | None


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """The modules of a decoder-only transformer that a site can name."""

    embed: nn.Module
    blocks: tuple[Block, ...]
    ln_final: nn.Module
    unembed: nn.Module

    def locate(self, site: Site) -> tuple[nn.Module, Side]:
        """The module of a site and the side of it. Raises SiteError for a layer or site this model lacks."""
        if site.kind == "embed":
            return self.embed, "out"
        if not 0 <= site.layer < len(self.blocks):
            raise SiteError(f"{site.label}: this model has layers 0 to {len(self.blocks) - 1}")
        block = self.blocks[site.layer]
        places: dict[str, tuple[nn.Module | None, Side]] = {
            "resid_pre": (block.whole, "in"),
            "resid_mid": (block.ln2, "in"),
            "resid_post": (block.whole, "out"),
            "attn_out": (block.attn_out, "out"),
            "mlp_out": (block.mlp_out, "out"),
            "z": (block.attn_o, "in"),
            "pattern": (block.attn, "weights"),
        }
        module, side = places[site.kind]
        if module is None:
            raise SiteError(f"{site.label}: attention and MLP are parallel here, there is no resid_mid")
        return module, side


def read_parts(hf: nn.Module, mapping: Any) -> Parts:
    """Resolve transformer-lens' component mapping against the modules of `hf`.

    Raises ModelError naming what is missing for architectures without the attention-and-MLP blocks needed here.
    """
    missing = [part for part in ("embed", "blocks", "ln_final", "unembed") if part not in mapping]
    if missing:
        raise ModelError(f"{type(hf).__name__} has no {', '.join(missing)}: not a decoder-only transformer")
    names = {key: bridge.name for key, bridge in mapping["blocks"].submodules.items()}
    lacking = [part for part in ("attn", "mlp") if part not in names]
    if lacking:
        raise ModelError(
            f"the blocks of {type(hf).__name__} have no {' and no '.join(lacking)} to hook (they have: "
            f"{', '.join(names) or 'nothing known'}); this toolkit needs attention-and-MLP transformers"
        )
    o_name = mapping["blocks"].submodules["attn"].submodules["o"].name
    listed = hf.get_submodule(mapping["blocks"].name)
    return Parts(
        embed=hf.get_submodule(mapping["embed"].name),
        blocks=tuple(_block(whole, names, o_name) for whole in listed.children()),
        ln_final=hf.get_submodule(mapping["ln_final"].name),
        unembed=hf.get_submodule(mapping["unembed"].name),
    )


def _block(whole: nn.Module, names: dict[str, str], o_name: str) -> Block:
    attn, mlp = whole.get_submodule(names["attn"]), whole.get_submodule(names["mlp"])
    return Block(
        whole=whole,
        attn=attn,
        attn_o=attn.get_submodule(o_name),
        attn_out=whole.get_submodule(names["ln1_post"]) if "ln1_post" in names else attn,
        mlp=mlp,
        mlp_out=whole.get_submodule(names["ln2_post"]) if "ln2_post" in names else mlp,
        ln2=whole.get_submodule(names["ln2"]) if "ln2" in names else None,
    )
