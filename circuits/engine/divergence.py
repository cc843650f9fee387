"""How far an edit moves the next token's distribution: a metric, so that a sweep can measure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import capture
from circuits.errors import UndefinedError
from circuits.metrics import BoundMetric, Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs


@final
class Divergence(Metric):
    """KL(unedited ‖ edited) of the corrupt prompts' next token, in nats; prompts beside themselves are both."""

    name = "KL of the next token"

    def __init__(self, model: Model, tokens: TokenPairs) -> None:
        logits = capture(model, tokens.corrupt, tokens.mask).last_logits
        self._reference = logits.float().log_softmax(-1)
        self._row = {key: row for row, key in enumerate(_prompts(tokens))}

    def bind(self, pairs: TokenPairs) -> BoundMetric:
        """The unedited run of each of these prompts. Raises UndefinedError for one that was not run."""
        rows = [self._row.get(key) for key in _prompts(pairs)]
        known = [row for row in rows if row is not None]
        if len(known) < len(rows):
            raise UndefinedError(
                f"pair {rows.index(None)} is not among the prompts whose unedited run this divergence is measured from"
            )
        return _BoundDivergence(self._reference if known == list(range(len(self._reference))) else self._reference[known])


def _prompts(tokens: TokenPairs) -> list[tuple[int, ...]]:
    """The ids of every corrupt prompt, without padding."""
    return [tuple(ids[real].tolist()) for ids, real in zip(tokens.corrupt, tokens.mask, strict=True)]


@final
@dataclass(frozen=True, eq=False)
class _BoundDivergence(BoundMetric):
    reference: Float[Tensor, "pair d_vocab"]

    def __call__(self, logits: Float[Tensor, "row pair d_vocab"]) -> Float[Tensor, "row pair"]:
        edited = logits.float().log_softmax(-1)
        return (self.reference.exp() * (self.reference - edited)).sum(-1)
