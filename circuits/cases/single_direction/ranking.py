"""Which dose is best, which are as good, and what it does on the prompts of one sweep."""

from __future__ import annotations

from collections.abc import Sequence

from circuits.case.sections.steering import COHERENCE, extreme_null, rate
from circuits.case.wording import number
from circuits.errors import UndefinedError
from circuits.frames import records
from circuits.measure.steering import Steering
from circuits.measure.steering.result import BASELINE


def usable(swept: Steering) -> tuple[list[str], list[str]]:
    """The scores that some dose has, to rank by; and those that a judge gave to no completion at all.

    `nll` is left out: it is `coherence` on another scale, and lower where that is higher.
    """
    named = [name for name in swept.scores if not name.endswith("nll")]
    given = [name for name in named if bool(swept.score[:, :, swept.scores.index(name)].isfinite().any())]
    return given, [name for name in named if name not in given]


def best_doses(swept: Steering, by: Sequence[str]) -> list[str]:
    """The directions' doses with the highest sum of scores: the first, then those exactly as good; random ones never.

    Raises UndefinedError where no dose has all of these scores.
    """
    table = swept.ranked(*by)
    table = table[table["layer"].notna() & table["total"].notna()]
    if table.empty:
        raise UndefinedError("no dose has a score: the judge gave none\nsee `missing` for why")
    total = table["total"].to_numpy(float)
    return [str(dose) for dose in table["dose"][total >= total[0] - 1e-9]]


def told_on(found: Steering, best: str, *, among: int = 0, ties: Sequence[str] = ()) -> str:
    """What the best dose does, beside no edit and the random directions of the same strength; `among` how many it is best."""
    rows = {str(r["dose"]): r for r in records(found.to_summary())}
    mine, none = rows[best], rows[BASELINE]
    null = extreme_null(found, mine["coefficient"], refused=False)
    random = (
        "" if null is None else f"; under the random direction of that strength that changes most {rate(rows[null])}"
    )
    chosen = f"Best of {among}: {best}" if among else f"With the {best},"
    beside = f" (exactly as good: {', '.join(ties)})." if ties else "." if among else ""
    return (
        f"{chosen}{beside} {rate(mine)} of {len(found.prompts)} harmful prompts are refused (no edit {rate(none)}{random}), "
        f"coherence {number(mine[COHERENCE])} (no edit {number(none[COHERENCE])})."
    )
