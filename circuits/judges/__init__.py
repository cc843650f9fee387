"""Judges of completions: whether the model did what was asked, and whether the text holds together.

    judge = several(SubstringJudge(), PerplexityJudge(model))      # offline
    judge = EndpointJudge(cache="runs/judged.sqlite")              # any OpenAI-compatible endpoint
    found = judge(prompts, completions)
    found.scores["perplexity.coherence"]      # NaN where missing, never 0
    found.missing                             # prompt -> why

A judge is anything with a name, the names of its scores, and a call; `Judge` says exactly what.
"""

from circuits.judges.endpoint import EndpointJudge
from circuits.judges.judged import Judge, Judged
from circuits.judges.perplexity import PerplexityJudge
from circuits.judges.several import several
from circuits.judges.substring import SubstringJudge

__all__ = ["EndpointJudge", "Judge", "Judged", "PerplexityJudge", "SubstringJudge", "several"]
