"""The argument of the replication, top to bottom: which words, when, where, which blocks and heads, and steering."""

from __future__ import annotations

import argparse
from pathlib import Path

from circuits.case import Progress
from circuits.case.condition import Rows, pick
from circuits.case.inputs import pairs_of, positions_line, single_token_difference
from circuits.case.sections import patching
from circuits.case.study import Study, open_model
from circuits.case.wording import told
from circuits.cases.gemma2_replication.halves import template_halves
from circuits.cases.gemma2_replication.published import PUBLISHED as P
from circuits.cases.gemma2_replication.steered import steered
from circuits.cases.gemma2_replication.together import together
from circuits.frames import records
from circuits.measure.blocks import patch_blocks
from circuits.measure.heads import patch_heads
from circuits.measure.lens import READINGS, logit_lens
from circuits.measure.residual import patch_residual
from circuits.measure.steering import coefficients
from circuits.prompts import filter_subjects, refusal_subjects


def study(args: argparse.Namespace, progress: Progress) -> Path:
    """Run the case; returns the report's index.html. Raises CircuitError for input that cannot be used."""
    scales = coefficients(args.coefficients, "--coefficients")
    model = open_model(args, progress)
    metric = single_token_difference(model, args.metric, ("sorry", "sure"), bundled="diff:I,Sure")
    pairs = pairs_of(args.pairs)
    tokens = pairs.tokenize(model, template=args.template, drop_misaligned=args.drop_misaligned)
    metric.bind(tokens)
    chosen_on, others = template_halves(tokens)
    progress.say("pairs", positions_line(tokens, pairs))
    progress.say("metric", metric.name)
    n = model.shape.n_layers
    with Study(
        args, progress, case="gemma2_replication", model=model, tokens=tokens, metric=metric, published=P, steps=7
    ) as s:
        # Which words? A subject of several tokens has no position of its own.
        words = filter_subjects(model, refusal_subjects(), chat=args.template)
        rejected = ", ".join(f"{w.text} ({'|'.join(w.pieces)})" for w in words.rejected[:6]) or "none"
        s.tell(
            "subjects", "Which candidate subjects are one token",
            f"{len(words.kept)} of {len(words.kept) + len(words.rejected)} are one token here; rejected: {rejected}.",
            {}, words.to_frame(), read="Every candidate with its pieces, and why it was rejected.",
            against="Words of several tokens that behave as the others do; this case does not test that.",
        )  # fmt: skip

        # When is the metric there? The residual stream read off at every layer, both sets.
        lens = s.measure("lens", lambda: logit_lens(model, tokens, metric, seed=args.seed))
        end = next(r for r in records(lens.to_summary()) if r["reading"] == READINGS[0] and r["layer"] == n)
        s.tell(
            "lens", "The metric read off the residual stream, layer by layer",
            f"In the end clean prompts lie {told(end)} above corrupt ones.",
            {"lens": lens.figure(), "lens-absolute": lens.absolute_figure()}, lens.to_summary(),
            read="The last position's residual entering each layer, read as if it were final; grey: random directions.",
            against="A difference that grows as much along random directions.",
            notes=(
                "The absolute reading holds what both prompts share; only the difference is about the subject.",
                "Where a model soft-caps its logits this is read before the cap: the metric itself is smaller.",
            ),
        )  # fmt: skip

        # Where? Residual stream, attention and MLP outputs, at the subject, after it, and at the last position.
        where = s.both("residual", patch_residual)
        s.add(patching.residual(where, P["residual"]))
        carried = Rows.of(where["denoise"])
        s.rule("the last position carries it late, and not early", "residual", [
            pick(carried, f"last position entering layer {n - 1}", "at least", 0.5, layer=n - 1, pos=-1),
            pick(carried, "last position entering layer 1", "below", 0.5, layer=1, pos=-1),
        ])  # fmt: skip
        blocks = s.both("blocks", patch_blocks)
        s.add(patching.blocks(blocks, P["blocks"]))

        # Which heads? A threshold picks them one by one; whether they do it together is another question.
        single = s.both("heads", patch_heads)
        s.add(patching.heads(single, P["heads"]))
        together(s, single["denoise"], chosen_on, others, threshold=args.threshold, seed=args.seed)

        # Steering: the difference of means, and a single prompt's activation, added in the middle of the model.
        steered(s, args, scales, chosen_on, others)
        return s.report(
            title=f"The refusal mechanism in {model.name}", prompts=positions_line(tokens, pairs),
            question="Does the mechanism replicate in another family, with another metric?",
            certificate=where["denoise"].provenance.certificate,
            shown=("residual-denoise", "heads-denoise", "steering-harmless-metric"),
        )  # fmt: skip
