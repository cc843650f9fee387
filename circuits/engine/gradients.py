"""Gradients of the metric with respect to activations, in whole forward passes of the Hugging Face model.

Weights are frozen. The first site in a pass becomes its leaf, so that nothing before it is kept for the backward pass. A
block can be dropped: in its backward pass nothing flows through what the block adds to the residual stream, while the
forward pass stays what it is (GradDrop: Kramár et al., arXiv 2403.00745).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.precision import REDUCED, fits_in_fp32, in_fp32
from circuits.engine.sound import require_one_device
from circuits.errors import ModelError, UndefinedError
from circuits.metrics import BoundMetric
from circuits.model import Model
from circuits.model.hooks import Edit, hooked, require_fired
from circuits.model.model import position_ids
from circuits.sites import Site


@final
@dataclass(frozen=True, eq=False)
class Gradients:
    """Of one pass: the metric, the activations it saw, and its gradients there; padding has gradient 0."""

    metric: Float[Tensor, " pair"]
    seen: dict[Site, Float[Tensor, "pair pos ..."]]
    at: tuple[dict[Site, Float[Tensor, "pair pos ..."]], ...]
    """One for each backward pass."""


def gradients(
    model: Model, tokens: Int[Tensor, "pair pos"], mask: Bool[Tensor, "pair pos"], metric: BoundMetric,
    sites: Iterable[Site], *, given: Mapping[Site, Float[Tensor, "pair pos ..."]] | None = None,
    dropped: Sequence[int | None] = (None,),
) -> Gradients:  # fmt: skip
    """One forward pass and a backward pass for every entry of `dropped`, within `differentiable(model)`.

    Sites are whole. What stands in `given` becomes the activation there, and nothing before acts through it: a site that
    acts through nothing else has gradient 0. Units of the metric per unit of the activation.
    """
    values = given or {}
    wanted = list(dict.fromkeys([*sites, *values]))
    kept: dict[Site, Tensor] = {}
    gate = _Gate()

    def edit_of(site: Site) -> Edit:
        def look(activation: Tensor) -> Tensor:
            if site in wanted:
                x = values[site].to(activation) if site in values else activation
                fresh = site in values or not x.requires_grad
                kept[site] = activation = x.detach().requires_grad_() if fresh else x.view_as(x)
            return gate.through(activation, site.layer) if site in gated else activation

        return look

    layers = {layer for layer in dropped if layer is not None}
    gated = {site for layer in layers for site in (Site("attn_out", layer), Site("mlp_out", layer))}
    edits = {site: edit_of(site) for site in {*wanted, *gated}}
    tokens, mask = tokens.to(model.device), mask.to(model.device)
    with torch.enable_grad(), hooked(model.parts, edits) as fired:
        logits = model.hf(
            input_ids=tokens, attention_mask=mask.long(), position_ids=position_ids(mask),
            use_cache=False, logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        value = metric(logits[None])[0]
        require_fired(edits, fired, model.name)
        found: list[dict[Site, Tensor]] = []
        for i, layer in enumerate(dropped):
            gate.closed = layer
            more = i + 1 < len(dropped)
            found.append(dict(zip(wanted, _of(value, [kept[site] for site in wanted], more), strict=True)))
    return Gradients(value.detach(), {site: x.detach() for site, x in kept.items()}, tuple(found))


def _of(value: Float[Tensor, " pair"], at: list[Tensor], more: bool) -> Sequence[Tensor]:  # noqa: FBT001
    return torch.autograd.grad(value.sum(), at, retain_graph=more, materialize_grads=True)


@final
class _Gate:
    """Lets gradients through, but for those of the closed block."""

    def __init__(self) -> None:
        self.closed: int | None = None

    def through(self, x: Float[Tensor, "pair pos d_model"], layer: int) -> Float[Tensor, "pair pos d_model"]:
        if not x.requires_grad:
            return x
        x = x.view_as(x)
        x.register_hook(lambda grad: torch.zeros_like(grad) if self.closed == layer else None)  # type: ignore[no-untyped-call]
        return x


@contextmanager
def differentiable(model: Model) -> Generator[None]:
    """Freeze the weights within the context, and widen those of reduced precision to fp32.

    Raises ModelError where a second set of weights in fp32 does not fit, or parameters lie on several devices.
    """
    require_one_device(model)
    reduced = model.dtype in REDUCED
    if reduced and not fits_in_fp32(model):
        raise ModelError(
            f"{model.name}: gradients in {model.dtype} are too coarse and there is no room for its weights in float32; "
            "screen a smaller model, or free memory"
        )
    learning = [p for p in model.hf.parameters() if p.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(requires_grad=False)
        with in_fp32(model) if reduced else nullcontext():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()


def require_gradient(model: Model, metric: BoundMetric, n_pairs: int, name: str) -> None:
    """Raise UndefinedError for a metric without a usable gradient, tried on made-up logits: no model is run."""
    made_up = torch.randn(1, n_pairs, model.shape.d_vocab, generator=torch.Generator().manual_seed(0))
    logits = made_up.to(model.device).requires_grad_()
    with torch.enable_grad():
        value: Any = metric(logits)
        grad = torch.autograd.grad(value.sum(), logits, allow_unused=True)[0] if value.requires_grad else None
    if grad is None or not grad.isfinite().all() or not grad.any():
        raise UndefinedError(
            f"the metric {name} has no gradient in the logits (it counts, compares or rounds them); "
            "screen with one that has, such as LogitDifference"
        )
