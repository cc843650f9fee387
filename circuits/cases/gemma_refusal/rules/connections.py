"""Is the circuit sparse? The hypothesis about edges."""

from __future__ import annotations

from typing import Final

from circuits.case.condition import HALF, Condition, verdict
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


def none_faithful(n_edges: int, n_all: int, largest: str) -> Verdict:
    """No circuit of the edges that were measured is surely faithful; one of others may be."""
    said = f"no circuit of up to {n_edges} of {n_all} edges is surely {ENOUGH:g} faithful (the largest: {largest})"
    return Verdict(SPARSE, "undecided", said, SECTION)


def sparse(
    chosen: str, held_out: tuple[float, float, float] | None, complement: tuple[float, float, float], share: float, *,
    missing: str = "",
) -> Verdict:  # fmt: skip
    """A circuit of at most a tenth of the edges, chosen on other prompts, is 80 % faithful; the rest is not half so.

    `chosen` says how many edges were asked for, by what; `share` is what the circuit has of all edges. The others are
    (estimate, low, high) over pairs, in units of faithfulness, of the pairs that no edge was chosen on. Where there are
    none (`missing` says why) the complement is of all pairs, and nothing is supported.
    """
    elsewhere = None if held_out is None else Condition(
        f"faithfulness of the {chosen}, chosen on other templates,", *held_out, "at least", ENOUGH
    )  # fmt: skip
    return verdict(
        SPARSE, SECTION,
        [
            elsewhere,
            Condition(f"faithfulness of all other edges{'' if held_out is None else ' there'}", *complement, "below", HALF),
            Condition("share of all edges that the circuit has", share, share, share, "below", FEW),
        ],
        f"no circuit was run on other templates: {missing}",
    )  # fmt: skip
