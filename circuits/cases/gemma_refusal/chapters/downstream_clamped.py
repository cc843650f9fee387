"""What is told of the direction's component clamped: the metric and the completions over a range of it."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from circuits.case.condition import HALF, Rows, minus
from circuits.case.wording import number, told
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import downstream as rules
from circuits.cases.gemma_refusal.setting import Chapter
from circuits.errors import UndefinedError
from circuits.frames import largest, records
from circuits.measure.clamping import Clamping
from circuits.report import Completion, Section
from circuits.stats import mean_interval
from circuits.tables import SIDES

_STEPS: Final = 12
"""Of the range of clamps, about."""
_CHANGE: Final = "change over the range"
_OWN: Final = "own component"
_R2: Final = "R² of the mean curve"
_GAP: Final = "metric, clean − corrupt"


def clamp_range(natural: Float[Tensor, "side pair"]) -> list[float]:
    """Round numbers, 0 among them, from 0 or below the lowest natural component to beyond the highest.

    Raises UndefinedError where all natural components are zero.
    """
    low, high = min(0.0, natural.min().item()), max(0.0, natural.max().item())
    if not high > low:
        raise UndefinedError("no prompt has any component along the direction; choose another layer or direction")
    least = (high - low) / _STEPS
    power = 10.0 ** math.floor(math.log10(least))
    step = power * next(m for m in (1, 2, 3, 5, 10) if m * power >= least * (1 - 1e-9))
    return [round(i * step, 12) for i in range(math.floor(low / step), math.floor(high / step + 1e-9) + 2)]


def clamping(clamped: Clamping, title: str) -> Chapter:
    """The metric and the completions by clamp, with the line through them."""
    table, ends, middle = _clamping_table(clamped), (clamped.clamps[0], clamped.clamps[-1]), _middle(clamped)
    at = {(r["side"], r["what"]): r for r in records(table[table["clamp"].isna()])}
    moved, gaps = at["both", _CHANGE], table[table["what"] == _GAP]
    own = {side: at[side, _OWN] for side in SIDES}
    line = [f"R² {told(at[side, _R2])}" if (side, _R2) in at else "none, being flat," for side in SIDES]
    refuse = {side: _refuse_from(rows) for side, rows in clamped.refusal_frame().groupby("side")}
    claim = (
        f"Clamped from {ends[0]:g} to {ends[1]:g} at the last position entering layer {clamped.layer}, the component changes "
        f"the metric by {told(moved)} (the strongest of {clamped.null_slope.shape[1]} random directions: "
        f"{number(max(abs(moved['null_low']), abs(moved['null_high'])))}), along a line of {line[0]} on clean and {line[1]} on "
        f"corrupt prompts; at least half of the clean prompts are refused {refuse['clean']} and of the corrupt ones "
        f"{refuse['corrupt']}, while their own components are {told(own['clean'])} and {told(own['corrupt'])}."
    )
    below, above = ([told(at[side, f"slope {half} {middle:g}"]) for side in SIDES] for half in ("below", "above"))
    widest = largest(gaps, "mean")
    section = Section(
        "clamping", title, minus(claim),
        {"clamping": clamped.figure(), "clamping-refusals": clamped.refusal_figure()},
        "The component along the direction is set to one value in every prompt; dashed levels are the unclamped metrics. If "
        "the metric read this component alone, both curves would be one. Bands: 95 % intervals over pairs, of rates Wilson's.",
        "A flat curve, or one that random directions, moved as far from each prompt's own component, give as well.",
        PUBLISHED["clamping"], table,
        (
            minus(
                f"What a line hides: per unit the metric changes by {below[0]} below {middle:g} and {above[0]} above on "
                f"clean prompts, by {below[1]} and {above[1]} on corrupt ones."
            ),
            minus(
                f"At equal clamps clean and corrupt prompts differ by up to {told(widest)} (at {widest['clamp']:g}): as far as "
                "they do, the metric reads more than this component."
            ),
            (
                "Each pair's direction is estimated without its fold: no prompt is moved along its own difference. Beyond the "
                "components that occur the model is off its path. Only the last position of the prompt is clamped, also for "
                "the completions."
            ),
            (
                f"{clamped.note[0].upper()}{clamped.note[1:]}. Clamped to its own component, no prompt's metric changes by "
                f"more than {clamped.identity_error:.0e}. {clamped.provenance.certificate}."
            ),
        ),
    )  # fmt: skip
    rows, null = Rows.of(clamped), clamped.null_slope.double().numpy() * (ends[1] - ends[0])
    return Chapter([section], [rules.metric_follows(rows, null), rules.metric_linear(rows)], _completions(clamped))


def _clamping_table(clamped: Clamping) -> pd.DataFrame:
    """The fit and what it rests on, then metric, difference of the sets and refusal rate by clamp."""
    x, half = np.array(clamped.clamps), clamped.clamps.index(_middle(clamped))
    y, natural = clamped.value.double().numpy(), clamped.natural.double().numpy()
    null = clamped.null_slope.double().numpy() * (x[-1] - x[0])
    found: list[dict[str, Any]] = []

    def add(side: str, what: str, per_pair: Any, over: Any = None) -> None:
        mean = mean_interval(per_pair, clamped.clusters)
        by_chance = {} if over is None else {"null_low": over.min(), "null_high": over.max()}
        found.append(
            {"side": side, "what": what, "mean": mean.estimate, "low": mean.low, "high": mean.high, "n": mean.n}
            | by_chance
        )

    add("both", _CHANGE, (y[..., -1] - y[..., 0]).mean(0), null.mean(0))
    for s, side in enumerate(SIDES):
        add(side, _CHANGE, y[s, :, -1] - y[s, :, 0], null[s])
        add(side, "slope of the line", np.polyfit(x, y[s].T, 1)[0])
        for name, a, b in (("below", 0, half), ("above", half, len(x) - 1)):
            add(side, f"slope {name} {x[half]:g}", (y[s, :, b] - y[s, :, a]) / (x[b] - x[a]))
        add(side, _OWN, natural[s])
        r2 = rules.r_squared(Rows.of(clamped), side)
        if r2 is not None:
            found.append({"side": side, "what": _R2, "mean": r2.mean, "low": r2.low, "high": r2.high, "n": y.shape[1]})
    rates = clamped.refusal_frame().rename(columns={"rate": "mean"})
    parts = (
        pd.DataFrame(found), clamped.curve_frame().assign(what="metric"), clamped.gap_frame().assign(side="both", what=_GAP),
        rates.assign(what="refusal rate", n=y.shape[1]),
    )  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    return table[["side", "what", "clamp", "mean", "low", "high", "null_low", "null_high", "n"]]


def _middle(clamped: Clamping) -> float:
    """The clamp in the middle of the range."""
    return clamped.clamps[len(clamped.clamps) // 2]


def _refuse_from(rates: pd.DataFrame) -> str:
    """Where at least half of the completions refuse, in words."""
    refused = rates["rate"] >= HALF
    at = rates.loc[refused, "clamp"].tolist()
    if not at:
        return "at no clamp"
    if refused.all():
        return "at every clamp"
    held = rates.loc[rates["clamp"].between(at[0], at[-1]), "rate"] >= HALF
    if not held.all():
        return f"at {len(at)} of {len(rates)} clamps between {at[0]:g} and {at[-1]:g}"
    return f"from {at[0]:g} on" if at[-1] == rates["clamp"].max() else f"from {at[0]:g} to {at[-1]:g}"


def _completions(clamped: Clamping) -> list[Completion]:
    """At the clamps nearest to the corrupt prompts' own component, to the clean ones', and between: a page holds few."""
    clean, corrupt = clamped.natural.mean(1).tolist()
    wanted = (corrupt, (clean + corrupt) / 2, clean)
    shown = {min(clamped.complete_at, key=lambda clamp: abs(clamp - own)) for own in wanted}
    frame = clamped.completion_frame()
    return [
        Completion(r["prompt"], r["side"], minus(f"clamped at {r['clamp']:g}"), r["completion"], bool(r["refused"]))
        for r in records(frame[frame["clamp"].isin(shown)])
    ]
