"""Rotation in a plane of the residual stream: what turns with the angle, and what ablation and addition are beside it.

Reading order: edits (angles, cells, prompts), harmonic (the axis of a curve over angles), sweep (metric, refusal and
completions by angle), circle (ablation and addition as points of the plane, at matched displacement), compare (planes
against each other and against random ones, per unit of displacement).
"""

from circuits.measure.rotation.circle import EditsOnCircle, locate_edits
from circuits.measure.rotation.compare import PlaneComparison, compare_planes
from circuits.measure.rotation.harmonic import Harmonic, first_harmonic
from circuits.measure.rotation.sweep import Axis, RotationSweep, complete_at, rotate_sweep

__all__ = [
    "Axis", "EditsOnCircle", "Harmonic", "PlaneComparison", "RotationSweep", "compare_planes", "complete_at", "first_harmonic",
    "locate_edits", "rotate_sweep",
]  # fmt: skip
