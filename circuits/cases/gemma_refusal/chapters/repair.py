"""Does the model write an ablated direction back? And, in `repair_identity`: who makes up for a component that is lost.

What is there again is not repaired: later blocks write along many directions anyway. Both are told, beside what random
directions do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final

import pandas as pd
import plotly.graph_objects as go

from circuits.case.condition import Rows, minus
from circuits.cases.gemma_refusal.chapters import repair_identity
from circuits.cases.gemma_refusal.chapters.repair_identity import estimate
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import repair as rules
from circuits.cases.gemma_refusal.setting import Chapter, Missing, Setting
from circuits.draw import lines
from circuits.engine.sweep import Direction
from circuits.errors import UndefinedError
from circuits.frames import records, summary
from circuits.measure.blocks import BlockPatching
from circuits.measure.directions import DirectionChoice
from circuits.measure.heads import HeadPatching
from circuits.measure.repair_identity import RepairIdentity
from circuits.measure.self_repair import SelfRepair, Value, self_repair
from circuits.report import Section, Verdict

Where = Literal["last", "all"]

STEPS: Final = 2
NULL_DRAWS: Final[Mapping[Where, int]] = {"last": 6, "all": 2}
"""Where the direction is ablated -> how many random ones are too. Each costs what the direction itself does."""
_TITLE: Final = "Self-repair: does the direction come back?"
_SAID: Final[Mapping[Value, str]] = {
    "recovered": "recovered, of the intact component", "repaired": "repaired, of what was removed",
}  # fmt: skip
_RANGE: Final = {"null_low": 0.025, "null_median": 0.5, "null_high": 0.975}


@final
@dataclass(frozen=True, eq=False)
class Found:
    """The direction after one ablation, by where it was ablated; noised components taken apart, by why they were chosen."""

    direction: Mapping[Where, SelfRepair] | Missing
    parts: Mapping[str, RepairIdentity] | Missing


@final
@dataclass(frozen=True, eq=False)
class _Told:
    """One set of positions: both shares by cell, and the share repaired in the end as one number per pair."""

    result: SelfRepair
    tables: Mapping[Value, pd.DataFrame]
    over: pd.DataFrame
    """Of the clean prompts, one row per pair: `repaired`, mean over the layers entered."""
    null: list[float]
    """Mean over pairs of the same, of every random direction that has one."""


def measure(
    s: Setting, chosen: DirectionChoice | Missing, heads: Mapping[Direction, HeadPatching],
    blocks: Mapping[Direction, BlockPatching],
) -> Found:  # fmt: skip
    """The direction ablated once and read later, and the components with the largest noising effects taken apart."""
    direction = chosen if isinstance(chosen, Missing) else _ablated(s, chosen)
    return Found(direction, repair_identity.measure(s, heads["noise"], blocks["noise"]))


def tell(s: Setting, found: Found) -> Chapter:
    """Whether the direction is written back, and whether later components make up for a lost one."""
    del s
    if isinstance(found.direction, Missing):
        section = found.direction.section("self-repair", _TITLE, PUBLISHED["self-repair"])
        ruling = rules.unmeasured("self-repair", found.direction.reason)
    else:
        section, ruling = _section(found.direction)
    apart, ruling_apart = repair_identity.tell(found.parts)
    return Chapter([section, apart], [ruling, ruling_apart])


def _ablated(s: Setting, chosen: DirectionChoice) -> Mapping[Where, SelfRepair] | Missing:
    def both() -> dict[Where, SelfRepair]:
        found: dict[Where, SelfRepair] = {
            where: self_repair(s.model, s.tokens, chosen.held_out, positions=where, null_draws=draws, seed=s.seed)
            for where, draws in NULL_DRAWS.items()
        }
        if any(result.to_frame()[value].isna().all() for result in found.values() for value in _SAID):
            raise UndefinedError("the direction's component is too small at every layer for a share of it")
        return found

    def line(found: Mapping[Where, SelfRepair]) -> str:
        mean = _over_layers(found["last"])["repaired"].mean()
        return minus(f"{mean:.2f} of the loss made up") if math.isfinite(mean) else "too little removed"

    return s.attempt("self-repair", both, line)


def _over_layers(result: SelfRepair) -> pd.DataFrame:
    frame = result.to_frame()
    final = frame[(frame["read_layer"] == result.intact.shape[2] - 1) & (frame["side"] == "clean")]
    return pd.DataFrame({"repaired": final.groupby("pair")["repaired"].mean()}).reset_index()


def _random(result: SelfRepair) -> list[float]:
    none = {"null_intact": result.null_intact[:0], "null_ablated": result.null_ablated[:0]}
    drawn = zip(result.null_intact, result.null_ablated, strict=True)
    means = [float(_over_layers(replace(result, intact=i, ablated=a, **none))["repaired"].mean()) for i, a in drawn]
    return [mean for mean in means if math.isfinite(mean)]


def _section(found: Mapping[Where, SelfRepair]) -> tuple[Section, Verdict]:
    places: dict[Where, _Told] = {
        where: _Told(one, {value: one.to_summary(value) for value in _SAID}, _over_layers(one), _random(one))
        for where, one in found.items()
    }
    last, everywhere = places["last"], places["all"]
    table = _table(places)
    over = {r["positions"]: r for r in records(table[table["ablated_layer"] == "mean"])}
    shares = {where: _beside(over.get(where), "null_low", "null_high") for where in places}
    at = {r["ablated_layer"]: r for r in records(_final(last.tables["recovered"]))}
    top = last.result.ablated.shape[2] - 1
    ends = " and ".join(f"{_beside(at.get(layer), 'null_median')} entering layer {layer}" for layer in sorted({0, top}))
    undefined = int(_final(last.tables["repaired"])["undefined"].sum())
    section = Section(
        "self-repair", _TITLE,
        f"Ablated once at the last position of the clean prompts, the direction's component in the final residual is, as a "
        f"share of the intact one, {ends}; of what was removed, later blocks make up {shares['last']} on average over the "
        f"layers entered, so {_so(over.get('last'))}; ablated at all positions, they make up {shares['all']}.",
        _figure(places) | {"self-repair-matrix": last.result.figure()},
        "Recovered: the component in the ablated run over that in the intact run. Repaired: the share of what was removed "
        "that later blocks add beyond what they write in the intact run; below 0, the loss grows. Bands: 95 % intervals; of "
        "random directions, the middle 95 %. The map shows what is recovered entering each layer.",
        "Of repair: shares repaired below zero or within the range of random directions. A high recovered share speaks for "
        "neither, because later blocks write along most directions anyway.",
        PUBLISHED["self-repair"], table,
        (
            "Each pair is ablated along a direction estimated without it. `mean` in the table: over the layers entered.",
            *_cautions(last, everywhere, undefined),
        ),
    )  # fmt: skip
    rows = [Rows.of(place.result, place.over) for place in (last, everywhere)]
    return section, rules.repairs_direction(rows[0], rows[1], last.null)


def _cautions(last: _Told, everywhere: _Told, undefined: int) -> list[str]:
    draws = len(last.null)
    said = (
        f"Null: {draws} random directions at the last position, {len(everywhere.null)} at all. One more would lie above all of "
        f"the {draws} once in {draws + 1} times."
    )
    few = (
        f"{undefined} shares repaired (pairs × layers) are undefined: less is removed there than a tenth of what a random "
        "direction has."
    )
    return [said, few] if undefined else [said]


def _final(table: pd.DataFrame) -> pd.DataFrame:
    """What is read in the final residual of the clean prompts."""
    return table[(table["side"] == "clean") & (table["read_layer"] == table["read_layer"].max())]


def _beside(row: Mapping[str, Any] | None, *null: str) -> str:
    """A share with its interval, and the same of random directions (`null` columns); words where there is none."""
    if row is None or not math.isfinite(row["mean"]):
        return "a share that is undefined"
    drawn = " to ".join(f"{row[name]:.2f}" for name in null if math.isfinite(row[name]))
    return minus(estimate(row["mean"], row["low"], row["high"]) + (f" (random directions {drawn})" if drawn else ""))


def _so(row: Mapping[str, Any] | None) -> str:
    if row is None or not (row["low"] > 0 or row["high"] < 0):
        return "nothing is made up for certain"
    return "part of the loss is made up" if row["low"] > 0 else "the loss grows"


def _table(places: Mapping[Where, _Told]) -> pd.DataFrame:
    """Means over the layers entered, then what is read in the final residual, then every other cell; clean first."""
    parts: list[pd.DataFrame] = []
    for where, place in places.items():
        named = place.over.assign(side="clean", ablated_layer="mean", read_layer="final")
        by = ["side", "ablated_layer", "read_layer"]
        over = summary(named, by, "repaired", clusters=place.result.provenance.clusters or None)
        spread = {name: pd.Series(place.null, dtype=float).quantile(q) for name, q in _RANGE.items()}
        parts.append(over.assign(value="repaired", positions=where, **spread))
        for value, table in place.tables.items():
            read = (
                table["read_layer"]
                .astype(object)
                .where(table["read_layer"] < place.result.intact.shape[2] - 1, "final")
            )
            layers = table["ablated_layer"].astype(object)
            parts.append(table.assign(ablated_layer=layers, read_layer=read, value=value, positions=where))
    every = pd.concat([part for part in parts if len(part)], ignore_index=True)
    first = {"read_layer": "final", "ablated_layer": "mean", "side": "clean", "positions": "last", "value": "repaired"}
    place_of = pd.DataFrame({column: every[column] != wanted for column, wanted in first.items()})
    columns = ["value", "positions", "side", "ablated_layer", "read_layer", "mean", "low", "high", *_RANGE, "n"]
    return every.loc[place_of.sort_values([*first], kind="stable").index, columns].reset_index(drop=True)


def _figure(places: Mapping[Where, _Told]) -> dict[str, go.Figure]:
    """Both shares in the final residual, beside those of random directions, by where the direction was ablated."""
    parts: list[pd.DataFrame] = []
    for where, place in places.items():
        for value, table in place.tables.items():
            own = _final(table).assign(series="direction", positions=f"at {where}", share=_SAID[value])
            null = own.assign(series="random", mean=own["null_median"], low=own["null_low"], high=own["null_high"])
            parts += [own, null]
    drawn = pd.concat(parts, ignore_index=True).dropna(subset="mean")
    if drawn.empty:
        return {}
    return {"self-repair-final": lines(
        drawn, x="ablated_layer", y="mean", color="series", dash="positions", low="low", high="high", facet="share",
        title="After one ablation, at the last position or at all: in the final residual, clean prompts",
        x_title="layer entered when ablated", y_title="share", caption=places["last"].result.provenance.caption,
    )}  # fmt: skip
