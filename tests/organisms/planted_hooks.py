"""Planted models run by plain forward passes with plain hooks: nothing of the engine, and no padding.

Prompts of one length form a batch. An edit is a function of a module's input or output; heads are cut out of the input
of the output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from circuits.organisms.planted import Kind, pairs
from circuits.organisms.planted.prompts import ANSWER, WRONG, tokenizer

Change = Callable[[Tensor], Tensor]
Place = tuple[str, int]
"""("z", 2): module and side of `Planted.module`, by layer."""

_NAMES: dict[str, dict[str, str]] = {
    "gpt2": {
        "block": "transformer.h.{}", "norm": ".ln_1", "z": ".attn.c_proj", "attn": ".attn.c_proj", "mlp norm": ".ln_2",
        "mlp": ".mlp", "final": "transformer.ln_f", "embed": "transformer.wte", "qkv": ".attn.c_attn",
    },
    "gemma2": {
        "block": "model.layers.{}", "norm": ".input_layernorm", "z": ".self_attn.o_proj",
        "attn": ".post_attention_layernorm", "mlp norm": ".pre_feedforward_layernorm",
        "mlp": ".post_feedforward_layernorm", "final": "model.norm", "embed": "model.embed_tokens",
        "q": ".self_attn.q_proj", "k": ".self_attn.k_proj", "v": ".self_attn.v_proj",
    },
}  # fmt: skip
_ON_INPUT = ("z", "norm", "mlp norm", "final")


class Planted:
    """One planted checkpoint and its pairs."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.names = kind, _NAMES[kind]
        self.hf: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        words = tokenizer()
        self.answer, self.wrong = (words.get_vocab()[w] for w in (ANSWER, WRONG))
        encoded = [[words.encode(p.clean), words.encode(p.corrupt)] for p in pairs()]
        lengths = sorted({len(clean) for clean, _ in encoded})
        self.groups = [[i for i, (clean, _) in enumerate(encoded) if len(clean) == n] for n in lengths]
        self.ids = {
            side: [torch.tensor([encoded[i][s] for i in group]) for group in self.groups]
            for s, side in enumerate(("clean", "corrupt"))
        }
        self.n_layers, self.n_heads = self.hf.config.num_hidden_layers, self.hf.config.num_attention_heads

    def module(self, place: str, layer: int = 0) -> Any:
        name = self.names[place]
        return self.hf.get_submodule((self.names["block"].format(layer) if name.startswith(".") else "") + name)

    def run(
        self, group: int, side: str, edits: Sequence[tuple[str, int, Change]] = (), keep: Sequence[Place] = ()
    ) -> tuple[Tensor, dict[Place, Tensor]]:
        """Metric of one group of prompts, and what was kept after the edits."""
        seen: dict[Place, Tensor] = {}
        with ExitStack() as hooks, torch.no_grad():
            for place, layer, change in [*edits, *((p, n, _keeping(seen, (p, n))) for p, n in keep)]:
                module = self.module(place, layer)
                if place in _ON_INPUT:
                    handle = module.register_forward_pre_hook(lambda _, args, f=change: (f(args[0]), *args[1:]))
                else:
                    handle = module.register_forward_hook(lambda _, __, out, f=change: f(out))
                hooks.callback(handle.remove)
            logits = self.hf(input_ids=self.ids[side][group], use_cache=False).logits[:, -1]
        return (logits[:, self.answer] - logits[:, self.wrong]).double(), seen

    def place(self, name: str) -> tuple[str, int, int | None]:
        """Of a label: "z" and a head, or "mlp"."""
        layer, _, what = name.removeprefix("L").partition(".")
        return ("mlp", int(layer), None) if what == "MLP" else ("z", int(layer), int(what.removeprefix("H")))

    def replacing(self, name: str, value: Tensor) -> tuple[str, int, Change]:
        """The edit that makes a component give `value`: [prompt, pos, d]."""
        place, layer, index = self.place(name)
        if index is None:
            return place, layer, lambda out: value.expand_as(out).clone()

        def change(z: Tensor) -> Tensor:
            z = z.clone().unflatten(-1, (self.n_heads, -1))
            z[:, :, index] = value
            return z.flatten(-2)

        return place, layer, change

    @cache  # noqa: B019  lives as long as the tests
    def given(self, name: str, side: str) -> list[Tensor]:
        """What a component gives, group by group."""
        place, layer, index = self.place(name)
        kept = [self.run(g, side, keep=[(place, layer)])[1][place, layer] for g in range(len(self.groups))]
        return kept if index is None else [t.unflatten(-1, (self.n_heads, -1))[:, :, index] for t in kept]

    def in_order(self, metrics: Sequence[Tensor]) -> list[float]:
        """Per group → in the order of the pairs."""
        places = [i for group in self.groups for i in group]
        return torch.cat(list(metrics))[torch.tensor(places).argsort()].tolist()

    def metric(self, side: str = "clean", changed: dict[str, list[Tensor]] | None = None) -> list[float]:
        """Per pair, with components giving what is said, group by group."""
        changed = changed or {}
        return self.in_order([
            self.run(g, side, [self.replacing(name, values[g]) for name, values in changed.items()])[0]
            for g in range(len(self.groups))
        ])  # fmt: skip

    # --- edges ------------------------------------------------------------------------------------------------------

    def along(self, sender: str, receiver: str, through: str) -> list[float]:
        """The clean prompts' metric where one receiver takes what the sender gives in the corrupt run."""
        return self.in_order([self.along_in(g, sender, receiver, through) for g in range(len(self.groups))])

    def along_in(self, g: int, sender: str, receiver: str, through: str) -> Tensor:
        """The same of one group of prompts."""
        delta = self._difference(g, sender)
        if through == "final":
            return self.run(g, "clean", [("final", 0, lambda x: x + delta)])[0]
        if through == "mlp":
            return self.run(g, "clean", [("mlp norm", self.place(receiver)[1], lambda x: x + delta)])[0]
        z = self.through_input(g, receiver, through, delta)
        return self.run(g, "clean", [self.replacing(receiver, z)])[0]

    def through_input(self, g: int, receiver: str, through: str, delta: Tensor) -> Tensor:
        """A head's z where its query, key or value input alone is the clean one + delta."""
        _, layer, index = self.place(receiver)
        entering = self.run(g, "clean", keep=[("norm", layer)])[1]["norm", layer]
        name = "qkv" if self.kind == "gpt2" else through
        module = self.module(name, layer)
        with torch.no_grad():
            other = module.forward(self.module("norm", layer)(entering + delta))

        def change(out: Tensor) -> Tensor:
            if self.kind == "gemma2":
                return other
            size, start = out.shape[-1] // 3, "qkv".index(through) * (out.shape[-1] // 3)
            out = out.clone()
            out[..., start : start + size] = other[..., start : start + size]
            return out

        z = self.run(g, "clean", [(name, layer, change)], keep=[("z", layer)])[1]["z", layer]
        return z.unflatten(-1, (self.n_heads, -1))[:, :, index]

    @cache  # noqa: B019
    def _difference(self, g: int, sender: str) -> Tensor:
        """What a component adds to the residual stream, corrupt − clean; of a head, through the norm after attention."""
        if sender == "embed":
            clean, corrupt = (self.run(g, side, keep=[("embed", 0)])[1]["embed", 0] for side in ("clean", "corrupt"))
            return corrupt - clean
        _, layer, index = self.place(sender)
        written = ("mlp" if index is None else "attn", layer)
        edit = self.replacing(sender, self.given(sender, "corrupt")[g])
        clean = self.run(g, "clean", keep=[written])[1][written]
        return self.run(g, "clean", [edit], keep=[written])[1][written] - clean


def _keeping(seen: dict[Place, Tensor], key: Place) -> Change:
    def keep(x: Tensor) -> Tensor:
        seen[key] = x.clone()
        return x

    return keep
