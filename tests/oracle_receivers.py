"""Gradients at what every receiver reads, and edge scores from them: one prompt, plain hooks, nothing of the engine.

A receiver is given a stream of its own, x + δ with a leaf δ = 0, by plain calls of the block's modules; PyTorch's gradient
at δ is how the metric changes when this receiver alone reads another stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import oracle
import oracle_modules as modules
import small_models
import torch
from torch import Tensor

_PRE = {"gpt2": "ln_1", "olmo2": None}
_MLP_NORM = {
    "gpt2": "ln_2", "olmo2": None, "gemma2": "pre_feedforward_layernorm", "gemma3_text": "pre_feedforward_layernorm",
}  # fmt: skip
_FINAL = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
_RAW = {"gpt2": "attn.c_attn", "gpt_neox": "attention.query_key_value", "phi3": "self_attn.qkv_proj"}


def _kind(hf: Any) -> str:
    return hf.config.model_type


def _block(hf: Any, layer: int) -> Any:
    return modules.module(hf, "resid_pre", layer)


def _norm(hf: Any, layer: int, names: dict[str, Any], usual: str) -> Any:
    name = names.get(_kind(hf), usual)
    return None if name is None else _block(hf, layer).get_submodule(name)


def receivers(hf: Any) -> list[str]:
    names = []
    for layer in range(hf.config.num_hidden_layers):
        names += [f"L{layer}.{kind}[{h}]" for kind in "qkv" for h in range(modules.heads(hf, kind))]
        names.append(f"L{layer}.MLP")
    return [*names, "metric"]


def gradients(
    hf: Any, ids: Tensor, metric: Callable[[Tensor], Tensor], entering: Tensor | None = None
) -> dict[str, Tensor]:
    """Receiver -> gradient [pos, d_model]; `entering` replaces what enters block 0."""
    size = hf.config.hidden_size
    delta = {name: torch.zeros(len(ids), size, dtype=hf.dtype, requires_grad=True) for name in receivers(hf)}
    value = _run(hf, ids, metric, delta, entering)
    names = list(delta)
    return dict(zip(names, torch.autograd.grad(value, [delta[n] for n in names]), strict=True))


def value(hf: Any, ids: Tensor, metric: Callable[[Tensor], Tensor], changes: dict[str, Tensor]) -> Tensor:
    """The metric where these receivers alone read x + a change: path patching of edges into them."""
    nothing = torch.zeros(len(ids), hf.config.hidden_size, dtype=hf.dtype)
    with torch.no_grad():
        return _run(hf, ids, metric, {name: changes.get(name, nothing) for name in receivers(hf)}, None)


def _run(  # noqa: C901  one hook for every sort of receiver
    hf: Any, ids: Tensor, metric: Callable[[Tensor], Tensor], delta: dict[str, Tensor], entering: Tensor | None
) -> Tensor:
    x: dict[int, Tensor] = {}

    def at_block(layer: int) -> Callable[..., Any]:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = args[0] if args else kwargs["hidden_states"]
            if layer == 0 and entering is not None:
                given = entering[None]
            x[layer] = given
            return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": given})

        return hook

    def reading(kind: str, layer: int) -> Callable[..., Any]:
        """After the module of q, k or v: each head's part as it is for a stream of this head's own."""
        pre = _norm(hf, layer, _PRE, "input_layernorm")
        block = _block(hf, layer)
        normed = modules.module(hf, kind, layer)
        raw = block.get_submodule(_RAW.get(_kind(hf), f"self_attn.{kind}_proj"))

        def hook(_: Any, args: Any, output: Tensor) -> Tensor:
            new = output.clone()
            for h in range(modules.heads(hf, kind)):
                stream = x[layer] + delta[f"L{layer}.{kind}[{h}]"]
                entered = raw.forward(stream if pre is None else pre.forward(stream))
                if normed is not raw:
                    shape = args[0].shape
                    if args[0].ndim == 4:  # heads apart, before or after positions
                        entered = entered.unflatten(-1, (-1, shape[-1]))
                        entered = entered.transpose(1, 2) if entered.shape != shape else entered
                    entered = normed.forward(entered)
                modules.view(hf, kind, new)[:, :, h] = modules.view(hf, kind, entered)[:, :, h]
            return new

        return hook

    def shifted(name: str) -> Callable[..., Any]:
        return lambda _, args: (args[0] + delta[name], *args[1:])

    with ExitStack() as stack:
        for layer in range(hf.config.num_hidden_layers):
            block = _block(hf, layer)
            stack.callback(block.register_forward_pre_hook(at_block(layer), with_kwargs=True).remove)
            for kind in "qkv":
                module = modules.module(hf, kind, layer)
                stack.callback(module.register_forward_hook(reading(kind, layer)).remove)
            norm = _norm(hf, layer, _MLP_NORM, "post_attention_layernorm") or block.mlp
            stack.callback(norm.register_forward_pre_hook(shifted(f"L{layer}.MLP")).remove)
        final = hf.get_submodule(_FINAL.get(_kind(hf), "model.norm"))
        stack.callback(final.register_forward_pre_hook(shifted("metric")).remove)
        return metric(hf(input_ids=ids[None], use_cache=False).logits[0, -1])


def written(hf: Any, ids: Tensor) -> dict[str, Tensor]:
    """Sender -> what it adds [pos, d_model], in a model without post-norms."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> modules.Change:
        def act(t: Tensor) -> Tensor:
            seen[name] = t[0].detach().clone()
            return t

        return act

    with ExitStack() as stack, torch.no_grad():
        for layer in range(hf.config.num_hidden_layers):
            for kind in ("resid_pre", "z", "mlp_out"):
                for hook in modules.hooks(hf, kind, layer, keep(f"{kind} {layer}")):
                    stack.callback(hook.remove)
        hf(input_ids=ids[None], use_cache=False)
        found = {"embed": seen["resid_pre 0"]}
        for layer in range(hf.config.num_hidden_layers):
            for h, matrix in enumerate(modules.w_o(hf, layer)):
                found[f"L{layer}.H{h}"] = seen[f"z {layer}"][:, h] @ matrix
            found[f"L{layer}.MLP"] = seen[f"mlp_out {layer}"]
    return found


def eap_ig(
    hf: Any, base: Tensor, source: Tensor, metric: Callable[[Tensor], Tensor], edges: Sequence[tuple[str, str]],
    steps: int,
) -> list[float]:  # fmt: skip
    """Hanna et al., step by step and edge by edge: (z' − z) (1/m) Σ_k ∂L(z' + k/m (z − z'))/∂z, z' the source run."""
    of_base, of_source = written(hf, base), written(hf, source)
    z, other = of_base["embed"], of_source["embed"]
    scores = [0.0] * len(edges)
    for k in range(1, steps + 1):
        at = gradients(hf, base, metric, other + k / steps * (z - other))
        for i, (sender, receiver) in enumerate(edges):
            change = of_source[sender] - of_base[sender]
            scores[i] += float((change.double() * at[receiver].double()).sum()) / steps
    return scores


def qk_fix(model: Any, tokens: Any, layer: int, metric: Callable[[Tensor], Tensor]) -> Tensor:
    """Queries, then keys, patched at the subject one head at a time: Σ (weights' − weights) · gradient at the weights."""
    hf, found = small_models.raw(model.name), []
    for pair in range(tokens.n_pairs):
        real = tokens.mask[pair]
        base, source = tokens.clean[pair][real], tokens.corrupt[pair][real]
        (at,) = (base != source).nonzero(as_tuple=True)
        sites = [("q", layer), ("k", layer)]
        _, other = oracle.run(hf, source, keep=sites)
        intact = oracle.patterns(hf, base)[layer]
        leaf = intact.clone().requires_grad_()
        with modules.weights_through(hf, {layer: lambda _, leaf=leaf: leaf[None]}):
            logits = hf(input_ids=base[None], use_cache=False).logits[:, -1]
        (gradient,) = torch.autograd.grad(metric(logits).sum(), leaf)
        row: list[float] = []
        for kind in "qk":
            for h in range(modules.heads(hf, kind)):
                edit = oracle.Edit(kind, layer, oracle.patch(at.tolist(), other[kind, layer], h))
                seen: list[Tensor] = []
                with modules.weights_through(hf, {layer: lambda w, seen=seen: seen.append(w[0]) or w}):
                    oracle.run(hf, base, [edit])
                row.append(float(((seen[0] - intact) * gradient).sum()))
        found.append(row)
    return torch.tensor(found)
