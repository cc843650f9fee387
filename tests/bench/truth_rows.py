"""Scores held to the truth, and that as rows of a table: areas with intervals, what is found wrongly, what is missed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from bench.truth_scores import Scored, role

from circuits.stats import Interval, auroc

DRAWS: Final = 2000
NOTHING: Final = "–"


@final
@dataclass(frozen=True)
class Judged:
    """One method against the effect that it measures or estimates."""

    area: Interval | None
    """None where all names have an effect, or none."""
    tied: float
    """The share of its comparisons in which both scores are the same number."""
    wrong: tuple[str, ...]
    """Scored as large, while the effect is not."""
    missed: tuple[str, ...]
    """The effect is large, and the score is not."""


def judged(scored: Scored) -> Judged:
    """By the effects that arithmetic knows."""
    effect = {name: float(np.abs(each).mean()) for name, each in scored.effect.items()}
    size = {name: scored.size[name] for name in effect}
    acting = [name for name in effect if effect[name] > 0]
    area, tied = separation(size, acting)
    large = {name for name in effect if effect[name] >= scored.limit}
    said = {name for name in effect if size[name] >= scored.limit}
    return Judged(area, tied, *(tuple(n for n in effect if n in names) for names in (said - large, large - said)))


def separation(size: Mapping[str, float], true: Collection[str]) -> tuple[Interval | None, float]:
    """How well sizes tell what is in a set from what is not, and the share of comparisons that are ties."""
    inside, outside = ([s for name, s in size.items() if (name in true) is side] for side in (True, False))
    if not inside or not outside:
        return None, 0.0
    tied = float((np.array(inside)[:, None] == np.array(outside)).mean())
    return auroc(inside, outside), tied


def null(names: Collection[str], true: Collection[str], seed: int = 0) -> tuple[float, float, float]:
    """Median area of random scores for these names, and where 95 % of such areas lie."""
    n, m = sum(name in true for name in names), len(names)
    ranks = np.random.default_rng(seed).random((DRAWS, m)).argsort(1).argsort(1)[:, :n]
    areas = (ranks.sum(1) - n * (n - 1) / 2) / (n * (m - n))
    low, middle, high = np.quantile(areas, [0.025, 0.5, 0.975])
    return float(middle), float(low), float(high)


HEAD: Final = ("method", "area: effect", "tied", "large, wrongly", "large, missed")


def row(scored: Scored, sets: Mapping[str, Collection[str]], missing: str) -> tuple[str, ...]:
    """A line of a table: the question of effect, the area of every other set, what of the set `missing` is not large."""
    found, size = judged(scored), scored.size
    areas = [area(separation(size, true)[0]) for true in sets.values()]
    unseen = [name for name in size if name in sets[missing] and size[name] < scored.limit]
    return (
        scored.method, area(found.area), f"{100 * found.tied:.1g} %" if found.tied else "0", listed(found.wrong),
        listed(found.missed), *areas, listed(unseen),
    )  # fmt: skip


def null_row(names: Collection[str], acting: Collection[str], sets: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The same of random scores, which have no limit."""
    areas = ["{:.3f} [{:.3f}, {:.3f}]".format(*null(names, true)) for true in (acting, *sets.values())]
    return (f"random ({DRAWS} draws: median, 95 % of them)", areas[0], "0", NOTHING, NOTHING, *areas[1:], NOTHING)


def area(found: Interval | None) -> str:
    return NOTHING if found is None else f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def listed(names: Iterable[str]) -> str:
    """With their roles."""
    return "; ".join(role(name) for name in names) or "none"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """As Markdown."""
    columns = tuple(head)
    lines = [columns, ["---"] * len(columns), *map(tuple, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
