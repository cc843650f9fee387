"""The judges of a case: refusal phrases and the unedited model's perplexity; an endpoint too, where one is asked for."""

from __future__ import annotations

from pathlib import Path

from circuits.judges import EndpointJudge, Judge, PerplexityJudge, SubstringJudge, several
from circuits.model import Model


def judge_of(model: Model, out: Path, *, endpoint: bool) -> Judge:
    """Scores `substring.compliance` and `perplexity.coherence`, and an endpoint's; its answers are kept in the run's folder.

    Raises CircuitError where an endpoint is asked for and none is named.
    """
    offline = (SubstringJudge(), PerplexityJudge(model))
    return several(*offline, EndpointJudge(cache=out / "data" / "judged.sqlite")) if endpoint else several(*offline)
