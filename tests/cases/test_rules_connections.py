"""The verdict on few connections: each ruling is reached, and only by the numbers."""

from __future__ import annotations

import pytest

from circuits.cases.gemma_refusal.rules import connections as rules

Limits = tuple[float, float, float]
GOOD: Limits = (0.9, 0.85, 0.95)
LITTLE: Limits = (0.1, 0.0, 0.2)


@pytest.mark.parametrize(
    ("held_out", "complement", "share", "ruling"),
    [
        (GOOD, LITTLE, 0.05, "supported"),
        ((0.7, 0.6, 0.79), LITTLE, 0.05, "contradicted"),  # another half of the templates needs other edges
        ((0.8, 0.7, 0.9), LITTLE, 0.05, "undecided"),
        (GOOD, (0.7, 0.6, 0.8), 0.05, "contradicted"),  # the rest does it too
        (GOOD, (0.45, 0.3, 0.6), 0.05, "undecided"),
        (GOOD, LITTLE, 0.3, "contradicted"),  # a third is not few
        (GOOD, LITTLE, 0.1, "contradicted"),  # a tenth is the bound
        ((0.9, float("nan"), float("nan")), LITTLE, 0.05, "undecided"),
        (None, LITTLE, 0.05, "undecided"),
        (None, (0.7, 0.6, 0.8), 0.05, "contradicted"),
    ],
)
def test_each_ruling_is_reached(held_out: Limits | None, complement: Limits, share: float, ruling: str):
    found = rules.sparse("150 by estimate", held_out, complement, share, missing="there is one template")
    assert found.verdict == ruling
    assert (found.hypothesis, found.figure) == (rules.SPARSE, "connections")
    assert f"share of all edges that the circuit has {share:.2f} [" in found.numbers
    assert f"faithfulness of all other edges{' there' if held_out else ''} {complement[0]:.2f} [" in found.numbers
    assert ("no circuit was run on other templates: there is one template" in found.numbers) == (held_out is None)
    assert ("of the 150 by estimate, chosen on other templates," in found.numbers) == (held_out is not None)


def test_what_was_not_measured_or_not_faithful_decides_nothing():
    assert rules.unmeasured("no gap").verdict == "undecided"
    assert "not measured: no gap" in rules.unmeasured("no gap").numbers
    none = rules.none_faithful(57, 405, "0.46 [0.40, 0.52]")
    assert none.verdict == "undecided"
    assert none.numbers == "no circuit of up to 57 of 405 edges is surely 0.8 faithful (the largest: 0.46 [0.40, 0.52])"
