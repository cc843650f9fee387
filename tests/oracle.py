"""A slow oracle: one prompt at a time, unpadded, in a whole forward pass, with plain PyTorch hooks.

It shares nothing with the engine, so that both can only agree by being right: it finds modules by their names in the
Hugging Face classes, and writes every edit and metric out as its formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]
"""An activation of one prompt, [pos, d_model] or for z [pos, head, d_head], to its replacement."""
Key = tuple[str, int]
"""("attn_out", 3)"""
ALL_KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")


@dataclass(frozen=True)
class Edit:
    kind: str
    layer: int
    change: Change


def run(hf: Any, ids: Tensor, edits: Sequence[Edit] = (), keep: Iterable[Key] = ()) -> tuple[Tensor, dict[Key, Tensor]]:
    """Logits [pos, vocab] of one prompt under edits, and the activations asked for as they are after the edits."""
    seen: dict[Key, Tensor] = {}
    keys = list(dict.fromkeys([*((e.kind, e.layer) for e in edits), *keep]))

    def act(key: Key, activation: Tensor) -> Tensor:
        x = activation[0]
        if key[0] == "z":
            x = x.unflatten(-1, (hf.config.num_attention_heads, -1))
        for edit in edits:
            if (edit.kind, edit.layer) == key:
                x = edit.change(x.clone())
        seen[key] = x.clone()
        return (x.flatten(-2) if key[0] == "z" else x)[None]

    with ExitStack() as stack, torch.no_grad():
        for key in keys:
            stack.callback(_hook(hf, key, act).remove)
        logits = hf(input_ids=ids[None], use_cache=False).logits[0]
    return logits, {key: seen[key] for key in keep}


def _hook(hf: Any, key: Key, act: Callable[[Key, Tensor], Tensor]) -> Any:
    kind, layer = key
    block = hf.model.layers[layer]
    post_norms = "Gemma2" in type(hf).__name__

    def into(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (act(key, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": act(key, kwargs["hidden_states"])}

    def out_of(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (act(key, output[0]), *output[1:])
        return act(key, output)

    if kind == "resid_pre":
        return block.register_forward_pre_hook(into, with_kwargs=True)
    if kind == "z":
        return block.self_attn.o_proj.register_forward_pre_hook(into, with_kwargs=True)
    if kind == "resid_mid":
        norm = block.pre_feedforward_layernorm if post_norms else block.post_attention_layernorm
        return norm.register_forward_pre_hook(into, with_kwargs=True)
    module = {
        "resid_post": block,
        "attn_out": block.post_attention_layernorm if post_norms else block.self_attn,
        "mlp_out": block.post_feedforward_layernorm if post_norms else block.mlp,
    }[kind]
    return module.register_forward_hook(out_of)


def patterns(hf: Any, ids: Tensor) -> list[Tensor]:
    """Attention weights [head, query, key] of every layer."""
    with torch.no_grad():
        return [weights[0] for weights in hf(input_ids=ids[None], use_cache=False, output_attentions=True).attentions]


# --- edits, as formulas -----------------------------------------------------------------------------------------------


def patch(positions: Iterable[int], value: Tensor, head: int | None = None) -> Change:
    """a[p] becomes value[p]; of one head if one is given."""

    def change(x: Tensor) -> Tensor:
        for p in positions:
            if head is None:
                x[p] = value[p]
            else:
                x[p, head] = value[p, head]
        return x

    return change


def formula(positions: Iterable[int], f: Callable[[Tensor], Tensor]) -> Change:
    """a[p] becomes f(a[p]), vector by vector."""

    def change(x: Tensor) -> Tensor:
        for p in positions:
            x[p] = f(x[p])
        return x

    return change


def ablated(v: Tensor, alpha: float = 1.0) -> Callable[[Tensor], Tensor]:
    """a − α (a·v / v·v) v."""
    return lambda a: a - alpha * (torch.dot(a, v) / torch.dot(v, v)) * v


def clamped(v: Tensor, value: float) -> Callable[[Tensor], Tensor]:
    """The component along v/‖v‖ becomes `value`."""
    u = v / torch.sqrt((v * v).sum())
    return lambda a: a - torch.dot(a, u) * u + value * u


def rotated(first: Tensor, second: Tensor, degrees: float) -> Callable[[Tensor], Tensor]:
    """In-plane coordinates as a complex number, times e^{iθ}."""
    turn = torch.polar(torch.tensor(1.0), torch.deg2rad(torch.tensor(degrees)))

    def f(a: Tensor) -> Tensor:
        x, y = torch.dot(a, first), torch.dot(a, second)
        new = torch.complex(x, y) * turn
        return a - x * first - y * second + new.real * first + new.imag * second

    return f


# --- metrics of one row of logits, as formulas --------------------------------------------------------------------------


def against_mean(logits: Tensor, token: int) -> float:
    others = [i for i in range(len(logits)) if i != token]
    return float(logits[token].double() - logits[others].double().mean())


def log_odds(logits: Tensor, tokens: Sequence[int]) -> float:
    p = logits.double().softmax(-1)[list(tokens)].sum()
    return float(torch.log(p) - torch.log1p(-p))


def difference(logits: Tensor, answer: int, wrong: int) -> float:
    return float(logits[answer].double() - logits[wrong].double())


# --- pairs ----------------------------------------------------------------------------------------------------------------


class PairOracle:
    """One pair of an aligned set, without its padding: base and source ids, and where columns lie in them."""

    def __init__(self, hf: Any, tokens: Any, pair: int, direction: str) -> None:
        self.hf = hf
        real = tokens.mask[pair]
        clean, corrupt = tokens.clean[pair][real], tokens.corrupt[pair][real]
        self.base, self.source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
        self.length = len(clean)
        self.pad = tokens.n_pos - self.length
        (different,) = (clean != corrupt).nonzero(as_tuple=True)
        self.subject = int(different)
        layers = range(hf.config.num_hidden_layers)
        _, self.of_source = run(hf, self.source, keep=[(kind, layer) for kind in ALL_KINDS for layer in layers])

    def positions(self, where: Any) -> list[int]:
        """A position name, an integer or ("column", c) to indices in the unpadded prompt; none for padding."""
        if where == "subject":
            return [self.subject]
        if where == "post_subject":
            return list(range(self.subject + 1, self.length - 1))
        if where == "last":
            return [self.length - 1]
        if where == "all":
            return list(range(self.length))
        if isinstance(where, tuple):
            column = where[1] - self.pad
            return [column] if column >= 0 else []
        return [where % self.length]

    def from_source(self, kind: str, layer: int, where: Any, head: int | None = None) -> Edit:
        return Edit(kind, layer, patch(self.positions(where), self.of_source[kind, layer], head))

    def logits(self, edits: Sequence[Edit] = (), *, of: Tensor | None = None) -> Tensor:
        """At the last position, of the base prompt unless another is given."""
        return run(self.hf, self.base if of is None else of, edits)[0][-1]
