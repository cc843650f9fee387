"""The argument, top to bottom: one direction or two, where the classes separate, which direction acts, and on which words."""

from __future__ import annotations

import argparse
from pathlib import Path

from circuits.case import Progress
from circuits.case.inputs import halves, instructions_of
from circuits.case.study import Study, open_model
from circuits.case.wording import number, span, told
from circuits.cases.incapability import acting, inside
from circuits.cases.incapability.published import PUBLISHED as P
from circuits.cases.incapability.words import word_sets
from circuits.frames import records
from circuits.interventions import ablate_everywhere
from circuits.measure.classes import compare_pca_directions, separate_classes
from circuits.measure.concepts import compare_concepts
from circuits.measure.steering import coefficients
from circuits.measure.token_shifts import token_shifts
from circuits.metrics import parse_metric


def study(args: argparse.Namespace, progress: Progress) -> Path:
    """Run the case; returns the report's index.html. Raises CircuitError for input that cannot be used."""
    alphas = coefficients(args.alphas, "--alphas")
    model = open_model(args, progress)
    metric = parse_metric(model, args.metric or "refusal:I")
    sets = word_sets(model, args.words)
    sae = inside.autoencoder(model, args)
    every = instructions_of(args.instructions, model).labelled("harmful", "harmless", "incapable")
    found_on, tested_on = (half.tokenize(model, template=args.template) for half in halves(every))
    asked = {label: tested_on.only(tested_on.labelled(label)) for label in ("harmful", "incapable")}
    progress.say("prompts", f"{len(found_on.ids)} to find directions, {len(tested_on.ids)} to test them")
    n, tokens = model.shape.n_layers, asked["incapable"].beside_themselves()
    steps = 9 + 2 * (sae is not None)
    with Study(
        args, progress, case="incapability", model=model, tokens=tokens, metric=metric, published=P, steps=steps
    ) as s:
        # One direction or two? Angle and cosine by layer, with what noise and shuffled labels give.
        between = s.measure("angles", lambda: compare_concepts(model, tested_on, seed=args.seed))
        table = between.to_summary()
        known = [r for r in records(table) if r["verdict"] != "no direction" and r["angle"] == r["angle"]]
        said = "No layer has a direction of both concepts beyond chance."
        if known:
            first, last = known[0], known[-1]
            said = (
                f"Entering layer {first['layer']} {number(first['angle'])}°, entering layer {last['layer']} "
                f"{number(last['angle'])}°; without sampling noise {number(first['angle_corrected'])}° and "
                f"{number(last['angle_corrected'])}° (cosine {span(last, 'corrected')})."
            )
        s.tell(
            "angles", "The angle between the two directions", said,
            {"angles": between.figure(), "angles-cosine": between.cosine_figure()}, table,
            read="Both directions share the harmless prompts, whose noise alone gives a cosine above 0 (line); corrected "
            "takes it out. Nulls: labels of the two classes swapped, and all labels shuffled.",
            against="A cosine within what swapped labels give: then the two are one.",
        )  # fmt: skip

        # Where do the classes separate? PCA by layer, silhouette and leave-one-out classification.
        apart = s.measure("classes", lambda: separate_classes(model, tested_on, seed=args.seed))
        table = apart.to_summary()
        early = records(table.query("space == 'full'").dropna(subset="accuracy"))[0]
        best = max(records(table.query("space == 'full'").dropna(subset="silhouette")), key=lambda r: r["silhouette"])
        s.tell(
            "classes", "Where the three classes separate",
            f"Silhouette is largest, {number(best['silhouette'])} (shuffled labels "
            f"{number(best['null_silhouette_high'])}), entering layer "
            f"{best['layer']}, where {span(best, 'accuracy')} of prompts lie nearest their own class's mean, themselves "
            f"left out; already {span(early, 'accuracy')} do entering layer {early['layer']}.",
            {"classes": apart.figure(), "classes-scores": apart.score_figure()}, table,
            read="First two components per layer, coloured by class; the scores are for the full space and for that plane.",
            against="Scores within the range of shuffled labels. Labels differ in their words too: that classes separate does "
            "not say by what.",
        )  # fmt: skip
        pca = s.measure("pca", lambda: compare_pca_directions(model, tested_on, seed=args.seed))
        late = {r["concept"]: r for r in records(pca.to_summary()) if r["layer"] == n - 1}
        s.tell(
            "pca", "Directions within the first components",
            f"Entering layer {n - 1}, two components hold " + ", ".join(
                f"{number(r['share'])} of the {c} direction (components of "
                f"other prompts {number(r['held_out'])}; cosine {number(r['cosine'])}; random directions "
                f"{number(r['null_mean'])})"
                for c, r in late.items()
            ) + ".", {"pca": pca.figure()}, pca.to_frame(),
            read="Share of the difference of means inside the first k components; with all of them it is whole.",
            against="Shares that random directions of the same covariance reach.",
        )  # fmt: skip

        # Which direction acts? Chosen by score on one half of the prompts; does each remove its own way of saying no?
        chosen = acting.choose(s, args, found_on)
        acting.ablate(s, args, asked, chosen, alphas)

        # Which words become likelier? Named sets at the first reply position and along the reply.
        if chosen:
            cells = {k: ablate_everywhere(f.direction, range(n)) for k, f in chosen.items()}
            both = tested_on.only(tested_on.labelled("harmful") | tested_on.labelled("incapable"))
            words = s.measure("words", lambda: token_shifts(model, both, cells, sets, seed=args.seed))
            table = words.to_summary()
            own = table.query("label == 'incapable' and cell == 'incapability'")
            if "incapability" not in chosen:
                own = table.query("label == 'harmful' and cell == 'refusal'")
            said = {
                score: "; ".join(
                    f"{r['set']} {told(r | {'mean': r['change']})} (random {number(r['null_low'])} to "
                    f"{number(r['null_high'])})"
                    for r in records(own.query("score == @score"))
                )
                for score in ("p", "total")
            }
            s.tell(
                "words", "Probability of named words under each ablation",
                f"{own['label'].iloc[0].capitalize()} prompts, {own['cell'].iloc[0]} ablated. First reply token, change of "
                f"probability: {said['p']}. Along the unedited reply, change of expected tokens: {said['total']}.",
                {"words": words.figure(), "words-along": words.position_figure()}, table,
                read="Change from the unedited model, beside random directions that change activations as much. Along the "
                "reply, every position comes after the unedited reply so far: not what an edited reply would say.",
                against="Changes within the range of random directions.",
                notes=(f"p of {own['least_p'].iloc[0]:.3f} is the smallest that so few random directions allow.",),
            )  # fmt: skip
        inside.look(s, args, tested_on, chosen, sae)
        return s.report(
            title=f"Two ways of saying no in {model.name}",
            question="Does the model say that it may not and that it cannot by the same direction?",
            prompts=f"{len(every)} instructions; directions chosen on one half ({found_on.hash}), all else on the other "
            f"({tested_on.hash}), angles and classes within it",
            certificate=between.provenance.certificate,
            shown=("angles", "classes", "steering-incapable-refused"),
        )  # fmt: skip
