"""Whether it refuses, which direction carries that, and where the direction enters the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from circuits.case.condition import Rows
from circuits.cases.gemma_refusal.published import PUBLISHED
from circuits.cases.gemma_refusal.rules import stages
from circuits.cases.gemma_refusal.setting import Chapter, Missing, Setting
from circuits.errors import UndefinedError
from circuits.frames import largest, records
from circuits.measure.behaviour import SETTINGS, Behaviour, behaviour
from circuits.measure.directions import DirectionChoice, choose_direction
from circuits.measure.writes import Components, components
from circuits.report import Completion, Section
from circuits.stats import Interval
from circuits.tables import SIDES

STEPS: Final = 3
NAMES: Final = {"attn_out": "attention", "mlp_out": "MLP"}


@final
@dataclass(frozen=True, eq=False)
class Found:
    """The direction, what the model says with and without it, and its component."""

    chosen: DirectionChoice | Missing
    acts: Behaviour | Missing
    written: Components | Missing


def measure(s: Setting) -> Found:
    """The direction chosen on the pairs, completions under its ablation, and its component by layer."""
    chosen = s.attempt(
        "direction", lambda: choose_direction(s.model, s.tokens, s.metric, max_kl=s.max_kl, seed=s.seed),
        lambda r: f"entering layer {r.layer}, position {r.position}".replace(" -", " −"),
    )  # fmt: skip
    if isinstance(chosen, Missing):
        return Found(chosen, chosen, chosen)
    acts = s.attempt(
        "behaviour",
        lambda: behaviour(s.model, s.tokens, s.metric, chosen.direction, max_new_tokens=s.max_new_tokens, seed=s.seed),
        _rates_line,
    )
    return Found(
        chosen, acts, s.attempt("components", lambda: components(s.model, s.tokens, chosen.held_out, seed=s.seed))
    )


def tell(s: Setting, found: Found) -> Chapter:
    """Behaviour and metric, the direction, its component by layer and by block."""
    sections: list[Section] = []
    verdicts = []
    completions: list[Completion] = []
    if isinstance(found.acts, Missing):
        sections.append(found.acts.section("behaviour", "Behaviour and metric", PUBLISHED["behaviour"]))
    else:
        agreement = _agreement(found.acts)
        sections.append(_behaviour(found.acts, agreement))
        rates = Rows.of(found.acts)
        verdicts += [stages.proxy_holds(rates, agreement), stages.direction_removes(rates)]
        completions = _completions(found.acts)
    if isinstance(found.chosen, Missing):
        sections.append(found.chosen.section("direction", "The direction", PUBLISHED["direction"]))
    else:
        sections.append(_direction(found.chosen))
    if isinstance(found.written, Missing):
        title = "The direction's component by layer"
        sections.append(found.written.section("component", title, PUBLISHED["component"]))
    else:
        sections += [_component(found.written), _written(found.written)]
        verdicts.append(stages.middle_writes(Rows.of(found.written), dict(s.groups)))
    return Chapter(sections, verdicts, completions)


def _agreement(acts: Behaviour) -> Interval | None:
    try:
        return acts.agreement()
    except UndefinedError:  # all or none of the completions refuse
        return None


def _behaviour(acts: Behaviour, agreement: Interval | None) -> Section:
    table = acts.to_summary()
    rate = {(r["setting"], r["side"]): f"{r['refusal_rate']:.0%}" for r in records(table)}
    said = "undefined, because all or none of these completions refuse" if agreement is None else f"AUROC {agreement}"
    return Section(
        "behaviour", "Behaviour and metric",
        f"Clean prompts are refused {rate['baseline', 'clean']} of the time, {rate['intervened', 'clean']} with the "
        f"direction ablated and {rate['control', 'clean']} with a random direction ablated; corrupt prompts "
        f"{rate['baseline', 'corrupt']}.",
        {"behaviour": acts.figure()},
        f"Each dot is one prompt. Agreement of metric and refusal score on the unedited model: {said}.",
        "Refusals that survive the ablation, or that a random direction also removes.",
        PUBLISHED["behaviour"], table,
        ("Refusal is scored by twelve phrases anywhere in the completion; rates carry Wilson intervals.",),
    )  # fmt: skip


def _direction(chosen: DirectionChoice) -> Section:
    table = chosen.to_frame()
    gap = chosen.clean - chosen.corrupt
    row = records(table[table["chosen"]])[0]
    removed = (chosen.clean - row["bypass"]) / gap
    null = (chosen.clean - float(chosen.null_bypass.min())) / gap
    tried, undefined = int(table["bypass"].notna().sum()), int(table["bypass"].isna().sum())
    return Section(
        "direction", "The direction",
        f"The difference of means entering layer {chosen.layer} at position {chosen.position}, ablated everywhere, removes "
        f"{removed:.0%} of the metric's gap (the best of {tried} candidates); the best of {len(chosen.null_bypass)} random "
        f"directions removes {null:.0%}.",
        {"direction": chosen.figure()},
        "Each cell is one candidate (layer × position); the dot marks the chosen one: lowest metric of the clean prompts "
        f"among candidates that raise the corrupt prompts' metric when added and whose KL there is at most {chosen.max_kl}.",
        "Candidates no better than random directions.", PUBLISHED["direction"], table,
        (
            "Chosen on the pairs it is shown on; components below use directions estimated without each pair's fold.",
            *([f"{undefined} candidates have (nearly) no norm and are undefined."] if undefined else []),
        ),
    )  # fmt: skip


def _component(written: Components) -> Section:
    gap = written.gap_frame()
    first = next((r["layer"] for r in records(gap) if r["low"] > r["null_high"]), None)
    widest = largest(gap, "mean")
    where = "after the last block" if widest["layer"] == gap["layer"].max() else f"entering layer {widest['layer']}"
    start = "nowhere exceeds that of random directions" if first is None else (
        f"first exceeds that of random directions entering layer {first}"
    )  # fmt: skip
    return Section(
        "component", "The direction's component by layer",
        f"The gap between clean and corrupt prompts {start}; it is largest, {widest['mean']:.2f} "
        f"[{widest['low']:.2f}, {widest['high']:.2f}], {where}.",
        {"component": written.figure()},
        "Component of the residual stream at the last position along the direction (norm 1); bands are 95 % intervals "
        "over pairs.",
        "A gap within the range of random directions (null_low to null_high in the table).",
        PUBLISHED["component"], gap,
        ("Each pair is projected on a direction estimated without it.",),
    )  # fmt: skip


def _written(written: Components) -> Section:
    table = written.written_summary()
    top = largest(table, "mean")
    against = table[(table["high"] < 0) & (table["mean"] < table["null_low"])]
    less = ", ".join(f"{NAMES[r['kind']]} {r['layer']}" for r in records(against)) or "no block"
    return Section(
        "written", "What each block writes along the direction",
        f"Most of the difference, {top['mean']:.2f} [{top['low']:.2f}, {top['high']:.2f}], is written by "
        f"{NAMES[top['kind']]} {top['layer']}; {less} takes some away beyond chance.",
        {"written": written.written_figure()},
        "Component of each block's output at the last position, clean − corrupt.",
        "Writes within the range of random directions.", PUBLISHED["written"], table,
    )  # fmt: skip


def _rates_line(acts: Behaviour) -> str:
    base, ablated = (acts.rate(name, "clean").estimate for name in ("baseline", "intervened"))
    return f"ablated: refuses {ablated:.0%} (was {base:.0%})"


def _completions(acts: Behaviour) -> list[Completion]:
    return [
        Completion(prompt, side, setting, text, bool(acts.refused[s, k, i]))
        for k, side in enumerate(SIDES)
        for i, prompt in enumerate(acts.prompts[k])
        for s, setting in enumerate(SETTINGS)
        for text in [acts.completions[s][k][i]]
    ]
