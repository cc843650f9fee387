"""The argument of the replication, top to bottom: which words, when, where, which blocks and heads, and steering."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Literal

from circuits.case import Progress
from circuits.case.condition import Rows, pick
from circuits.case.inputs import pairs_of, positions_line, single_token_difference
from circuits.case.sections import patching, steering
from circuits.case.study import Study, open_model
from circuits.case.wording import number, told
from circuits.cases.gemma2_replication.published import PUBLISHED as P
from circuits.engine import capture
from circuits.frames import records
from circuits.measure.blocks import patch_blocks
from circuits.measure.head_sets import patch_head_sets
from circuits.measure.heads import patch_heads
from circuits.measure.lens import READINGS, logit_lens
from circuits.measure.residual import patch_residual
from circuits.measure.steering import additions, coefficients, steer
from circuits.prompts import filter_subjects, refusal_subjects
from circuits.sites import head

SIDES: tuple[tuple[Literal["clean", "corrupt"], str, int], ...] = (("corrupt", "harmless", 1), ("clean", "harmful", -1))
"""Which prompts are steered, what they are, and which way the metric should go."""
CHOSEN = "above the threshold"


def study(args: argparse.Namespace, progress: Progress) -> Path:
    """Run the case; returns the report's index.html. Raises CircuitError for input that cannot be used."""
    scales = coefficients(args.coefficients, "--coefficients")
    model = open_model(args, progress)
    metric = single_token_difference(model, args.metric, ("sorry", "sure"), bundled="diff:I,Sure")
    pairs = pairs_of(args.pairs)
    tokens = pairs.tokenize(model, template=args.template, drop_misaligned=args.drop_misaligned)
    metric.bind(tokens)
    progress.say("pairs", positions_line(tokens, pairs))
    progress.say("metric", metric.name)
    n = model.shape.n_layers
    with Study(args, progress, case="gemma2_replication", model=model, tokens=tokens, metric=metric, published=P, steps=7) as s:
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
            notes=("The absolute reading holds what both prompts share; only the difference is about the subject.",),
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
        table = single["denoise"].to_summary()
        over = records(table[table["mean"].abs() >= args.threshold])
        if over:
            sets = {CHOSEN: [head(int(r["layer"]), int(r["head"])) for r in over]}
            both = s.both("together", patch_head_sets, sets=sets, positions="last", seed=args.seed)
            survive = sum(bool(r["survives"]) for r in over)
            s.add(patching.head_sets(
                both, P["head-sets"], title="The chosen heads together: sufficient? necessary?",
                chosen=f"{len(over)} of {len(table)} heads move the metric by {args.threshold:g} of the gap or more when "
                f"denoised alone; {survive} of them survive the sweep-wide test. Chosen on the pairs they are tested on.",
            ))  # fmt: skip
            for what, found in (("sufficient", both["denoise"]), ("necessary", both["noise"])):
                s.rule(f"heads chosen one by one are {what} together", "head-sets", [
                    pick(Rows.of(found), f"{len(over)} heads {found.direction[:-1]}ed", "at least", 0.5, set=CHOSEN)
                ])  # fmt: skip

        # Steering: the difference of means, and a single prompt's activation, added in the middle of the model.
        layer = n // 2
        clean, corrupt = (capture(model, ids, tokens.mask).resid[layer][:, -1] for ids in (tokens.clean, tokens.corrupt))
        vectors = {"difference vector": (clean - corrupt).mean(0), "activation vector": clean[0]}
        doses = [dose for name, v in vectors.items() for dose in additions({layer: v}, scales, series=name)]
        lengths = " and ".join(f"the {name} has norm {number(float(v.norm()))}" for name, v in vectors.items())
        note = f"Added to every position entering layer {layer}; {lengths} (the first harmful prompt's)."
        for on, kind, sign in SIDES:
            found = s.measure(
                f"steering {kind}", partial(steer, model, tokens, metric, doses, on=on, max_new_tokens=args.max_new_tokens)
            )
            s.add(steering.steering(found, f"steering-{kind}", f"Steering {kind} prompts", P["steering"], notes=(note,)))
            largest = max(scales, key=lambda scale, sign=sign: scale * sign)
            s.say(steering.completions(found, [d.name for d in doses if d.coefficient == largest], prompts=3, kind=kind))
            moved = found.to_frame().query("series == 'difference vector'")
            s.rule(f"the difference vector steers {kind} prompts", f"steering-{kind}", [
                pick(
                    Rows(moved.assign(change=sign * moved["change"]), found.clusters),
                    f"metric moved as wanted by {largest:+g}", "at least", 0.0, value="change", coefficient=largest,
                )
            ])  # fmt: skip
        return s.report(
            title=f"The refusal mechanism in {model.name}", prompts=positions_line(tokens, pairs),
            question="Does the mechanism replicate in another family, with another metric?",
            certificate=where["denoise"].provenance.certificate,
        )  # fmt: skip
