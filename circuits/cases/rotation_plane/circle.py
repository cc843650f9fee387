"""The circle in words: over which angles something holds, and whether refusal differs between two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuits.case.condition import HALF, Condition, Side, condition
from circuits.case.wording import told
from circuits.measure.rotation import RotationSweep
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.stats import rate


def arcs(rows: Sequence[Mapping[str, Any]], holds: Callable[[Mapping[str, Any]], bool]) -> str:
    """Where on the circle: `from 300° to 50°`, `at 90°`, `at every angle` or `at no angle`; only of the angles measured."""
    ordered = sorted(rows, key=lambda r: r["angle"] % 360)
    held = [bool(holds(r)) for r in ordered]
    if all(held) or not any(held):
        return "at every angle" if held and held[0] else "at no angle"
    n, found = len(ordered), list[str]()
    for i in range(n):
        if held[i] and not held[i - 1]:
            end = i
            while held[(end + 1) % n]:
                end += 1
            first, last = (f"{ordered[at % n]['angle'] % 360:g}°" for at in (i, end))
            found.append(f"at {first}" if first == last else f"from {first} to {last}")
    return " and ".join(found)


def angles_apart(circle: RotationSweep, label: str) -> list[Condition]:
    """Refusal at the angle that refuses most and at the one that refuses least, on prompts that did not choose them.

    Every other prompt of the label chooses (ties by the metric), the rest are counted; of many angles the extremes differ
    by luck on the prompts that chose them. Intervals are Wilson's. Raises ValueError without completions.
    """
    if circle.refused is None:
        raise ValueError("a sweep without completions has no refusals")
    of = [i for i, name in enumerate(circle.labels) if name == label]
    choosing, counted = of[::2], of[1::2]
    said, value = circle.refused.double(), circle.value.double()
    score = [(float(r), float(m)) for r, m in zip(said[:, choosing].mean(1), value[:, choosing].mean(1), strict=True)]
    ends: tuple[tuple[int, Side], ...] = ((score.index(max(score)), "at least"), (score.index(min(score)), "below"))
    found: list[Condition] = []
    for at, side in ends:
        answers = said[at, counted].numpy()
        limits = rate(answers)
        again = condition(answers, "", side, HALF).share
        name = f"refused at {circle.angles[at]:g}°, of {len(counted)} prompts that did not choose it"
        found.append(Condition(name, limits.estimate, limits.low, limits.high, side, HALF, again))
    return found


def mean_of(values: Float[Tensor, " prompt"], labels: Sequence[str], label: str) -> float:
    """The mean over the prompts with a label."""
    return float(np.mean([float(v) for v, name in zip(values, labels, strict=True) if name == label]))


def first_of_each(prompts: InstructionTokens, n: int) -> set[int]:
    """Places of the first prompts of every label."""
    places: dict[str, list[int]] = {}
    for i, instruction in enumerate(prompts.instructions):
        places.setdefault(instruction.label, []).append(i)
    return {i for of in places.values() for i in of[:n]}


def changed(row: Mapping[str, Any]) -> str:
    """The change of the metric with its interval; `undefined` where no prompt has such an edit."""
    if not row["n"]:
        return "undefined"
    return told({"mean": row["change"], "low": row["low"], "high": row["high"]})
