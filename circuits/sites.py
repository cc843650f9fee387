"""Where an activation lives.

    Site("resid_pre", 8)     the residual stream entering block 8         "L8.resid_pre"
    Site("attn_out", 8)      what attention adds to it                    "L8.ATTN"
    Site("mlp_out", 8)       what the MLP adds to it                      "L8.MLP"
    head(9, 6)               head 6 of block 9, its z                     "L9.H6"
    Site("k", 9, 0)          keys of key-value head 0 of block 9          "L9.k[0]"
    Site("pattern", 9, 6)    attention weights of head 6                  "L9.pattern[6]"
    neuron(3, 127)           one neuron, after its activation function    "L3.N127"

A site has one spelling a person can say (`label`, read back by `parse`) and one hook name as
transformer-lens spells it (`hook_name`). On post-norm models `attn_out` and `mlp_out` are what is added to the
residual stream: after the post-norm, so that pre + attn + mlp = post. `q` and `k` are what is rotated: after the
norm on them where there is one. `result` is a head's own product z W_O; `post` what enters the MLP's last projection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, final

from circuits.errors import SiteError

SiteKind = Literal[
    "embed", "resid_pre", "q", "k", "v", "pattern", "z", "result", "attn_out", "resid_mid", "post", "mlp_out",
    "resid_post",
]  # fmt: skip

HOOK_NAMES: Final[dict[SiteKind, str]] = {
    "embed": "hook_embed",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "q": "blocks.{layer}.attn.hook_q",
    "k": "blocks.{layer}.attn.hook_k",
    "v": "blocks.{layer}.attn.hook_v",
    "pattern": "blocks.{layer}.attn.hook_pattern",
    "z": "blocks.{layer}.attn.hook_z",
    "result": "blocks.{layer}.attn.hook_result",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "resid_mid": "blocks.{layer}.hook_resid_mid",
    "post": "blocks.{layer}.mlp.hook_post",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "resid_post": "blocks.{layer}.hook_resid_post",
}
"""In the order of the forward pass, which is the order in which edits of one block act."""
ORDER: Final[dict[str, int]] = {kind: i for i, kind in enumerate(HOOK_NAMES)}
HEADED: Final[frozenset[str]] = frozenset(("q", "k", "v", "pattern", "z", "result"))
"""Sites with an axis of heads: key-value heads for k and v."""
_SHORT: Final[dict[str, SiteKind]] = {"ATTN": "attn_out", "MLP": "mlp_out"}
_LETTERS: Final[dict[str, SiteKind]] = {"H": "z", "N": "post"}
_LABEL = re.compile(r"^L(?P<layer>\d+)\.(?:(?P<letter>[HN])(?P<number>\d+)|(?P<kind>\w+?)(?:\[(?P<index>\d+)\])?)$")


@final
@dataclass(frozen=True, order=True)
class Site:
    """One activation of the model; `index` names one head of it (one neuron of `post`), None all of them."""

    kind: SiteKind
    layer: int = 0
    index: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in HOOK_NAMES:
            raise SiteError(f"unknown site {self.kind!r}; known: {', '.join(HOOK_NAMES)}")
        if self.kind == "embed" and self.layer:
            raise SiteError(f"the embedding is in no layer, {self.layer} was given; write Site('embed')")
        if self.index is not None and not (self.has_heads or self.kind == "post"):
            raise SiteError(f"{self.kind} has no heads; use head({self.layer}, {self.index}) for a head's z")

    @property
    def has_heads(self) -> bool:
        """Whether the activation has an axis of heads."""
        return self.kind in HEADED

    @property
    def hook_name(self) -> str:
        """The name of the whole tensor in transformer-lens (all heads of it, for a head)."""
        return HOOK_NAMES[self.kind].format(layer=self.layer)

    @property
    def whole(self) -> Site:
        """The same activation with all its heads or neurons."""
        return self if self.index is None else Site(self.kind, self.layer)

    @property
    def label(self) -> str:
        """How a person says it: `L9.H6`, `L9.MLP`, `L8.resid_pre`, `L9.k[0]`, `embed`."""
        if self.kind == "embed":
            return "embed"
        if self.index is not None and self.kind in _LETTERS.values():
            return f"L{self.layer}.{_spelled(_LETTERS, self.kind)}{self.index}"
        return f"L{self.layer}.{_spelled(_SHORT, self.kind)}" + ("" if self.index is None else f"[{self.index}]")


def _spelled(names: dict[str, SiteKind], kind: SiteKind) -> str:
    return {kind: name for name, kind in names.items()}.get(kind, kind)


def head(layer: int, index: int) -> Site:
    """Head `index` of block `layer`, where its weighted values leave the attention (z, before W_O)."""
    return Site("z", layer, index)


def neuron(layer: int, index: int) -> Site:
    """Neuron `index` of the MLP of block `layer`, after its activation function (and gate)."""
    return Site("post", layer, index)


LONGEST = 64
"""Characters of a label: two numbers of nine digits are more than any model has."""


def parse(label: str) -> Site:
    """Read `Site.label` back. Raises SiteError on anything else."""
    if label == "embed":
        return Site("embed")
    match = _LABEL.match(label) if len(label) <= LONGEST else None
    if match is None:
        raise SiteError(f"{label[:LONGEST]!r} is not a site; write L9.H6, L9.MLP, L9.ATTN, L9.k[0] or L9.resid_pre")
    layer = int(match["layer"])
    if match["letter"] is not None:
        return Site(_LETTERS[match["letter"]], layer, int(match["number"]))
    kind = _SHORT.get(match["kind"], match["kind"])
    for known in HOOK_NAMES:
        if known == kind and known != "embed":
            return Site(known, layer, None if match["index"] is None else int(match["index"]))
    raise SiteError(f"{label!r}: unknown site {match['kind']!r}; known: {', '.join(HOOK_NAMES)}")
