"""Which direction acts: chosen by score, then each ablated on both kinds of prompts that the model says no to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from circuits.case.condition import condition
from circuits.case.measured import Missing
from circuits.case.sections import steering
from circuits.case.study import Study
from circuits.cases.incapability.published import PUBLISHED as P
from circuits.measure.concept_choice import ConceptChoice, choose_concept_direction
from circuits.measure.steering import ablations, random_ablations, steer
from circuits.prompts.instruction_tokens import InstructionTokens

CONCEPTS: Final = {"refusal": ("harmful", "harmless"), "incapability": ("incapable", "harmless")}
"""Name -> (of, against)."""
OWN: Final = {"harmful": "refusal", "incapable": "incapability"}
"""Prompts -> the direction that should remove the “no” to them."""


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
            anchor, title, f"{choice.selection.line}.", {anchor: choice.figure()}, choice.to_frame(),
            read="Ablated everywhere on prompts of the concept, added at its layer on harmless ones.",
            against="Random directions that lower the metric as much (line).",
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
    doses += random_ablations(2, alphas, n, s.model.shape.d_model, seed=args.seed)
    for label, prompts in asked.items():
        anchor = f"steering-{label}"
        swept = s.measure(
            f"steering {label}", partial(steer, s.model, prompts, s.metric, doses, max_new_tokens=args.max_new_tokens)
        )
        s.add(steering.steering(swept, anchor, f"Both directions ablated on {label} prompts", P[anchor]))
        s.say(steering.completions(swept, [d.name for d in doses if d.coefficient == strong], prompts=4))
        for name in chosen:
            at = 1 + next(i for i, d in enumerate(doses) if d.series == name and d.coefficient == strong)
            own = OWN[label] == name
            s.rule(f"the {name} direction {'removes' if own else 'spares'} “no” to {label} prompts", anchor, [
                condition(
                    swept.refused[at].double().numpy(), f"still says no at α {strong:g}", "below" if own else "at least", 0.5
                )
            ])  # fmt: skip
