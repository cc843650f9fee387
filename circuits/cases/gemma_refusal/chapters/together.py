"""Which components act together: each noised and denoised alone, and every two of them at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import pandas as pd

from circuits.case.condition import Rows, minus
from circuits.cases.gemma_refusal.chapters.repair_identity import estimate
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import together as rules
from circuits.cases.gemma_refusal.setting import Chapter, Missing, Setting
from circuits.engine.sweep import Direction
from circuits.frames import largest, records, sweep_summary
from circuits.measure.attention import HeadClasses
from circuits.measure.blocks import BlockPatching
from circuits.measure.heads import HeadPatching
from circuits.measure.interaction import Interactions, interactions
from circuits.report import Section
from circuits.sites import ORDER, Site, parse
from circuits.stats import ALPHA

STEPS: Final = 1
MOST: Final = 8
"""Components taken together: the cost grows with their square."""
_TITLE: Final = "Together: do components back each other up?"
_DIRECTIONS: Final[tuple[Direction, Direction]] = ("noise", "denoise")


@final
@dataclass(frozen=True, eq=False)
class Found:
    """Every two of the components that act at the last position, with the class of those that are heads."""

    joint: Interactions | Missing
    classes: Mapping[str, str]
    left_out: int
    """Components that act too, beyond the MOST largest."""


def measure(
    s: Setting, classes: HeadClasses, heads: Mapping[Direction, HeadPatching], blocks: Mapping[Direction, BlockPatching]
) -> Found:
    """Noise and denoise together what survives the test over its sweep at the last position, the largest effects first."""
    of = {r["label"]: str(r["klass"]) for r in records(classes.to_summary())}
    acting = _acting(heads, blocks)
    if isinstance(acting, Missing):
        return Found(acting, of, 0)
    chosen = sorted(acting[:MOST], key=lambda site: (site.layer, ORDER[site.kind], site.index or 0))
    joint = s.attempt(
        "together",
        lambda: interactions(s.model, s.tokens, s.metric, components=chosen, positions=("last",), seed=s.seed),
        lambda r: f"{r.n_pairs_measured} pairs of {r.n_components} components",
    )
    return Found(joint, of, max(0, len(acting) - MOST))


def tell(s: Setting, found: Found) -> Chapter:
    """Which pairs of components are more, or less, than their sum."""
    del s
    if isinstance(found.joint, Missing):
        part = found.joint.section("together", _TITLE, PUBLISHED.get("together", ""))
        return Chapter([part], [rules.unmeasured(found.joint.reason)])
    joint = found.joint
    pairs = joint.to_summary()
    labels = {(str(r["a"]), str(r["b"])): str(r["label"]) for r in records(pairs)}
    rows = Rows.of(joint, _noised_together(joint, list(labels)))
    return Chapter([_section(found, joint, pairs)], [rules.backs_up(rows, labels, joint.threshold)])


def _acting(heads: Mapping[Direction, HeadPatching], blocks: Mapping[Direction, BlockPatching]) -> list[Site] | Missing:
    """Heads and blocks that survive at the last position in either direction, the largest effect first.

    An attention block is taken only where none of its heads survives: a head is part of its block.
    """
    tables: list[pd.DataFrame] = []
    for direction in _DIRECTIONS:
        single, whole = heads[direction], blocks[direction]
        of_heads = sweep_summary(single.to_frame(), ["label"], clusters=single.provenance.clusters or None)
        of_blocks = sweep_summary(
            whole.to_frame(), ["kind", "layer", "pos"], clusters=whole.provenance.clusters or None
        )
        of_blocks = of_blocks[of_blocks["pos"] == -1]
        names = [Site(r["kind"], int(r["layer"])).label for r in records(of_blocks)]
        tables += [of_heads, of_blocks.assign(label=names)]
    every = pd.concat(tables, ignore_index=True)
    if (every["least_p"] > ALPHA).all():
        least = every["least_p"].min()
        return Missing(
            f"with so few independent pairs no effect can survive the test over its sweep (p is at least {least:.2g})"
        )
    acts = every[every["survives"]].assign(size=lambda t: t["mean"].abs())
    by_size = acts.groupby("label")["size"].max().sort_values(ascending=False, kind="stable")
    sites = [parse(str(label)) for label in by_size.index]
    of_head = {site.layer for site in sites if site.kind == "z"}
    kept = [site for site in sites if site.kind != "attn_out" or site.layer not in of_head]
    if len(kept) < 2:
        named = f"only {kept[0].label}" if kept else "no component"
        return Missing(
            f"{named} has an effect at the last position that survives the test over its sweep; two are needed"
        )
    return kept


def _noised_together(joint: Interactions, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """One row per prompt pair and two components, as they are named: what noising both takes beyond each alone."""
    frame = joint.to_frame()
    noised = frame[(frame["direction"] == "noise") & ~frame["null"]].dropna(subset="fraction")
    wide = noised.set_index(["pair", "a", "b"])["fraction"].unstack(["a", "b"])  # noqa: PD010  each cell is one number
    parts: list[pd.DataFrame] = []
    for a, b in pairs:
        both = wide[a, b] if (a, b) in wide.columns else wide[b, a]
        beyond = both - wide[a, ""] - wide[b, ""]
        parts.append(pd.DataFrame({"pair": wide.index, "a": a, "b": b, "interaction": beyond.to_numpy()}))
    return pd.concat(parts, ignore_index=True)


def _section(found: Found, joint: Interactions, pairs: pd.DataFrame) -> Section:
    table = _table(found, joint, pairs)
    names = [cell[0] for cell in joint.cells[: joint.n_components]]
    named = "; ".join(name + _klass(found, name) for name in names)
    counts = ", ".join(f"{n} {label}" for label, n in Counter(pairs["label"]).most_common())
    noised, denoised = (_most(pairs, direction) for direction in _DIRECTIONS)
    reasons = [r for r in records(pairs) if r["label"] not in ("independent", "undecided")]
    open_ = pairs[pairs["label"] == "undecided"]
    top = [largest(open_, "noise_interaction")] if len(open_) else []
    largest_open = [f"Largest without a label, {_why(r, joint.threshold)}." for r in top]
    more = f"; {found.left_out} more survive, with smaller effects" if found.left_out else ""
    chosen = (
        "Chosen among components whose effect at the last position survives max-T over its own sweep, in either "
        f"direction{more}. A component that acts only when another is gone does nothing alone, and is not among them."
    )
    cost = (
        f"p: max-T over all pairs and both directions. {joint.cost} cells were run: each component, every two, and random "
        "pairs of others of the same kinds, in both directions; `null` is the share of these, this pair counted in, with an "
        "interaction at least as large."
    )
    reach = f"±{joint.threshold:g}"
    return Section(
        "together", _TITLE,
        f"Of {len(pairs)} pairs among {joint.n_components} components ({named}): {counts}; the largest interaction under "
        f"noising is {noised}, under denoising {denoised}.",
        {"together": joint.figure(), "together-labels": joint.labels_figure()},
        "Interaction: what both do together minus what each does alone, as a share of the gap between the runs; above 0 under "
        f"noising, each covers for part of the other's loss. A dot: beyond {reach} with an adjusted p. Labels need every "
        f"number they rest on to lie within or beyond {reach} with its whole interval: AND, both are needed; OR, either is "
        "enough; chain, a acts through b; backup, b acts where a does not; negative, b opposes a; independent, they add up; "
        "undecided, none of these.",
        "Of backing up: pairs that all add up, or interactions that random pairs of the same kinds have as often (`null`).",
        PUBLISHED.get("together", ""), table,
        [chosen, cost, *(f"{r['label']}, {_why(r, joint.threshold)}." for r in reasons[:MOST]), *largest_open],
    )  # fmt: skip


def _klass(found: Found, name: str) -> str:
    klass = found.classes.get(name, "other")
    return "" if klass == "other" else f", {klass}"


def _why(row: Mapping[str, Any], threshold: float) -> str:
    """The reason for a label in words: which numbers lie where, and of which component."""
    said = str(row["reason"]).replace("[nan, nan]", "(no interval)")
    within = {"not zero": f"beyond ±{threshold:g}", "zero": f"within ±{threshold:g}", "above": f"above {threshold:g}"}
    for test, words in (within | {"below": f"below −{threshold:g}"}).items():
        said = re.sub(rf"(?<=[\])]) {test}(?=;|$)", f" {words}", said)
    said = re.sub(r"(de)?noise_interaction", r"interaction under \1noising", said)
    said = re.sub(
        r"(de)?noise_(a|b|both)(_after_)?", lambda m: f"{m[1] or ''}noising {m[2]}{' after ' if m[3] else ''}", said
    )
    return minus(f"{row['a']} (a) and {row['b']} (b): {said}")


def _most(pairs: pd.DataFrame, direction: Direction) -> str:
    """The two components whose interaction is largest, with what each and both do."""
    top = largest(pairs, f"{direction}_interaction")
    found = {name: top[f"{direction}_{name}"] for name in ("interaction", "interaction_low", "interaction_high")}
    a, b, both = (f"{top[f'{direction}_{name}']:.2f}" for name in ("a", "b", "both"))
    return f"{estimate(*found.values())}, of {top['a']} and {top['b']} ({a} and {b} alone, {both} together)"


def _table(found: Found, joint: Interactions, pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs with a label other than independent, then each component alone, then the other pairs."""
    rows: list[dict[str, Any]] = []
    for r in records(pairs):
        for direction in _DIRECTIONS:
            effect = {name: r[f"{direction}_both{end}"] for name, end in _ENDS.items()}
            beyond = {f"interaction{end}": r[f"{direction}_interaction{end}"] for end in _ENDS.values()}
            tests = {"p": r[f"{direction}_p"], "null": r[f"{direction}_null"]}
            rows.append(
                {"label": r["label"], "a": r["a"], "b": r["b"], "direction": direction} | effect | beyond | tests
            )
    for r in records(joint.to_components()):
        label = f"alone{_klass(found, r['component'])}"
        alone = {"label": label, "a": r["component"], "b": "", "direction": r["direction"]}
        rows.append(alone | {"effect": r["mean"], "low": r["low"], "high": r["high"]})
    table = pd.DataFrame(rows)
    place = table["label"].map({"undecided": 2, "independent": 3}).fillna(0).where(table["b"] != "", 1)
    size = -table.groupby(["a", "b"])["interaction"].transform(lambda x: x.abs().max()).fillna(0.0)
    order = pd.DataFrame({"place": place, "size": size}).sort_values(["place", "size"], kind="stable").index
    return table.loc[order].reset_index(drop=True)


_ENDS: Final = {"effect": "", "low": "_low", "high": "_high"}
"""Column of the table -> how the summary's column ends."""
