"""Do matched harmless partners make a better direction? The set of partners can matter; their pairing cannot, to a mean.

    matched     every harmful prompt with its own partner        shuffled    the same partners, none at its own prompt
    unmatched   other harmless prompts as partners, drawn anew for each seed

    mean        difference of means = mean of the pairs' differences: the same however the two sets are paired, which is checked
    unit mean   mean of the differences, each at norm 1          first PC    of the differences, not centred, towards `mean`
    median      of the differences, coordinate by coordinate (so it depends on the basis)

Only the last three can tell matched from shuffled. Every direction is compared with the matched difference of means: of
the pairs it was *not* made from where it was made from some, so that matched and unmatched are on equal terms; of all
pairs where it was made from all, so that they share the harmful prompts and `matched, mean` is 1 by construction. Pairs
are drawn one by one, also where some share a template.
Source: "Refusal as a Single Direction in Qwen-1.8B-Chat", effect of prompt pairing.
"""

from circuits.measure.prompt_sets.compare import compare_prompt_sets
from circuits.measure.prompt_sets.result import PromptSets

__all__ = ["PromptSets", "compare_prompt_sets"]
