"""Where an activation lives.

    Site("resid_pre", 8)     the residual stream entering block 8       "L8.resid_pre"
    Site("attn_out", 8)      what attention adds to it                  "L8.ATTN"
    Site("mlp_out", 8)       what the MLP adds to it                    "L8.MLP"
    head(9, 6)               head 6 of block 9, its z                   "L9.H6"

A site has one spelling a person can say (`label`, read back by `parse`) and one hook name as
transformer-lens spells it (`hook_name`). On post-norm models `attn_out` and `mlp_out` are what is added to the
residual stream: after the post-norm, so that pre + attn + mlp = post.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, final

from circuits.errors import SiteError

SiteKind = Literal["embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "pattern"]

HOOK_NAMES: Final[dict[SiteKind, str]] = {
    "embed": "hook_embed",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_mid": "blocks.{layer}.hook_resid_mid",
    "resid_post": "blocks.{layer}.hook_resid_post",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "z": "blocks.{layer}.attn.hook_z",
    "pattern": "blocks.{layer}.attn.hook_pattern",
}
_SHORT: Final[dict[str, SiteKind]] = {"ATTN": "attn_out", "MLP": "mlp_out"}
_LABEL = re.compile(r"^L(?P<layer>\d+)\.(?:H(?P<head>\d+)|(?P<kind>\w+))$")


@final
@dataclass(frozen=True, order=True)
class Site:
    """One activation of the model; `head` is set only for one head of `z` or `pattern`."""

    kind: SiteKind
    layer: int = 0
    head: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in HOOK_NAMES:
            raise SiteError(f"unknown site {self.kind!r}; known: {', '.join(HOOK_NAMES)}")
        if self.head is not None and self.kind not in ("z", "pattern"):
            raise SiteError(f"{self.kind} has no heads; use head({self.layer}, {self.head}) for a head's z")

    @property
    def hook_name(self) -> str:
        """The name of the whole tensor in transformer-lens (all heads of it, for a head)."""
        return HOOK_NAMES[self.kind].format(layer=self.layer)

    @property
    def whole(self) -> Site:
        """The same activation with all its heads."""
        return self if self.head is None else Site(self.kind, self.layer)

    @property
    def label(self) -> str:
        """How a person says it: `L9.H6`, `L9.MLP`, `L8.resid_pre`, `embed`."""
        if self.kind == "embed":
            return "embed"
        if self.kind == "z" and self.head is not None:
            return f"L{self.layer}.H{self.head}"
        short = {kind: name for name, kind in _SHORT.items()}.get(self.kind, self.kind)
        return f"L{self.layer}.{short}" + ("" if self.head is None else f"[{self.head}]")


def head(layer: int, index: int) -> Site:
    """Head `index` of block `layer`, where its weighted values leave the attention (z, before W_O)."""
    return Site("z", layer, index)


def parse(label: str) -> Site:
    """Read `Site.label` back. Raises SiteError on anything else."""
    if label == "embed":
        return Site("embed")
    match = _LABEL.match(label)
    if match is None:
        raise SiteError(f"{label!r} is not a site; write L9.H6, L9.MLP, L9.ATTN or L9.resid_pre")
    layer = int(match["layer"])
    if match["head"] is not None:
        return head(layer, int(match["head"]))
    kind = _SHORT.get(match["kind"], match["kind"])
    for known in HOOK_NAMES:
        if known == kind:
            return Site(known, layer)
    raise SiteError(f"{label!r}: unknown site {match['kind']!r}; known: {', '.join(HOOK_NAMES)}")
