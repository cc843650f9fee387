"""What an id says of its component, and where the component stands in the forward pass.

    L8.H7          head 7 of block 8                     L8.resid_pre   the stream entering block 8
    L8.ATTN        what attention adds there             L9.F123        feature 123 read in block 9
    L8.post-norm   what it adds beyond its heads         embed, metric  the two ends
    L9.MLP         what the MLP adds                     L8.H7@subject  a head at one named position

An id is written the same way in every format. A component with a name of its own says the rest in its attributes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from circuits.errors import CircuitError, SiteError
from circuits.graph.scalars import Scalar, called, shorten
from circuits.sites import SiteKind, parse

KINDS: Final[dict[str, str]] = {
    "embed": "the token embedding",
    "residual": "the residual stream at a point of a block (attribute `site`; resid_pre unless said)",
    "head": "one query head's output",
    "attn": "what all heads of a block add",
    "norm": "what attention adds beyond its heads, where a norm after it has another scale than in the base run",
    "mlp": "what the MLP of a block adds",
    "feature": "a direction of a sparse autoencoder or transcoder (attribute `site`; resid_post unless said)",
    "error": "what features leave over of their site, or of an MLP's output (attribute `site`; mlp_out unless said)",
    "metric": "what is measured at the end: the metric, or a logit",
}
"""Kind of node -> what it is."""
Place = tuple[int, int, int, str]
"""Where a node stands in the model's order: (block, step within it, head or feature, id)."""

_SITE_KINDS: Final[dict[SiteKind, str]] = {
    "embed": "embed", "resid_pre": "residual", "resid_mid": "residual", "resid_post": "residual",
    "z": "head", "attn_out": "attn", "mlp_out": "mlp",
}  # fmt: skip
_STEPS: Final = {"resid_pre": 0, "z": 2, "attn_out": 2, "resid_mid": 4, "mlp_out": 6, "resid_post": 8}
"""In the order in which a block computes; a feature of a site comes one step after it. Heads, a post-norm and the attention
that they make up share a step: none reads another."""
_FIXED: Final = {"head": "z", "attn": "attn_out", "norm": "attn_out", "mlp": "mlp_out"}
_DEFAULT: Final = {"residual": "resid_pre", "feature": "resid_post", "error": "mlp_out"}
_OWN: Final = re.compile(r"L(0|[1-9]\d*)\.(?:F(0|[1-9]\d*)|post-norm)", re.ASCII)
"""Ids of components that are no site."""
_LONGEST: Final = 24
"""Longer labels are names of their own: two numbers of nine digits are more than any model has."""
_LAST: Final = 1 << 54  # after every block, whose numbers are at most 2^53


def read(name: str) -> dict[str, Scalar]:
    """What an id says: kind, layer, head or feature, and the position after `@`; else it is a name of its own.

    Only the one spelling counts: `L08.H7` is a name of its own, so that no two ids mean the same head.
    """
    label, _, role = name.partition("@")
    said: dict[str, Scalar] = {"position": role} if role else {}
    if label == "metric":
        return said | {"kind": "metric"}
    if len(label) > _LONGEST:
        return said
    own = _OWN.fullmatch(label)
    if own:
        feature: dict[str, Scalar] = {} if own[2] is None else {"feature": int(own[2])}
        return said | {"kind": "feature" if feature else "norm", "layer": int(own[1])} | feature
    try:
        site = parse(label)
    except SiteError:
        return said
    kind = _SITE_KINDS.get(site.kind)
    if kind is None or site.label != label or (kind == "head" and site.index is None):
        return said
    said["kind"] = kind
    if kind != "embed":
        said["layer"] = site.layer
    if kind == "residual" and site.kind != _DEFAULT[kind]:
        said["site"] = site.kind
    return said if site.index is None else said | {"head": site.index}


def site_of(values: Mapping[str, Scalar]) -> str:
    """The site that a node stands at: its `site` where it has a choice, else that of its kind; "" at the two ends."""
    kind = str(values["kind"])
    return _FIXED.get(kind) or (str(values.get("site", _DEFAULT[kind])) if kind in _DEFAULT else "")


def place(name: str, values: Mapping[str, Scalar]) -> Place:
    """Where a node stands in the model's order. Raises CircuitError for a kind, a layer or a site that is missing."""
    kind = values.get("kind")
    if kind not in KINDS:
        raise CircuitError(
            f"node {called(name)}: kind {shorten(kind)} is none of {', '.join(KINDS)}; give its column `kind`"
        )
    index = int(values.get("head", values.get("feature", -1)))
    if kind in {"embed", "metric"}:
        return (-1 if kind == "embed" else _LAST), 0, index, name
    if "layer" not in values:
        raise CircuitError(f"node {called(name)}: a {kind} needs its column `layer`")
    if kind == "head" and "head" not in values:
        raise CircuitError(f"node {called(name)}: a head needs its column `head`")
    site = site_of(values)
    if site not in _STEPS or ("site" in values and values["site"] != site):
        raise CircuitError(
            f"node {called(name)}: site {shorten(values.get('site'))} is none that a {kind} has; known: {', '.join(_STEPS)}"
        )
    return int(values["layer"]), _STEPS[site] + (kind in {"feature", "error"}), index, name
