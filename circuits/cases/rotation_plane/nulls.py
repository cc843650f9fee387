"""What an edit and a plane do beyond random ones: the fair ones, as far displaced or through the same first axis."""

from __future__ import annotations

from collections.abc import Sequence

from circuits.case.condition import Condition, condition
from circuits.measure.rotation import EditsOnCircle, PlaneComparison


def beyond_shifts(edits: EditsOnCircle) -> Condition:
    """By how much ablation moves the metric, either way, beyond the random shift of its displacement that moves it most."""
    change = (edits.value - edits.base).double()
    drawn = [change[i] for i, name in enumerate(edits.names) if name.startswith("random shift")]
    own = change[edits.names.index("ablation")]
    sign = 1.0 if float(own.mean()) >= 0 else -1.0
    most = max(drawn, key=lambda values: sign * float(values.mean()))
    name = f"further than the furthest of {len(drawn)} by"
    return condition((sign * (own - most)).numpy(), name, "at least", 0.0, clusters=edits.clusters)


def beyond_second_axes(compared: PlaneComparison, plane: str, second: Sequence[str]) -> Condition:
    """Movement per unit of a plane, less that of the best of the planes with the same first axis and a random second one.

    A plane through the best candidate moves the metric by that alone; only this tells what its second axis adds.
    """
    movement = compared.movement
    drawn = [movement[compared.names.index(name)] for name in second]
    best = max(drawn, key=lambda values: float(values.nanmean()))
    gap = (movement[compared.names.index(plane)] - best).numpy()
    return condition(gap, f"per unit beyond the best of {len(drawn)} by", "at least", 0.0, clusters=compared.clusters)
