"""What is proved of a model before anyone measures with it.

1. logits of the transformer-lens view equal the Hugging Face forward, and so do those read from the final residual;
2. resid_pre + attn_out + mlp_out = resid_post in every block;
3. attention rows sum to one, and values mixed by them are z; a head without its query (or its key) attends evenly, and
   the others as before: patterns, heads and key-value heads are addressed as the model uses them;
4. hooks bite: zeroing any site of the first, middle or last block changes the logits.

Each is run on one short sequence. A model that fails is refused with the number that failed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.errors import ModelError
from circuits.model.hooks import Edit, hooked, recorded
from circuits.sites import Site, SiteKind

if TYPE_CHECKING:
    from circuits.model.model import Model

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Hugging Face computes softmax and norms in single precision whatever the model's dtype."""
_BITING: tuple[SiteKind, ...] = ("resid_pre", "q", "k", "v", "pattern", "z", "result", "attn_out", "post", "mlp_out")


def prove(model: Model) -> dict[str, float]:
    """Run the four checks and return what was measured. Raises ModelError on the first that fails."""
    tolerance = _TOLERANCE.get(model.dtype, 5e-2)
    tokens = _probe_tokens(model)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    logits = model.logits(tokens, mask)
    scale = logits.abs().max().item() or 1.0

    with torch.no_grad():
        bridge = model.bridge(tokens, return_type="logits")
    facts = {"logits against transformer-lens": (bridge - logits).abs().max().item() / scale}
    facts |= {"logits from the final residual": _readout(model, tokens, mask, logits) / scale}
    facts |= _identities(model, tokens, mask) | _even(model, tokens, mask)
    for fact, value in facts.items():
        if not value <= tolerance:
            raise ModelError(
                f"{model.name}: {fact} off by {value:.1e} (at most {tolerance:.0e}); not supported exactly"
            )
    facts["smallest effect of zeroing a site"] = _bite(model, tokens, mask, logits) / scale
    return facts


def _probe_tokens(model: Model) -> Int[Tensor, "row pos"]:
    """Six distinct ordinary tokens: enough for attention to have something to choose from."""
    generator = torch.Generator().manual_seed(0)
    low = min(8, model.shape.d_vocab // 2)
    ids = torch.randperm(model.shape.d_vocab - low, generator=generator)[:6] + low
    return ids[None].to(model.device)


def _readout(model: Model, tokens: Tensor, mask: Tensor, logits: Tensor) -> float:
    """How far the final norm, the unembedding and the soft cap are from being all that follows the last block."""
    with recorded(model.parts) as calls:
        model.logits(tokens, mask)
    with torch.no_grad():
        found: Tensor = model.parts.unembed(model.parts.ln_final(calls[-1]["hidden_states"]))
    if model.softcap is not None:
        found = torch.tanh(found / model.softcap) * model.softcap
    return (found - logits).abs().max().item()


def _identities(model: Model, tokens: Tensor, mask: Tensor) -> dict[str, float]:
    seen: dict[Site, Tensor] = {}

    def keep(site: Site) -> Edit:
        def read(activation: Tensor) -> None:
            seen[site] = activation.detach()

        return read

    wanted: tuple[SiteKind, ...] = ("resid_pre", "v", "pattern", "z", "attn_out", "mlp_out", "resid_post")
    kinds: list[SiteKind] = [kind for kind in wanted if kind not in model.parts.lacking]
    sites = [Site(kind, layer) for layer in range(model.shape.n_layers) for kind in kinds]
    with hooked(model.parts, {site: keep(site) for site in sites}):
        model.logits(tokens, mask)
    found: dict[str, float] = {}
    group = model.shape.n_heads // model.shape.n_kv_heads
    for layer in range(model.shape.n_layers):
        here: dict[str, Tensor] = {kind: seen[Site(kind, layer)] for kind in kinds}
        pre, post = here["resid_pre"], here["resid_post"]
        gaps = {"residual additivity": (pre + here["attn_out"] + here["mlp_out"] - post, post)}
        if "pattern" in here:
            gaps["attention rows"] = (here["pattern"].sum(-1) - 1, torch.ones(()))
        if "pattern" in here and "v" in here:
            values = here["v"].repeat_interleave(group, 2)
            mixed = torch.einsum("rqhk,rkhd->rqhd", here["pattern"], values)
            gaps["values mixed by patterns"] = (mixed - here["z"], here["z"])
        for fact, (gap, scale) in gaps.items():
            found[fact] = max(found.get(fact, 0.0), (gap.abs().max() / scale.abs().max()).item())
    return found


def _even(model: Model, tokens: Tensor, mask: Tensor) -> dict[str, float]:
    """How far the first head's pattern is from even when its query or key is zero, and other groups' from unchanged."""
    if {"q", "k", "pattern"} & set(model.parts.lacking):
        return {}
    group, worst = model.shape.n_heads // model.shape.n_kv_heads, 0.0
    for layer in _some_layers(model):
        pattern = Site("pattern", layer)
        kinds: tuple[SiteKind, ...] = ("q", "k")
        rows: dict[str, Tensor] = {}

        def keep(name: str, activation: Tensor, rows: dict[str, Tensor] = rows) -> None:
            rows[name] = activation.detach()

        with hooked(model.parts, {pattern: partial(keep, "intact")}), recorded(model.parts) as calls:
            model.logits(tokens, mask)
        allowed = calls[layer]["attention_mask"][:, 0, :, None] > torch.finfo(model.dtype).min / 2
        even = allowed / allowed.sum(-1, keepdim=True)
        for kind in kinds:
            with hooked(model.parts, {Site(kind, layer): _without_first, pattern: partial(keep, kind)}):
                model.logits(tokens, mask)
            silent = 1 if kind == "q" else group
            gap = rows[kind] - torch.cat([even.expand(-1, -1, silent, -1), rows["intact"][:, :, silent:]], 2)
            worst = max(worst, gap.abs().max().item())
    return {"attention without a query or key": worst}


def _without_first(activation: Tensor) -> Tensor:
    activation = activation.clone()
    activation[:, :, 0] = 0
    return activation


def _some_layers(model: Model) -> list[int]:
    return sorted({0, model.shape.n_layers // 2, model.shape.n_layers - 1})


def _bite(model: Model, tokens: Tensor, mask: Tensor, logits: Tensor) -> float:
    def zero(activation: Tensor) -> Tensor:
        return torch.zeros_like(activation)

    smallest = float("inf")
    kinds: list[SiteKind] = [kind for kind in _BITING if kind not in model.parts.lacking]
    for kind in kinds:
        for layer in _some_layers(model):
            site = Site(kind, layer)
            with hooked(model.parts, {site: zero}) as fired:
                change: Any = (model.logits(tokens, mask) - logits).abs().max().item()
            if not fired[site] or not change > 0:
                raise ModelError(f"{model.name}: overwriting {site.label} does not change the logits")
            smallest = min(smallest, change)
    return smallest
