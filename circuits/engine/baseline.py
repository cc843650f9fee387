"""The metric of the two unedited runs of every pair: what every fraction divides by."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import capture
from circuits.engine.readout import Readout
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs


def baseline(model: Model, tokens: TokenPairs, metric: Metric) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Metric of the clean and of the corrupt prompts, fp32, on the CPU. Raises TokenError as `Metric.bind` does."""
    readout = Readout(model, metric.bind(tokens))
    runs = (capture(model, ids, tokens.mask) for ids in (tokens.clean, tokens.corrupt))
    clean, corrupt = (readout(run.resid[-1][None, :, -1])[0].cpu() for run in runs)
    return clean, corrupt
