"""Whose prompts: matched, unmatched and shuffled partners, and estimators for which pairing matters."""

from __future__ import annotations

from circuits.case.measured import Missing
from circuits.case.study import Study
from circuits.case.wording import number, told
from circuits.frames import records
from circuits.measure.prompt_sets import compare_prompt_sets
from circuits.prompts.instruction_tokens import InstructionTokens


def tell(s: Study, other: InstructionTokens, layer: int, seed: int) -> None:
    """Directions from the study's pairs and from other harmless prompts, compared and ablated."""
    title = "Matched, unmatched and shuffled harmless prompts"
    sets = s.attempt("prompt sets", lambda: compare_prompt_sets(
        s.model, s.tokens, other, metric=s.metric, layer=layer, null_directions=30, effect_seeds=3, seed=seed
    ))  # fmt: skip
    if isinstance(sets, Missing):
        s.missing("sets", title, sets)
        return
    last = sets.effect_summary().drop_duplicates(["set", "estimator"], keep="last")
    effect = {(r["set"], r["estimator"]): r for r in records(last)}
    own, unmatched = effect["matched", "mean"], effect["unmatched", "mean"]
    s.tell(
        "sets", title,
        f"Shuffling partners moves a difference of means by {sets.identity:.0e} of its norm: it does not depend on them. "
        f"Ablated, the matched direction removes {told(own | {'mean': own['removed']})} of the metric's gap, that of other "
        f"harmless prompts {told(unmatched | {'mean': unmatched['removed']})}, random directions "
        f"{number(own['null_low'])} to {number(own['null_high'])} (95 %).",
        {"sets": sets.figure(), "sets-effect": sets.effect_figure()}, sets.to_summary(),
        read="Cosine with the matched difference of means, by estimator; pairing matters to the mean of unit differences, the "
        "first component and the median only.",
        against="Random directions that remove as much (line).",
        notes=() if own["held_out"] else (
            "Both directions are made of all the pairs' harmful prompts and ablated on these same prompts.",
        ),
    )  # fmt: skip
