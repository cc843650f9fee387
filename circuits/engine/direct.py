"""The metric as a sum over what was written to the residual stream: one direction, the scale of the run, constants.

    logits = W_U norm(x) + b_U            x the final residual at the last position
    metric = ⟨g, norm(x)⟩ + metric(b_U)   g the metric's pullback through W_U
           = ⟨g, linear(x)⟩ + ⟨g, bias⟩ + metric(b_U), where norm(x) = linear(x) + bias at the scale of the run

With that scale held, whatever adds up to x adds up to the metric. A soft cap comes after this sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Run
from circuits.engine.readout import Readout
from circuits.errors import AuditError, UndefinedError
from circuits.linalg import FrozenNorm, freeze_norm
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs


@final
@dataclass(frozen=True, eq=False)
class Direct:
    """How the last position of one run is read; in double precision, on the CPU."""

    direction: Float[Tensor, "pair d_model"]
    """g: in the normalised final residual."""
    norm: FrozenNorm
    norm_bias: Float[Tensor, " pair"]
    """⟨g, bias of the final norm⟩."""
    unembed_bias: Float[Tensor, " pair"]
    """metric(b_U)."""
    uncapped: Float[Tensor, " pair"]
    """⟨g, norm(x)⟩ + metric(b_U): the metric of the logits before any soft cap."""
    metric: Float[Tensor, " pair"]
    """Of the logits that the Hugging Face forward gives."""

    def read(self, x: Float[Tensor, "pair ... d_model"]) -> Float[Tensor, "pair ..."]:
        """What parts of the final residual contribute: ⟨g, linear(x)⟩."""
        return torch.einsum("p...d,pd->p...", self.norm.linear(x), self.direction)


def pullback(model: Model, tokens: TokenPairs, metric: Metric) -> Float[Tensor, "pair d_model"]:
    """The metric's direction in the normalised final residual. Raises UndefinedError where it is not linear in the logits."""
    found = metric.bind(tokens).pullback(model.W_U)
    if found is None:
        raise UndefinedError(
            f"{metric.name} is not linear in the logits: it has no direction to read or to share out\n"
            "take a difference of logits, e.g. RefusalMetric or LogitDifference"
        )
    return found.double().cpu()


def direct(model: Model, tokens: TokenPairs, metric: Metric, run: Run) -> Direct:
    """How one run's last position is read.

    Raises UndefinedError as `pullback` does; AuditError where the model changes its logits after unembedding them in a
    way not known here.
    """
    direction, bound = pullback(model, tokens, metric), metric.bind(tokens)
    final = run.resid[-1][:, -1]
    norm = freeze_norm(model.parts.ln_final, final)
    bias: Any = getattr(model.parts.unembed, "bias", None)
    shift = torch.zeros(len(direction)).double()
    if bias is not None:
        shift = bound(bias.detach().cpu().expand(1, len(direction), -1))[0].double()
    with torch.no_grad():
        normalised = model.parts.ln_final(final).double().cpu()
    reached = Readout(model, bound)(final[None])[0].double().cpu()
    metric_ = bound(run.last_logits[None])[0].double().cpu()
    gap = ((reached - metric_).abs() / metric_.abs().clamp(min=1)).max().item()
    if not gap <= (1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1):
        raise AuditError(
            f"{model.name}: its logits are not unembedded (and capped) final residuals, off by {gap:.1e}; "
            "what is read there would not add up to the metric"
        )
    return Direct(
        direction=direction, norm=norm, norm_bias=direction @ norm.bias, unembed_bias=shift,
        uncapped=(normalised * direction).sum(-1) + shift, metric=metric_,
    )  # fmt: skip
