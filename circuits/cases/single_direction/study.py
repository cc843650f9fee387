"""The argument, top to bottom: does padding matter, where is the direction, whose prompts, how strong, and at what cost."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from circuits.case import Progress
from circuits.case.inputs import halves, instructions_of, pairs_of, positions_line, require_partners
from circuits.case.judges import judge_of
from circuits.case.sections import steering
from circuits.case.study import Study, open_model
from circuits.case.wording import number, span
from circuits.cases.single_direction import edit, partners, ranking
from circuits.cases.single_direction.published import PUBLISHED as P
from circuits.frames import records
from circuits.measure.layer_directions import layer_directions
from circuits.measure.padding import padding_effects
from circuits.measure.steering import ablations, coefficients, random_ablations, steer
from circuits.measure.steering.result import BASELINE
from circuits.metrics import parse_metric

RANDOM = 3
"""Random directions in the sweep."""
TESTED = 10
"""Random directions beside the chosen one, on the prompts that did not choose it."""


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
    require_partners(tokens, held_out)
    harmful = held_out.only(held_out.harmful)
    ranked_on, others = (harmful.only(torch.arange(len(harmful.ids)) % 2 == turn) for turn in (0, 1))
    progress.say("prompts", f"{len(found_on)} to find the direction, {len(tested_on)} to test it")
    progress.say("pairs", positions_line(tokens, pairs))
    n = model.shape.n_layers
    steps = 6 + bool(args.tasks)
    with Study(
        args, progress, case="single_direction", model=model, tokens=tokens, metric=metric, published=P, steps=steps
    ) as s:
        judge = judge_of(model, s.out, endpoint=args.judge)  # what is not set is said before anything is run

        # Does padding matter? The same prompts alone, padded with care, and padded without a mask.
        padded = s.measure("padding", lambda: padding_effects(model, every, template=args.template, seed=args.seed))
        s.tell(
            "padding", "Batched or one by one: what padding does to the direction",
            f"{padded.verdict[0].upper()}{padded.verdict[1:]}.",
            {"padding": padded.figure(), "padding-separation": padded.separation_figure()}, padded.to_summary(),
            read="Cosine with the direction from prompts run alone. `masked` is this package's way; `attended` lets the "
            "model read its padding, as a tensor of tokens without a mask does.",
            against="`masked` or `equal` below 1: then batching itself would change the direction.",
            notes=(padded.provenance.certificate,),
        )  # fmt: skip

        # Where is it? Separation layer by layer on prompts it was not made of, and one block of layers or not.
        layers = s.measure("layers", lambda: layer_directions(model, prompts, seed=args.seed))
        table = layers.to_summary()
        top = max(records(table.dropna(subset="d")), key=lambda row: row["d"])
        s.tell(
            "separation", "Where the direction separates",
            f"Cohen's d of held-out projections is largest, {span(top, 'd')}, entering layer {top['layer']} (shuffled labels "
            f"{number(top['null_d'])}, random directions {number(top['random_d'])}, each the 95th percentile); on the prompts "
            f"the direction was made of it reads {number(top['d_in_sample'])} there.",
            {"separation": layers.separation_figure(), "separation-halves": layers.stability_figure()}, table,
            read="Held out: each prompt on the direction of the other folds. In sample is what the write-up shows.",
            against="Held-out values within the range of shuffled labels.",
            notes=(
                f"The largest of {table['d'].notna().sum()} layers: its interval is that of a layer named beforehand.",
                f"p = {top['p_max']:.3f} is against the largest of all layers with labels shuffled.",
            ),
        )  # fmt: skip
        block, chance = layers.block(), records(layers.block_stability())[0]
        s.tell(
            "consistency", "One direction across layers?",
            f"{block}.".capitalize() + f" With labels shuffled the largest block has {chance['null_size']:.0f} layers in the "
            f"95th percentile: p = {chance['p']:.3f} for one of {chance['size']:.0f}.", {"consistency": layers.figure()},
            layers.cosine_frame(), read="Cosine of the directions of every two layers.",
            against="A block as large with shuffled labels: the residual stream carries noise from layer to layer too.",
        )  # fmt: skip

        # Whose prompts? Matched, unmatched and shuffled partners, and estimators for which pairing matters.
        partners.tell(s, held_out, int(top["layer"]), args.seed)

        # How strong, and of which layer? Every direction at every strength, on prompts it was not made of.
        defined = {layer: v for layer, v in enumerate(layers.directions) if layer not in layers.undefined}
        doses = ablations(defined, alphas, n) + random_ablations(RANDOM, alphas, n, model.shape.d_model, seed=args.seed)
        swept = s.measure("sweep", lambda: steer(
            model, ranked_on, metric, doses, judge=judge, max_new_tokens=args.max_new_tokens
        ))  # fmt: skip
        ranked, unscored = ranking.usable(swept)
        first, *ties = ranking.best_doses(swept, ranked)
        best = doses[swept.doses.index(first)]
        s.add(steering.steering(
            swept, "sweep", "Ablated: the direction of every layer at every strength", P["sweep"], values=("metric", *ranked),
            claim=ranking.told_on(swept, first, among=len(doses) - RANDOM * len(alphas), ties=ties),
            notes=(
                f"Ranked by the sum of {' and '.join(ranked)}; directions come from other prompts than these.",
                steering.ALPHA,
                *(f"No dose has {name}: the judge gave none, and nothing is ranked by it." for name in unscored),
                "The best of many does well on the prompts that chose it also by luck: it is tested on others below.",
                "Coherence is how likely the unedited model finds the text: a sound answer that it would not give scores low.",
            ),
        ))  # fmt: skip
        null = [d for d in random_ablations(TESTED, alphas, n, model.shape.d_model, seed=args.seed + 1)
                if d.coefficient == best.coefficient]  # fmt: skip
        tested = s.measure("tested", lambda: steer(
            model, others, metric, [best, *null], judge=judge, max_new_tokens=args.max_new_tokens
        ))  # fmt: skip
        s.add(steering.steering(
            tested, "tested", "The best of them, on prompts that did not choose it", values=("metric", *ranked),
            claim=ranking.told_on(tested, first),
            notes=("Neither the direction nor its layer and strength come from these prompts.",),
        ))  # fmt: skip
        s.say(steering.completions(tested, [first]))
        most = steering.extreme_null(tested, best.coefficient, refused=False)
        s.rule("one direction removes refusal", "tested", [
            steering.refusing(tested, BASELINE, "harmful prompts refused without an edit", "at least"),
            steering.refusing(tested, first, "answered with the best direction ablated", "at least", answered=True),
            None if most is None else steering.refusing(
                tested, most, f"answered with that of {TESTED} random directions that answers most", "below", answered=True
            ),
        ])  # fmt: skip

        # In the weights: the same edit, kept as a file, and what it costs on harmless text and on tasks.
        edit.weights(s, args, held_out, defined[best.layer or 0], best)
        return s.report(
            title=f"How single is the single direction in {model.name}?",
            question="Is refusal carried by one direction: across layers, prompts, padding and seeds, and at what cost?",
            prompts=f"{len(every)} instructions ({prompts.hash}, {held_out.hash}); {positions_line(tokens, pairs)}",
            certificate=swept.provenance.certificate,
            shown=("padding", "consistency", "sweep-substring-compliance"),
        )  # fmt: skip
