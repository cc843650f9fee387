"""A model whose logits are more than unembedded residuals is refused, not shared out wrongly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_models
import torch

from circuits.engine import capture
from circuits.engine.direct import direct
from circuits.errors import AuditError
from circuits.metrics import RefusalMetric

TOKENS = small_models.uneven()


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_parts_and_constants_are_the_metric_before_the_cap(architecture: str):
    model = small_models.model(architecture)
    run = capture(model, TOKENS.clean, TOKENS.mask)
    found = direct(model, TOKENS, RefusalMetric(model, "w60"), run)
    total = found.read(run.resid[-1][:, -1]) + found.norm_bias + found.unembed_bias
    assert torch.allclose(total, found.uncapped, atol=1e-6)
    capped = (found.uncapped - found.metric).abs().max() > 1e-5
    assert capped == (model.softcap is not None)


def test_scaled_logits_are_refused():
    model = small_models.model("llama")
    run = capture(model, TOKENS.clean, TOKENS.mask)
    with pytest.raises(AuditError, match="not unembedded"):
        direct(model, TOKENS, RefusalMetric(model, "w60"), replace(run, last_logits=run.last_logits * 0.5))
