"""The axis of the circle, and what is said at its four points."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from circuits.case.measured import Missing
from circuits.case.study import Study
from circuits.case.wording import number
from circuits.cases.rotation_plane.circle import first_of_each
from circuits.frames import records
from circuits.measure.rotation import RotationSweep, complete_at
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.report import Completion

SHOWN = 4
"""Prompts of each label whose completions the page holds."""


def tell(
    s: Study, args: argparse.Namespace, circle: RotationSweep, prompts: InstructionTokens, rotated: Sequence[int]
) -> None:
    """The first harmonic of the harmful prompts' metric; completions on its axis and across it."""
    title = "The refusal axis and what is across it"
    axis = s.attempt("axis", lambda: circle.axis("harmful", of="metric", seed=args.seed))
    if isinstance(axis, Missing):
        s.missing("axis", title, axis)
        return
    said = complete_at(
        s.model, prompts, circle.plane, axis.compass, layers=rotated, max_new_tokens=args.max_new_tokens
    )
    h = axis.harmonic
    s.tell(
        "axis", title,
        f"The metric of harmful prompts is highest towards {number(h.phase)}° [{number(h.phase_low)}, "
        f"{number(h.phase_high)}]; one turn of the circle explains {100 * h.share:.0f} % of its variance over angles.",
        {}, circle.axes_frame(seed=args.seed),
        read="First harmonic of the curve; the completions at the four compass points stand below.",
        against="A share near zero, or across the axis completions like those on it.",
    )  # fmt: skip
    s.say([
        Completion(r["text"], r["label"], f"{r['point']} ({r['angle']:.0f}°)", r["completion"], bool(r["refused"]))
        for r in records(said) if r["prompt"] in first_of_each(prompts, SHOWN)
    ])  # fmt: skip
