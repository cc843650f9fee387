"""The planted circuit as arithmetic on one number per component: no attention, no norm, no tensor.

What a component gives can be replaced (`nodes`), and so can what one component takes from another (`edges`). The models
are held to these numbers, so they share nothing with the code that makes their weights but its gains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from circuits.organisms.planted import circuit as c

Numbers = NDArray[np.float64]
"""One number per pair."""
_OF_SUBJECT: Final = (
    "previous token", "and first", "or first", "direct first", "and second", "or second", "direct second", "decoy",
)  # fmt: skip
"""Each gives the x that it finds at the subject."""
Outputs = dict[str, Numbers]
"""Role -> what it gives: x or what became of it, for the gates what they add to the metric."""


def ideal(
    raw: Any, *, nodes: Mapping[str, Numbers] | None = None, edges: Mapping[tuple[str, str], Numbers] | None = None,
    softcap: float | None = None,
) -> Outputs:  # fmt: skip
    """Everything the circuit computes from the subjects' `raw`; `metric` is answer − wrong.

    `nodes`: role -> what it gives instead. `edges`: (sender, receiver) -> what this receiver takes from it instead; the
    receiver `metric` is the unembedding.
    """
    given: Outputs = {}
    replaced, taken = nodes or {}, edges or {}

    def give(role: str, value: Numbers) -> None:
        given[role] = np.broadcast_to(replaced.get(role, value), value.shape)

    def take(sender: str, receiver: str) -> Numbers:
        return taken.get((sender, receiver), given[sender])

    given["embedding"] = np.asarray(raw, float)
    give("enricher", np.maximum(take("embedding", "enricher"), 0.0))
    for role in _OF_SUBJECT:
        give(role, take("enricher", role))
    give("mover", take("previous token", "mover"))
    give("negative", take("mover", "negative"))
    give("backup", np.where(take("mover", "backup") < c.BACKUP_BELOW, take("enricher", "backup"), 0.0))
    both = take("and first", "gates") + take("and second", "gates")
    either = c.OR_SLOPE * (take("or first", "gates") + take("or second", "gates"))
    give("gates", c.AND * np.maximum(both - c.AND_ABOVE, 0.0) + c.OR * np.clip(either - c.OR_FROM, 0.0, 1.0))
    m = (
        c.MOVED * take("mover", "metric") - c.NEGATIVE * take("negative", "metric") + c.BACKUP * take("backup", "metric")
        + c.DIRECT[0] * take("direct first", "metric") + c.DIRECT[1] * take("direct second", "metric")
        + take("gates", "metric")
    )  # fmt: skip
    given["metric"] = m if softcap is None else 2 * softcap * np.tanh(m / 2 / softcap)
    return given
