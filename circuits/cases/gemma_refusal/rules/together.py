"""Do components stand in for each other? The hypothesis about pairs of components noised and denoised together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final

from circuits.case.condition import Condition, Rows, condition, minus
from circuits.report import Verdict
from circuits.report.contents import Ruling

BACKUP: Final = "components back each other up"
STANDS_IN: Final = ("OR", "backup")
"""Labels of a pair in which one does what the other no longer does."""


def unmeasured(reason: str) -> Verdict:
    """A number that does not exist decides nothing."""
    return Verdict(BACKUP, "undecided", minus(f"not measured: {reason}"), "together")


def backs_up(rows: Rows, labels: Mapping[tuple[str, str], str], threshold: float) -> Verdict:
    """At least one pair is labelled OR or backup, and noising both takes more than noising each, by the threshold.

    Contradicted where every pair has a label and none is one of these; undecided where some pair has no label, or none
    of those named keeps its whole interval beyond the threshold. `rows` has the per-pair `interaction` under noising of
    every pair (`a`, `b`) of components.
    """
    named = [pair for pair, label in labels.items() if label in STANDS_IN]
    most = max(named or labels, key=lambda pair: float(rows.per_pair("interaction", a=pair[0], b=pair[1])[0].mean()))
    held = [_both(rows, pair, threshold) for pair in named or [most]]
    ruling: Ruling = "undecided"
    if named and any(c.holds for c in held):
        ruling = "supported"
    elif not named and "undecided" not in labels.values():
        ruling = "contradicted"
    said = ", ".join(f"{n} {label}" for label, n in Counter(labels.values()).most_common())
    largest = held[named.index(most) if named else 0]
    shown = largest.text if math.isfinite(largest.low) else f"{largest.name} {largest.mean:.2f}"
    numbers = f"{said}, of {len(labels)} pairs of components that act alone; largest: {shown}"
    rule = f"a pair labelled {' or '.join(STANDS_IN)} whose interaction under noising is at least {threshold:g}"
    return Verdict(BACKUP, ruling, minus(numbers), "together", rule)


def _both(rows: Rows, pair: tuple[str, str], threshold: float) -> Condition:
    values, clusters = rows.per_pair("interaction", a=pair[0], b=pair[1])
    name = f"{pair[0]} and {pair[1]} noised together, beyond each alone,"
    return condition(values, name, "at least", threshold, clusters=clusters)
