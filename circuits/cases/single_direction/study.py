"""The argument, top to bottom: does padding matter, where is the direction, whose prompts, how strong, and at what cost."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from circuits.case import Progress
from circuits.case.condition import condition
from circuits.case.inputs import halves, instructions_of, pairs_of, positions_line
from circuits.case.judges import judge_of
from circuits.case.measured import Missing
from circuits.case.sections import steering
from circuits.case.study import Study, open_model
from circuits.case.wording import number, span, told
from circuits.cases.single_direction import edit
from circuits.cases.single_direction.published import PUBLISHED as P
from circuits.frames import records
from circuits.measure.layer_directions import layer_directions
from circuits.measure.padding import padding_effects
from circuits.measure.prompt_sets import compare_prompt_sets
from circuits.measure.steering import ablations, coefficients, random_ablations, steer
from circuits.measure.steering.result import BASELINE
from circuits.metrics import parse_metric

RANDOM = 3
"""Random directions in the sweep."""


def study(args: argparse.Namespace, progress: Progress) -> Path:
    """Run the case; returns the report's index.html. Raises CircuitError for input that cannot be used."""
    alphas = coefficients(args.alphas, "--alphas")
    model = open_model(args, progress)
    metric = parse_metric(model, args.metric or "refusal:I")
    pairs = pairs_of(args.pairs)
    tokens = pairs.tokenize(model, template=args.template, drop_misaligned=args.drop_misaligned)
    every = instructions_of(args.instructions, model).labelled("harmful", "harmless")
    found_on, tested_on = halves(every)
    prompts, held_out = (half.tokenize(model, template=args.template) for half in (found_on, tested_on))
    harmful = held_out.only(held_out.harmful)
    progress.say("prompts", f"{len(found_on)} to find the direction, {len(tested_on)} to test it")
    progress.say("pairs", positions_line(tokens, pairs))
    n = model.shape.n_layers
    steps = 5 + bool(args.tasks)
    with Study(
        args, progress, case="single_direction", model=model, tokens=tokens, metric=metric, published=P, steps=steps
    ) as s:
        # Does padding matter? The same prompts alone, padded with care, and padded without a mask.
        padded = s.measure("padding", lambda: padding_effects(model, every, template=args.template, seed=args.seed))
        s.tell(
            "padding", "Batched or one by one: what padding does to the direction", f"{padded.verdict}.",
            {"padding": padded.figure(), "padding-separation": padded.separation_figure()}, padded.to_summary(),
            read="Cosine with the direction from prompts run alone. `masked` is this package's way; `attended` lets the "
            "model "
            "read its padding, as a tensor of tokens without a mask does.",
            against="`masked` or `equal` below 1: then batching itself would change the direction.",
            notes=(padded.provenance.certificate,),
        )  # fmt: skip

        # Where is it? Separation layer by layer on prompts it was not made of, and one block of layers or not.
        layers = s.measure("layers", lambda: layer_directions(model, prompts, seed=args.seed))
        table = layers.to_summary()
        top = max(records(table.dropna(subset="d")), key=lambda row: row["d"])
        s.tell(
            "separation", "Where the direction separates",
            f"Cohen's d of held-out projections is largest, {span(top, 'd')}, entering layer {top['layer']}; on the prompts "
            f"the direction was made of it reads {number(top['d_in_sample'])} there.",
            {"separation": layers.separation_figure(), "separation-halves": layers.stability_figure()}, table,
            read="Held out: each prompt on the direction of the other folds. In sample is what the write-up shows.",
            against="Held-out values within the range of shuffled labels.",
        )  # fmt: skip
        block = layers.block()
        s.tell(
            "consistency", "One direction across layers?", f"{block}.".capitalize(), {"consistency": layers.figure()},
            layers.cosine_frame(), read="Cosine of the directions of every two layers.",
            against="A block as large with shuffled labels: the residual stream carries noise from layer to layer too.",
        )  # fmt: skip

        # Whose prompts? Matched, unmatched and shuffled partners, and estimators for which pairing matters.
        sets = s.attempt("prompt sets", lambda: compare_prompt_sets(
            model, tokens, held_out, metric=metric, layer=int(top["layer"]), null_directions=30, effect_seeds=3, seed=args.seed
        ))  # fmt: skip
        if isinstance(sets, Missing):
            s.missing("sets", "Whose prompts", sets)
        else:
            last = sets.effect_summary().drop_duplicates(["set", "estimator"], keep="last")
            effect = {(r["set"], r["estimator"]): r for r in records(last)}
            own, other = effect["matched", "mean"], effect["unmatched", "mean"]
            s.tell(
                "sets", "Matched, unmatched and shuffled harmless prompts",
                f"Shuffling partners moves a difference of means by {sets.identity:.0e} of its norm: it does not depend on "
                f"them. Ablated, the matched direction removes {told(own | {'mean': own['removed']})} of the metric's "
                "gap, that of "
                f"other harmless prompts {told(other | {'mean': other['removed']})}.",
                {"sets": sets.figure(), "sets-effect": sets.effect_figure()}, sets.to_summary(),
                read="Cosine with the matched difference of means, by estimator; pairing matters to the mean of unit "
                "differences, the first component and the median only.",
                against="Random directions that remove as much (line).",
            )  # fmt: skip

        # How strong, and of which layer? Every direction at every strength, on prompts it was not made of.
        defined = {layer: v for layer, v in enumerate(layers.directions) if layer not in layers.undefined}
        doses = ablations(defined, alphas, n) + random_ablations(RANDOM, alphas, n, model.shape.d_model, seed=args.seed)
        judge = judge_of(model, s.out, endpoint=args.judge)
        swept = s.measure("sweep", lambda: steer(
            model, harmful, metric, doses, judge=judge, max_new_tokens=args.max_new_tokens
        ))  # fmt: skip
        ranked = [name for name in swept.scores if not name.endswith("nll")]
        best = doses[swept.best(*ranked)]
        s.add(steering.steering(
            swept, "sweep", "Ablated: the direction of every layer at every strength", P["sweep"], values=("metric", *ranked),
            claim=_best(swept.to_summary(), best.name),
            notes=(f"Ranked by the sum of {' and '.join(ranked)}; directions come from other prompts than these.",),
        ))  # fmt: skip
        s.say(steering.completions(swept, [best.name]))
        done = swept.refused[1 + doses.index(best)].numpy().astype(float)
        nulls = [1 + i for i, dose in enumerate(doses) if dose.layer is None and dose.coefficient == best.coefficient]
        s.rule("one direction removes refusal", "sweep", [
            condition(1 - done, "share answered with the best direction ablated", "at least", 0.5),
            condition(1 - swept.refused[nulls].double().mean(0).numpy(), "with random directions", "below", 0.5),
        ])  # fmt: skip

        # In the weights: the same edit, kept as a file, and what it costs on harmless text and on tasks.
        edit.weights(s, args, held_out, defined[best.layer or 0], best)
        return s.report(
            title=f"How single is the single direction in {model.name}?",
            question="Is refusal carried by one direction: across layers, prompts, padding and seeds, and at what cost?",
            prompts=f"{len(every)} instructions ({prompts.hash}, {held_out.hash}); {positions_line(tokens, pairs)}",
            certificate=swept.provenance.certificate,
        )  # fmt: skip


def _best(table: pd.DataFrame, name: str) -> str:
    """What the best dose does, beside no edit and the random directions of the same strength."""
    rows = {str(r["dose"]): r for r in records(table)}
    best, none = rows[name], rows[BASELINE]
    drawn = [r for r in rows.values() if str(r["series"]).startswith("random") and r["coefficient"] == best["coefficient"]]
    random = ", ".join(f"{100 * r['refused']:.0f} %" for r in drawn)
    return (
        f"Best: {name}. {steering.rate(best)} refuse (no edit {steering.rate(none)}; random directions of that strength "
        f"{random}), coherence {number(best['perplexity.coherence'])} (no edit {number(none['perplexity.coherence'])})."
    )
