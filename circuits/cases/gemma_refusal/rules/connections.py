"""Is the circuit sparse? The hypothesis about edges."""

from __future__ import annotations

from typing import Final

from circuits.cases.gemma_refusal.rules.condition import HALF, Condition, verdict
from circuits.report import Verdict

SPARSE: Final = "few connections carry the metric"
SECTION: Final = "connections"
ENOUGH: Final = 0.8
"""Faithfulness that a circuit must surely have."""
FEW: Final = 0.1
"""Share of all edges that is still few."""


def unmeasured(reason: str) -> Verdict:
    """A number that does not exist decides nothing."""
    return Verdict(SPARSE, "undecided", f"not measured: {reason}", SECTION)


def sparse(
    chosen: str, held_out: tuple[float, float, float] | None, complement: tuple[float, float, float], share: float
) -> Verdict:
    """A circuit of at most a tenth of the edges, chosen on other prompts, is 80 % faithful; the rest is not half so.

    `chosen` says how many edges were asked for, by what; `share` is what the circuit has of all edges. The others are
    (estimate, low, high) over pairs, in units of faithfulness.
    """
    elsewhere = None if held_out is None else Condition(
        f"faithfulness of the {chosen}, chosen on other templates,", *held_out, "at least", ENOUGH
    )  # fmt: skip
    return verdict(
        SPARSE, SECTION,
        [
            elsewhere,
            Condition("faithfulness of all other edges", *complement, "below", HALF),
            Condition("share of all edges that the circuit has", share, share, share, "below", FEW),
        ],
        "there is no second template to choose a circuit on",
    )  # fmt: skip
