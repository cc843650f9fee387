"""A slow oracle of circuits: one prompt, unpadded, receiver after receiver, each by whole forward passes with plain hooks.

What a receiver reads is found by adding to the residual stream in a run of its own; what it then computes is patched into
all later runs. Nothing of the engine takes part but the names of edges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import oracle
import oracle_modules as modules
import torch
from oracle import Edit
from torch import Tensor

Seen = dict[tuple[str, int], Tensor]


class CircuitOracle:
    """One prompt under one ablation: `ablated` says what every sender adds there, [pos, d_model]."""

    def __init__(self, hf: Any, clean: Tensor) -> None:
        self.hf, self.clean = hf, clean
        self.n_layers = hf.config.num_hidden_layers
        self.n_heads, self.n_kv = (modules.heads(hf, kind) for kind in ("q", "k"))
        _, self.reference = oracle.run(hf, clean, keep=oracle.keys(hf))
        self.ablated: dict[str, Tensor] = {}

    def adds(self, seen: Seen) -> dict[str, Tensor]:
        """What every sender adds, heads through a post-norm at the scale of the clean prompt's own run."""
        found = {"embed": seen["resid_pre", 0]}
        for layer in range(self.n_layers):
            through = self._post_norm(layer)
            heads = [seen["result", layer][:, h] for h in range(self.n_heads)]
            if through is not None:
                heads = [through(head) for head in heads]
                found[f"L{layer}.post-norm"] = seen["attn_out", layer] - sum(heads) - through(self._bias(layer))
            found |= {f"L{layer}.H{h}": head for h, head in enumerate(heads)}
            found[f"L{layer}.MLP"] = seen["mlp_out", layer]
        return found

    def resample(self, corrupt: Tensor) -> None:
        self.ablated = self.adds(oracle.run(self.hf, corrupt, keep=oracle.keys(self.hf))[1])

    def logits(self, kept: Collection[tuple[str, str]]) -> Tensor:
        """At the last position, with all edges but `kept` cut."""
        edits: list[Edit] = []
        for layer in range(self.n_layers):
            receivers = [(kind, h, f"L{layer}.{kind}[{h}]") for kind, n in self._sizes() for h in range(n)]
            entering = self._offs(edits, layer, mlp=False)
            new = [(kind, h, self._read(edits, kind, layer, entering, name, kept)) for kind, h, name in receivers]
            edits += [Edit(kind, layer, oracle.patch(range(len(self.clean)), value, h)) for kind, h, value in new]
            at_mlp = self._offs(edits, layer, mlp=True)
            name = f"L{layer}.MLP"
            where = "resid_pre" if modules.parallel(self.hf) else "resid_mid"
            written = self._read(edits, "mlp_out", layer, at_mlp, name, kept, where)
            edits.append(Edit("mlp_out", layer, oracle.patch(range(len(self.clean)), written)))
        off = self._offs(edits, self.n_layers, mlp=False)
        last = Edit("resid_post", self.n_layers - 1, self._added(off, "metric", kept))
        return oracle.run(self.hf, self.clean, [*edits, last])[0][-1]

    def _offs(self, edits: list[Edit], layer: int, *, mlp: bool) -> dict[str, Tensor]:
        """a − o of the senders that write before a layer's attention, or its MLP."""
        own = self.adds(oracle.run(self.hf, self.clean, edits, keep=oracle.keys(self.hf))[1])

        def before(name: str) -> bool:
            if name == "embed":
                return True
            of, part = int(name[1 : name.index(".")]), name.partition(".")[2]
            return of < layer or (mlp and of == layer and part != "MLP" and not modules.parallel(self.hf))

        return {name: self.ablated[name] - value for name, value in own.items() if before(name)}

    def _added(
        self, off: dict[str, Tensor], receiver: str, kept: Collection[tuple[str, str]]
    ) -> Callable[[Tensor], Tensor]:
        return lambda x: x + sum((o for name, o in off.items() if (name, receiver) not in kept), torch.zeros_like(x))

    def _read(
        self, edits: list[Edit], kind: str, layer: int, off: dict[str, Tensor], receiver: str,
        kept: Collection[tuple[str, str]], where: str = "resid_pre",
    ) -> Tensor:  # fmt: skip
        """What a receiver computes from its own input, all heads."""
        here = Edit(where, layer, self._added(off, receiver, kept))
        return oracle.run(self.hf, self.clean, [*edits, here], keep=[(kind, layer)])[1][kind, layer]

    def _sizes(self) -> tuple[tuple[str, int], ...]:
        return ("q", self.n_heads), ("k", self.n_kv), ("v", self.n_kv)

    def _bias(self, layer: int) -> Tensor:
        bias = modules.module(self.hf, "z", layer).bias
        z = self.reference["z", layer]
        return z.new_zeros(len(z), self.hf.config.hidden_size) if bias is None else bias.detach().expand(len(z), -1)

    def _post_norm(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        """Gain over the root mean square of what the heads of the clean prompt give together."""
        name = type(self.hf).__name__
        if name not in ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Olmo2ForCausalLM"):
            return None
        norm = modules.module(self.hf, "attn_out", layer)
        eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        given = self.reference["result", layer].sum(1) + self._bias(layer)
        scale = (given.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        gain = norm.weight.detach() + (name != "Olmo2ForCausalLM")
        return lambda x: x * gain / scale
