"""The metric of a final residual at the last position.

A metric linear in the logits, on a model that does not cap them, contracts with its pullback direction: no unembedding
is run. Otherwise the last position alone is unembedded, in as many pieces as memory wants.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.metrics import BoundMetric
from circuits.model import Model

_LOGITS_BYTES = 2**28


@final
class Readout:
    """Callable from final residuals at the last position to metric values, for one model and one bound metric."""

    def __init__(self, model: Model, metric: BoundMetric) -> None:
        self._model, self._metric = model, metric
        self._direction: Float[Tensor, "pair d_model"] | None = None
        # `model.logits` may scale or shift what the unembedding gives; the audit compares both forms
        if model.softcap is None and getattr(model.parts.unembed, "bias", None) is None:
            self._direction = metric.pullback(model.W_U)

    @property
    def linear(self) -> bool:
        """Whether the pullback direction serves and no unembedding is run."""
        return self._direction is not None

    def __call__(self, final: Float[Tensor, "row pair d_model"]) -> Float[Tensor, "row pair"]:
        n_pairs = final.shape[1]
        with torch.no_grad():
            if self._direction is not None:
                return (self.normalise(final).float() * self._direction).sum(-1)
            rows = max(1, _LOGITS_BYTES // (4 * self._model.shape.d_vocab * n_pairs))
            return torch.cat([self.of_logits(self.logits(part)) for part in final.split(rows)])

    def normalise(self, final: Float[Tensor, "row pair d_model"]) -> Float[Tensor, "row pair d_model"]:
        """The final norm, with its own weight, where the model applies it."""
        return self._model.parts.ln_final(final.flatten(0, 1)[:, None])[:, 0].view_as(final)

    def logits(self, final: Float[Tensor, "row pair d_model"]) -> Float[Tensor, "row pair d_vocab"]:
        """Logits as the model gives them, soft cap included."""
        logits = self._model.parts.unembed(self.normalise(final))
        cap = self._model.softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def of_logits(self, logits: Float[Tensor, "row pair d_vocab"]) -> Float[Tensor, "row pair"]:
        """The metric itself."""
        return self._metric(logits)
