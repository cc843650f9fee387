"""Are the roles of a planted circuit recovered? Rules that use nothing but measurements, and the heads they name.

A rule reads shares of the gap under noising and denoising (positive: what is there helps the metric), or what heads look
at, or how two of them act together. What it names is held to the heads that have the role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from bench import truth_sets as true
from bench.truth_rows import listed
from bench.truth_scores import DIRECTIONS, LARGE, Planted, Scored

from circuits.engine.edges import METRIC, Edge
from circuits.measure.attention import classify_heads
from circuits.measure.interaction import interactions
from circuits.sites import parse

Shares = Mapping[str, float]
MOST: Final = 0.5
"""Of a head's attention."""
ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "negative": ("negative",),
    "needed with another (AND)": ("and first", "and second"),
    "enough without another (OR)": ("or first", "or second"),
    "looks at the subject, without effect (decoy)": ("decoy",),
}
"""Rule -> the roles whose heads it ought to name."""
WIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "previous token": ("previous token",), "mover": ("mover",), "backup": ("backup",),
}  # fmt: skip


def by_effects(noise: Shares, denoise: Shares, looks: Shares, *, signed: bool = True) -> dict[str, set[str]]:
    """What rules on single heads name.

    The AND rule is the loss of a head that gives nothing back alone; the OR rule the other way around. A score without a
    sign names no negative head.
    """
    heads = [name for name in noise if ".H" in name]
    lost, found = ({name for name in heads if abs(share[name]) >= LARGE} for share in (noise, denoise))
    rules = {
        "negative": {h for h in heads if signed and noise[h] <= -LARGE},
        "needed with another (AND)": lost - found,
        "enough without another (OR)": found - lost,
        "looks at the subject, without effect (decoy)": {h for h in heads if looks[h] > 0} - lost - found,
    }
    return {rule: rules[rule] for rule in ROLES}


def by_edges(noise: Shares, one_back: Shares, group: int) -> dict[str, set[str]]:
    """What rules on single edges under noising name: by what a head reads, and from whom.

    Previous token: looks one back, and another head's value reads it. Mover: its value reads such a head, and the metric
    reads it. Backup: a head's query reads a mover. `group`: heads to a key-value head.
    """
    large = {_ends(label) for label, share in noise.items() if abs(share) >= LARGE}
    read_by_value = {(s, r) for s, r, kind in large if kind == "v" and ".H" in s}
    previous = {s for s, _ in read_by_value if one_back.get(s, 0) > 0}
    readers = {head for s, r in read_by_value if s in previous for head in _readers(r, group)}
    mover = readers & {s for s, r, _ in large if r == METRIC}
    backup = {r for s, r, kind in large if kind == "q" and s in mover}
    return {"previous token": previous, "mover": mover, "backup": {r.replace("q[", "H").rstrip("]") for r in backup}}


def attended(of: Planted) -> tuple[dict[str, float], dict[str, float]]:
    """1 for heads with most of their attention from the last position on the subject, and on the token before.

    The classes' own threshold is of no use here: prompts are so short that an even spread exceeds it.
    """
    found = classify_heads(of.model, of.tokens).to_summary()
    looks, one_back = (
        {str(name): float(score > MOST) for name, score in zip(found["label"], found[kind], strict=True)}
        for kind in ("direct", "diagonal")
    )
    return looks, one_back


def relations(of: Planted) -> list[tuple[str, str, str, str]]:
    """(a, b, label, truth) of every two heads with a role, and two idle ones.

    Every pair counts as a draw of its own: a planted circuit reads the subject alone, whatever request it stands in.
    """
    heads = [*(n for n in of.truth.roles.values() if ".H" in n), *_idle(of)]
    found = interactions(of.model, of.tokens, of.metric, components=[parse(h) for h in heads], null_draws=0)
    table = replace(found, provenance=replace(found.provenance, clusters=())).to_summary()
    return [
        (str(r.a), str(r.b), str(r.label), of.truth.relation(str(r.a), str(r.b))) for r in table.itertuples()
    ]  # fmt: skip


def rows(of: Planted, scored: Mapping[str, Scored], edges: Mapping[str, Scored], method: str) -> list[tuple[str, ...]]:
    """One line for each rule: rule, method, what has the role, what is named."""
    shape, (looks, one_back) = of.model.shape, attended(of)
    named: dict[str, set[str]] = {}
    if f"{method}, noise" in scored:
        sides = [scored[f"{method}, {how}"] for how in DIRECTIONS]
        shares = [side.share if side.signed else {n: s / abs(side.gap) for n, s in side.size.items()} for side in sides]
        named |= by_effects(*shares, looks, signed=sides[0].signed)
    if f"{method}, noise" in edges:
        named |= by_edges(edges[f"{method}, noise"].share, one_back, shape.n_heads // shape.n_kv_heads)
    lines: list[tuple[str, ...]] = []
    for rule, found in named.items():
        known = {of.truth.roles[r] for r in (ROLES | WIRED)[rule]}
        missed, wrong = sorted(known - found), sorted(found - known)
        lines.append((rule, method, "yes" if not missed and not wrong else "no", listed(missed), listed(wrong)))
    return lines


def shares_table(of: Planted, scored: Mapping[str, Scored], methods: list[str]) -> list[tuple[str, ...]]:
    """One line for each role: the true share under noising and denoising, then what every method says."""
    gap = true.gap(of.truth)
    known = [true.node_effects(of.truth, "noise"), true.node_effects(of.truth, "denoise")]
    lines: list[tuple[str, ...]] = []
    for role, name in of.truth.roles.items():
        arithmetic = [sign * effect[name].mean() / gap for sign, effect in zip((-1, 1), known, strict=True)]
        lines.append((f"{name} ({role})", *(percent(x) for x in arithmetic),
                      *(percent(scored[m].share[name]) for m in methods)))  # fmt: skip
    return lines


def percent(share: float) -> str:
    """One decimal, and no negative zero."""
    return f"{round(100 * share, 1) + 0.0:.1f}"


def _idle(of: Planted) -> list[str]:
    return [n.name for n in of.truth.nodes if n.role == "idle" and ".H" in n.name][:2]


def _ends(label: str) -> tuple[str, str, str]:
    sender, _, receiver = label.partition(" → ")
    return sender, receiver, Edge(sender, receiver).kind


def _readers(value: str, group: int) -> set[str]:
    """The heads that read through a value: all of its group."""
    layer, _, index = value.partition(".v[")
    first = group * int(index.rstrip("]"))
    return {f"{layer}.H{h}" for h in range(first, first + group)}
