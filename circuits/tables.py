"""What the frames of patching measurements share: whose numbers these are, and what stands at each position.

A position is counted from the end (−1 is the last token), because left padding makes that the same column for all pairs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuits.frames import fraction, long_frame
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.prompts.clusters import template_clusters
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Provenance
from circuits.sites import SiteKind

if TYPE_CHECKING:
    import pandas as pd

KINDS: Final[tuple[SiteKind, SiteKind]] = ("attn_out", "mlp_out")
"""The `kind` axis."""
SIDES: Final = ("clean", "corrupt")
"""The `side` axis."""


def provenance(model: Model, tokens: TokenPairs, metric: Metric | None = None, certificate: str = "") -> Provenance:
    """Where a number comes from: model, precision, prompts (and which of them share a template) and metric."""
    of, n = template_clusters(tokens), tokens.n_pairs
    some = 1 < len(set(of)) < n
    said = f" of {len(set(of))} templates" if some else " of one template" if n > 1 == len(set(of)) else ""
    dropped = f", {len(tokens.dropped)} dropped" if tokens.dropped else ""
    return Provenance(
        model=model.title,
        model_hash=model.hash,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        pairs=f"{n} pairs{said}{dropped} ({tokens.hash})",
        metric="" if metric is None else metric.name,
        clusters=of if some else (),
        certificate=certificate,
    )


def of_instructions(
    model: Model, prompts: InstructionTokens, metric: Metric | None = None, certificate: str = ""
) -> Provenance:
    """The same for prompts without partners: how many of each label. Each counts as a draw of its own."""
    labels = [i.label for i in prompts.instructions]
    counts = ", ".join(f"{labels.count(label)} {label}" for label in dict.fromkeys(labels))
    found = provenance(model, prompts.beside_themselves(), metric, certificate)
    return replace(found, pairs=f"{counts} instructions ({prompts.hash})", clusters=())


def patched_frame(
    axes: dict[str, list[Any]],
    value: Float[Tensor, "pair ..."],
    base: Float[Tensor, " pair"],
    source: Float[Tensor, " pair"],
) -> pd.DataFrame:
    """`axes` (after pair, in the tensor's order) → one row per pair and cell with `value` and `fraction`."""
    v, b, s = (t.double().numpy() for t in (value, base, source))
    return long_frame({"pair": list(range(len(b))), **axes}, {"value": v, "fraction": fraction(v, b, s)})


def positions(tokens: TokenPairs) -> list[int]:
    """Every column, counted from the end."""
    return [p - tokens.n_pos for p in range(tokens.n_pos)]


def with_tokens(frame: pd.DataFrame, tokens: TokenPairs) -> pd.DataFrame:
    """Add `role`, `token` and `template` to a frame with `pair` and `pos`; rows at padding are left out."""
    pair, column = frame["pair"].to_numpy(), frame["pos"].to_numpy() + tokens.n_pos
    roles = np.array([[tokens.role(i, p) for p in range(tokens.n_pos)] for i in range(tokens.n_pairs)])
    text = np.array(tokens.clean_text, dtype=object)
    template = ~tokens.instruction.numpy()
    frame = frame.assign(role=roles[pair, column], token=text[pair, column], template=template[pair, column])
    return frame[frame["role"] != "padding"].reset_index(drop=True)


def position_labels(frame: pd.DataFrame) -> tuple[dict[int, str], list[int]]:
    """Tick label of every position of such a frame, and the positions that hold template tokens in all pairs."""
    labels: dict[int, str] = {}
    muted: list[int] = []
    for at in sorted(set(frame["pos"].tolist())):
        here = frame[frame["pos"] == at]
        tokens = here["token"].unique()
        subject = (here["role"] == "subject").all()
        labels[at] = "‹subject›" if subject else str(tokens[0]) if len(tokens) == 1 else "·"
        if here["template"].all():
            muted.append(at)
    return labels, muted
