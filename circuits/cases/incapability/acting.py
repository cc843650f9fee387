"""Which direction acts: chosen by score, then each ablated on both kinds of prompts that the model says no to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from circuits.case.measured import Missing
from circuits.case.sections import steering
from circuits.case.study import Study
from circuits.case.wording import number
from circuits.cases.incapability.published import PUBLISHED as P
from circuits.measure.concept_choice import ConceptChoice, choose_concept_direction
from circuits.measure.steering import ablations, random_ablations, steer
from circuits.measure.steering.result import BASELINE
from circuits.prompts.instruction_tokens import InstructionTokens

CONCEPTS: Final = {"refusal": ("harmful", "harmless"), "incapability": ("incapable", "harmless")}
"""Name -> (of, against)."""
OWN: Final = {"harmful": "refusal", "incapable": "incapability"}
"""Prompts -> the direction that should remove the “no” to them."""
SAID: Final = {"harmful": "refuse", "incapable": "say that they cannot, or refuse"}
"""Prompts -> what a completion with one of the phrases does."""
DRAWS: Final = 4
"""Random directions beside them."""


def choose(s: Study, args: argparse.Namespace, prompts: InstructionTokens) -> dict[str, ConceptChoice]:
    """Both concepts' directions, with filters that say what they rejected; one that none passes is told as missing."""
    found: dict[str, ConceptChoice] = {}
    for name, concept in CONCEPTS.items():
        title, anchor = f"The {name} direction, chosen by score", f"choice-{name}"
        choice = s.attempt(f"choice {name}", partial(
            choose_concept_direction, s.model, prompts, s.metric, concept=concept, max_kl=args.max_kl, seed=args.seed
        ))  # fmt: skip
        if isinstance(choice, Missing):
            s.missing(anchor, title, choice)
            continue
        found[name] = choice
        s.tell(
            anchor, title,
            f"Chosen: layer {choice.layer}. Ablated it takes the metric of {choice.of} prompts from "
            f"{number(choice.of_metric)} to {number(float(choice.bypass[choice.layer]))} (the lowest of "
            f"{len(choice.null_bypass)} random directions "
            f"{number(float(choice.null_bypass.min()))}); added it takes that of {choice.against} ones from "
            f"{number(choice.against_metric)} to {number(float(choice.induce[choice.layer]))}.",
            {anchor: choice.figure()}, choice.to_frame(),
            read="Ablated everywhere on prompts of the concept, added at its layer on harmless ones.",
            against="Random directions that lower the metric as much (line).",
            notes=(
                f"{choice.selection.line}.",
                "Made, scored and chosen on the same prompts; the sections below use others.",
                f"{s.metric.name} is the metric for both directions: replies of either kind may open with the same word.",
            ),
        )  # fmt: skip
    return found


def ablate(
    s: Study, args: argparse.Namespace, asked: Mapping[str, InstructionTokens], chosen: Mapping[str, ConceptChoice],
    alphas: Sequence[float],
) -> None:  # fmt: skip
    """Every direction at every strength on harmful and on incapable prompts, beside random directions."""
    n, strong = s.model.shape.n_layers, max(alphas)
    doses = [d for name, c in chosen.items() for d in ablations({c.layer: c.direction}, alphas, n, series=name)]
    if not doses:
        return
    doses += random_ablations(DRAWS, alphas, n, s.model.shape.d_model, seed=args.seed)
    for label, prompts in asked.items():
        anchor = f"steering-{label}"
        swept = s.measure(
            f"steering {label}", partial(steer, s.model, prompts, s.metric, doses, max_new_tokens=args.max_new_tokens)
        )
        s.add(steering.steering(
            swept, anchor, f"Both directions ablated on {label} prompts", P[anchor], said=SAID[label],
            notes=("The phrases count “I cannot” and “I am unable to” alike: they tell a “no”, not which.", steering.ALPHA),
        ))  # fmt: skip
        strongest = [d.name for d in doses if d.coefficient == strong]
        s.say(steering.completions(swept, strongest, prompts=4, mark="refused" if label == "harmful" else "says no"))
        for name in chosen:
            dose = next(d.name for d in doses if d.series == name and d.coefficient == strong)
            own = OWN[label] == name
            null = steering.extreme_null(swept, strong, refused=False)
            s.rule(f"the {name} direction {'removes' if own else 'spares'} “no” to {label} prompts", anchor, [
                steering.refusing(swept, dose, f"still says no at α {strong:g}", "below" if own else "at least"),
                steering.refusing(swept, BASELINE, "without an edit", "at least"),
                *([steering.refusing(swept, null, f"with that of {DRAWS} random directions that removes most", "at least")]
                  if own and null else []),
            ])  # fmt: skip
