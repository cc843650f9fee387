"""Heads picked one by one, patched together: on other pairs than those that picked them, and beside heads drawn from all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from circuits.case.condition import HALF, Condition, Rows, condition, pick
from circuits.case.sections import patching
from circuits.case.study import Study
from circuits.case.wording import number
from circuits.cases.gemma2_replication.published import PUBLISHED as P
from circuits.engine.sweep import Direction
from circuits.measure.head_sets import HeadSetPatching, patch_head_sets
from circuits.measure.heads import HeadPatching
from circuits.prompts import TokenPairs
from circuits.sites import head

CHOSEN = "above the threshold"
DRAWS = 10
"""Random sets, each of as many heads."""
BOTH: tuple[tuple[Direction, str], ...] = (("denoise", "sufficient"), ("noise", "necessary"))


def together(
    s: Study, single: HeadPatching, chosen_on: TokenPairs, others: TokenPairs, *, threshold: float, seed: int
) -> None:
    """Choose by the mean effect on some pairs, test on the others.

    The null is sets of as many heads from all heads. Drawn from those that were not chosen it would hold only heads that do
    nothing by themselves, and any choice would look good.
    """
    frame = single.to_frame()
    mean = (
        frame[frame["pair"].isin(_places(s.tokens, chosen_on))]
        .groupby(["layer", "head"], sort=False)["fraction"]
        .mean()
    )
    over = {(int(layer), int(h)): effect for (layer, h), effect in mean.items() if abs(effect) >= threshold}  # pyright: ignore[reportGeneralTypeIssues]
    if not over:
        s.tell(
            "head-sets", "The chosen heads together: sufficient? necessary?",
            f"No head alone moves the metric by {threshold:g} of the gap: there is nothing to test together.", {}, None,
            read="", against="",
        )  # fmt: skip
        return
    every = [(layer, h) for layer in range(s.model.shape.n_layers) for h in range(s.model.shape.n_heads)]
    rng = random.Random(seed)  # noqa: S311  not for secrets
    names = [f"random #{i}" for i in range(DRAWS)] if len(over) < len(every) else []
    drawn = {name: [head(*place) for place in sorted(rng.sample(every, len(over)))] for name in names}
    sets = {CHOSEN: [head(*place) for place in over]} | drawn

    def patched() -> dict[Direction, HeadSetPatching]:
        knobs: dict[str, Any] = {"sets": sets, "positions": "last", "null_draws": 0, "seed": seed}
        return {d: patch_head_sets(s.model, others, s.metric, direction=d, **knobs) for d, _ in BOTH}

    found = s.measure("together", patched)
    against = sum(effect < 0 for effect in over.values())
    s.add(patching.head_sets(
        found, P["head-sets"], title="The chosen heads together: sufficient? necessary?", only=(CHOSEN,),
        chosen=f"{len(over)} of {len(every)} heads move the metric by {threshold:g} of the gap or more when denoised alone, "
        f"{against} of them the other way. Chosen on {chosen_on.n_pairs} pairs, tested on {others.n_pairs} of other templates.",
        notes=tuple(_null_line(found[d], how, names) for d, how in BOTH),
    ))  # fmt: skip
    for d, how in BOTH:
        rows = Rows.of(found[d])
        s.rule(f"heads chosen one by one are {how} together", "head-sets", [
            pick(rows, f"{len(over)} heads {d[:-1]}ed", "at least", HALF, set=CHOSEN), beyond_random_sets(rows, names),
        ], "every head was chosen: there is no other set of as many")  # fmt: skip


def _places(every: TokenPairs, some: TokenPairs) -> list[int]:
    """Where pairs stand among all."""
    row = {tuple(ids.tolist()): i for i, ids in enumerate(every.clean)}
    return [row[tuple(ids.tolist())] for ids in some.clean]


def beyond_random_sets(rows: Rows, names: Sequence[str]) -> Condition | None:
    """By how much the set passes the random set that does most; None where there is none."""
    if not names:
        return None
    own, clusters = rows.per_pair("fraction", set=CHOSEN)
    drawn = [rows.per_pair("fraction", set=name)[0] for name in names]
    best = max(drawn, key=lambda values: float(np.mean(values)))
    return condition(
        own - best, f"more than the best of {len(names)} random sets by", "at least", 0.0, clusters=clusters
    )


def _null_line(found: HeadSetPatching, how: str, names: Sequence[str]) -> str:
    """What the random sets do, in one line."""
    frame = found.to_frame()
    means = frame[frame["set"].isin(list(names))].groupby("set")["fraction"].mean()
    if not len(means):
        return f"Every head was chosen: no random set tells whether these are {how}."
    return (
        f"{len(means)} random sets of as many heads, from all heads, {found.direction[:-1]}ed: {number(means.mean())} on "
        f"average, {number(means.max())} at most."
    )
