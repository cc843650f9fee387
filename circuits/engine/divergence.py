"""How far an edit moves the next token's distribution: a metric, so that a sweep can measure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import capture
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

    def bind(self, pairs: TokenPairs) -> BoundMetric:
        del pairs
        return _BoundDivergence(self._reference)


@final
@dataclass(frozen=True, eq=False)
class _BoundDivergence(BoundMetric):
    reference: Float[Tensor, "pair d_vocab"]

    def __call__(self, logits: Float[Tensor, "row pair d_vocab"]) -> Float[Tensor, "row pair"]:
        edited = logits.float().log_softmax(-1)
        return (self.reference.exp() * (self.reference - edited)).sum(-1)
