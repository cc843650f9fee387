"""Steering: vectors from half of the pairs, added on the other half, beside random vectors of the same length."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Final, Literal

from circuits.case.condition import Condition, condition
from circuits.case.judges import judge_of
from circuits.case.sections import steering
from circuits.case.study import Study
from circuits.case.wording import number
from circuits.cases.gemma2_replication.published import PUBLISHED as P
from circuits.engine import capture
from circuits.linalg import random_directions
from circuits.measure.steering import Steering, additions, steer
from circuits.measure.steering.result import BASELINE
from circuits.prompts import TokenPairs

SIDES: Final[tuple[tuple[Literal["clean", "corrupt"], str, int], ...]] = (
    ("corrupt", "harmless", 1),
    ("clean", "harmful", -1),
)
"""Which prompts are steered, what they are, and which way the metric should go."""
VECTOR: Final = "difference vector"
RANDOM: Final = 3


def steered(
    s: Study, args: argparse.Namespace, scales: Sequence[float], made_of: TokenPairs, others: TokenPairs
) -> None:
    """Both kinds of prompts at every coefficient. Ruled at the size the vector has itself (±1, or the nearest asked for)."""
    layer = s.model.shape.n_layers // 2
    clean, corrupt = (
        capture(s.model, ids, made_of.mask).resid[layer][:, -1] for ids in (made_of.clean, made_of.corrupt)
    )
    difference = (clean - corrupt).mean(0)
    vectors = {VECTOR: difference, "activation vector": clean[0], "activation vector (harmless)": corrupt[0]}
    drawn = random_directions(RANDOM, s.model.shape.d_model, seed=args.seed).to(difference) * difference.norm()
    vectors |= {f"random {n}": v for n, v in enumerate(drawn, start=1)}
    doses = [dose for name, v in vectors.items() for dose in additions({layer: v}, scales, series=name)]
    lengths = ", ".join(
        f"{name} {number(float(v.norm()))}" for name, v in vectors.items() if not name.startswith("random")
    )
    notes = [
        f"Added to every position entering layer {layer}. Lengths: {lengths}; random vectors are as long as the difference.",
        f"Vectors from {made_of.n_pairs} pairs, tried on {others.n_pairs} pairs of other templates.",
        "An activation vector is that of one prompt: most of it is what all prompts share.",
        "Coherence is how likely the unedited model finds the text: a sound answer that it would not give scores low.",
    ]
    judge = judge_of(s.model, s.out, endpoint=False)
    for on, kind, sign in SIDES:
        found = s.measure(f"steering {kind}", partial(
            steer, s.model, others, s.metric, doses, on=on, judge=judge, max_new_tokens=args.max_new_tokens
        ))  # fmt: skip
        s.add(steering.steering(
            found, f"steering-{kind}", f"Steering {kind} prompts", P["steering"], notes=notes,
            values=("metric", "refused", steering.COHERENCE),
        ))  # fmt: skip
        right = [c for c in scales if c * sign > 0]
        if not right:
            continue
        at = min(right, key=lambda c: abs(abs(c) - 1))
        named = {d.series: d.name for d in doses if d.coefficient == at}
        s.say(steering.completions(found, [named[name] for name in list(vectors)[:4]], prompts=3, kind=kind))
        s.rule(f"the difference vector moves the metric of {kind} prompts", f"steering-{kind}", [
            beyond_random_vectors(found, at, sign),
        ])  # fmt: skip
        verb = "refused" if sign > 0 else "answered"
        null = steering.extreme_null(found, at, refused=sign > 0)
        s.rule(f"with it {kind} prompts are {verb}", f"steering-{kind}", [
            steering.refusing(found, BASELINE, f"{verb} without an edit", "below", answered=sign < 0),
            steering.refusing(found, named[VECTOR], f"{verb} at {at:+g}", "at least", answered=sign < 0),
            None if null is None else steering.refusing(
                found, null, f"{verb} with that of {RANDOM} random vectors that does most", "below", answered=sign < 0
            ),
        ])  # fmt: skip


def beyond_random_vectors(found: Steering, at: float, sign: int) -> Condition:
    """By how much the vector moves the metric as wanted beyond the random vector of its length that moves it most."""
    change = sign * (found.metric.double() - found.base.double()[:, None]).numpy()
    place = {series: i for i, (series, c) in enumerate(zip(found.series, found.coefficients, strict=True)) if c == at}
    drawn = [change[:, i] for series, i in place.items() if series.startswith("random")]
    most = max(drawn, key=lambda values: float(values.mean()))
    return condition(
        change[:, place[VECTOR]] - most, f"moved as wanted by {at:+g}, beyond {len(drawn)} random vectors, by", "at least", 0.0,
        clusters=found.clusters,
    )  # fmt: skip
