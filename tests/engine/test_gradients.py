"""Gradients are what finite differences say, and those at receivers what a stream of the receiver's own gives."""

from __future__ import annotations

from typing import Any

import oracle_receivers
import pytest
import small_models
import torch
from torch import Tensor

from circuits.engine.capture import capture
from circuits.engine.edges import all_receivers
from circuits.engine.gradients import differentiable, gradients, require_gradient
from circuits.engine.receiver_gradients import ReceiverGradients, final_stream, sites
from circuits.errors import UndefinedError
from circuits.metrics import BoundMetric, LogitDifference, LogOdds, RefusalMetric
from circuits.model import load
from circuits.model.hooks import hooked
from circuits.model.model import position_ids
from circuits.prompts import TokenPairs
from circuits.sites import Site

TOKENS = small_models.uneven()
KINDS: Any = ("q", "k", "v", "pattern", "z", "result", "attn_out", "resid_mid", "post", "mlp_out", "resid_post")


class InDouble(BoundMetric):
    """Not linear in the logits, and not rounded to single precision."""

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[..., 60] - logits[..., 61].tanh()


class Counting(BoundMetric):
    def __call__(self, logits: Tensor) -> Tensor:
        return (logits[..., 60] > logits[..., 61]).float()


class Rounding(BoundMetric):
    def __call__(self, logits: Tensor) -> Tensor:
        return logits[..., 60].round()


def _run(model: Any, edits: Any, tokens: TokenPairs = TOKENS) -> Tensor:
    with torch.no_grad(), hooked(model.parts, edits):
        ids, mask = tokens.clean, tokens.mask
        logits = model.hf(input_ids=ids, attention_mask=mask.long(), position_ids=position_ids(mask), use_cache=False)
    return InDouble()(logits.logits[:, -1][None])[0]


def _unit(size: Any, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# In GPT-2 nothing is computed in single precision: differences of 1e-5 tell gradients to 1e-8. In Gemma 2 softmax is, and
# what masks padding in double is too much for it: a prompt without padding.
@pytest.mark.parametrize(("architecture", "step", "allowed"), [("gpt2", 1e-5, 1e-7), ("gemma2", 3e-3, 1e-2)])
def test_gradients_are_finite_differences(architecture: str, step: float, allowed: float):
    model = load(str(small_models.folder(architecture)), device="cpu", dtype="float64")
    tokens = TOKENS if architecture == "gpt2" else TOKENS.select([2])
    wanted = [Site("embed"), *(Site(kind, layer) for kind in KINDS for layer in (0, 2))]
    with differentiable(model):
        found = gradients(model, tokens.clean, tokens.mask, InDouble(), wanted)
    torch.testing.assert_close(found.metric, _run(model, {}, tokens))
    for i, site in enumerate(wanted):
        toward = _unit(found.seen[site].shape, i)
        if site.kind == "pattern":  # what a row does not see has weight 0 and no say
            toward = toward * (found.seen[site] > 0)
        ends = [_run(model, {site: lambda x, d=sign * step * toward: x + d}, tokens) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * step)
        got = (found.at[0][site] * toward).flatten(1).sum(1)
        assert (got - expected).abs().max() <= allowed * expected.abs().max(), site.label


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_a_receiver_alone_reads_another_stream(architecture: str):
    model, hf = small_models.model(architecture), small_models.raw(architecture)
    one, other = (model.tokenizer.get_vocab()[w] for w in ("w60", "w61"))
    metric = LogitDifference(model, "w60", "w61").bind(TOKENS)
    with differentiable(model):
        found = gradients(model, TOKENS.clean, TOKENS.mask, metric, sites(range(model.shape.n_layers)))
        pulled = ReceiverGradients(model)
        rows = [
            *(pulled.block(layer, found) for layer in range(model.shape.n_layers)),
            final_stream(model, found)[None],
        ]
    for pair in (1, 2):  # padded by five columns, and by none
        real = TOKENS.mask[pair]
        expected = oracle_receivers.gradients(hf, TOKENS.clean[pair][real], lambda logits: logits[one] - logits[other])
        assert list(expected) == all_receivers(model)
        for (name, want), got in zip(expected.items(), torch.cat(rows)[:, pair], strict=True):
            assert (got[real] - want).abs().max() <= 5e-5 * want.abs().max(), name
            assert not got[~real].any(), name


def test_receivers_of_a_block_and_the_stream_that_stays_add_up():
    for architecture in ("gemma2", "gpt_neox", "olmo2"):
        model = small_models.model(architecture)
        with differentiable(model):
            found = gradients(
                model, TOKENS.clean, TOKENS.mask, RefusalMetric(model, "w60").bind(TOKENS), sites(range(4))
            )
            pulled = ReceiverGradients(model)
            for layer in range(4):
                whole = found.at[0][Site("resid_pre", layer)]
                total = pulled.block(layer, found).sum(0) + found.at[0][Site("mlp_out", layer)]
                assert (total - whole).abs().max() <= 1e-5 * whole.abs().max()


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "gpt_neox"])
def test_a_dropped_block_is_a_constant(architecture: str):
    model, mask = small_models.model(architecture), TOKENS.mask
    metric, embed = RefusalMetric(model, "w60").bind(TOKENS), Site("embed")
    run = capture(model, TOKENS.clean, mask, [Site(k, n) for n in range(4) for k in ("attn_out", "mlp_out")])
    with differentiable(model):
        found = gradients(model, TOKENS.clean, mask, metric, [embed, Site("z", 2)], dropped=[None, 0, 2])
        for layer, at in zip((0, 2), found.at[1:], strict=True):
            held = {site: value for site, value in run.seen.items() if site.layer == layer}
            expected = gradients(model, TOKENS.clean, mask, metric, [embed], given=held).at[0][embed]
            torch.testing.assert_close(at[embed], expected, rtol=1e-4, atol=1e-6)
            assert (at[embed] - found.at[0][embed]).abs().max() > 1e-3
    assert not found.at[2][Site("z", 2)].any()
    assert found.at[1][Site("z", 2)].any()


def test_what_is_given_stands_there_and_nothing_before_acts_through_it():
    model, metric = small_models.model("gpt2"), InDouble()
    pre, embed, site = Site("resid_pre", 2), Site("embed"), Site("z", 1)
    value = torch.randn(*TOKENS.mask.shape, 32, generator=torch.Generator().manual_seed(0))
    with differentiable(model):
        found = gradients(model, TOKENS.clean, TOKENS.mask, metric, [embed, site], given={pre: value})
    torch.testing.assert_close(found.metric, _run(model, {pre: lambda _: value}))
    assert torch.equal(found.seen[pre], value)
    assert not found.at[0][embed].any()
    assert not found.at[0][site].any()
    assert found.at[0][pre].any()


def test_weights_are_as_before_and_half_precision_is_widened():
    model = load(str(small_models.folder("gpt2")), device="cpu", dtype="bfloat16")
    wide = load(str(small_models.folder("gpt2")), device="cpu")
    for narrow, parameter in zip(model.hf.parameters(), wide.hf.parameters(), strict=True):
        parameter.data.copy_(narrow.data)
    model.hf.transformer.wte.weight.requires_grad_(requires_grad=False)
    before = [(p.requires_grad, p.data.clone()) for p in model.hf.parameters()]
    metric = RefusalMetric(wide, "w60").bind(TOKENS)
    found: list[Tensor] = []
    with pytest.raises(RuntimeError, match="stop"), differentiable(model):  # noqa: PT012  left by an error
        found.append(gradients(model, TOKENS.clean, TOKENS.mask, metric, [Site("z", 1)]).at[0][Site("z", 1)])
        raise RuntimeError("stop")
    with differentiable(wide):
        expected = gradients(wide, TOKENS.clean, TOKENS.mask, metric, [Site("z", 1)]).at[0][Site("z", 1)]
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected)
    for parameter, (learns, data) in zip(model.hf.parameters(), before, strict=True):
        assert parameter.requires_grad == learns
        assert torch.equal(parameter.data, data)


@pytest.mark.parametrize("metric", [Counting(), Rounding()])
def test_a_metric_without_a_gradient_is_refused(metric: Any):
    with pytest.raises(UndefinedError, match="the metric counted has no gradient"):
        require_gradient(small_models.model("gpt2"), metric, 5, "counted")


def test_metrics_of_the_package_have_gradients():
    model = small_models.model("gemma2")
    for metric in (RefusalMetric(model, "w60"), LogitDifference(model), LogOdds(model, "w60", "w61")):
        require_gradient(model, metric.bind(TOKENS), TOKENS.n_pairs, metric.name)
