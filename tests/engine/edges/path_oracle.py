"""Edges the slow way: one unpadded prompt, whole forward passes with plain hooks, all else frozen by hooks.

Three passes: what is written in the source run; the base run with one sender's writing changed and every other attention
and MLP held (unless it is named as a component of the path), in which the receiver is read; the base run with the receiver
given what was read. Heads go through a post-norm as its formula says, at the base run's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import oracle
import oracle_modules as modules
import torch
from oracle import Edit, PairOracle, patch
from torch import Tensor

from circuits.engine.edges import METRIC, Edge


class PathOracle:
    """One pair of an aligned set."""

    def __init__(self, hf: Any, tokens: Any, pair: int, direction: str = "noise") -> None:
        self.hf, self.of = hf, PairOracle(hf, tokens, pair, direction)
        self.source = self.of.of_source
        self.base = oracle.run(hf, self.of.base, keep=oracle.keys(hf))[1]
        self.n_layers = hf.config.num_hidden_layers

    def head(self, layer: int, h: int) -> Tensor:
        """What a head adds in the source run minus what it adds in the base run."""
        w_o = modules.w_o(self.hf, layer).detach()
        change = (self.source["z", layer] - self.base["z", layer])[:, h] @ w_o[h]
        norm = modules.module(self.hf, "attn_out", layer)
        if "norm" not in type(norm).__name__.lower():
            return change
        entering = torch.einsum("phe,hed->pd", self.base["z", layer], w_o)
        eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
        gain = norm.weight.detach() + ("Gemma" in type(norm).__name__)
        return change * gain / torch.sqrt((entering**2).mean(-1, keepdim=True) + eps)

    def change(self, sender: str) -> tuple[str, int, Tensor]:
        """Which activation becomes what when a sender gives what it gives in the source run."""
        if sender == "embed":
            return "embed", 0, self.source["embed", 0]
        layer, what = int(sender[1 : sender.index(".")]), sender[sender.index(".") + 1 :]
        kind = "mlp_out" if what == "MLP" else "attn_out"
        if what in ("MLP", "ATTN"):
            return kind, layer, self.source[kind, layer]
        if what == "post-norm":
            heads = sum(self.head(layer, h) for h in range(modules.heads(self.hf, "z")))
            return kind, layer, self.source[kind, layer] - heads
        return kind, layer, self.base[kind, layer] + self.head(layer, int(what[1:]))

    def frozen(self, edge: Edge, through: Sequence[str]) -> list[Edit]:
        """The base run's writes, with the sender's changed; components of the path and the receiver left free."""
        kind, layer, value = self.change(edge.sender)
        held = {(k, n): self.base[k, n] for n in range(self.n_layers) for k in ("attn_out", "mlp_out")}
        held |= {(kind, layer): value}
        every = range(self.of.length)
        edits: list[Edit] = []
        free: dict[int, set[int]] = {}
        for name in [*through, edge.receiver]:
            where, _, what = name.removeprefix("L").partition(".")
            if what in ("MLP", "ATTN"):
                key = ("mlp_out" if what == "MLP" else "attn_out", int(where))
                if key != (kind, layer):
                    held.pop(key, None)
            elif what.startswith("H"):
                free.setdefault(int(where), set()).add(int(what[1:]))
        for n, heads in free.items():
            if ("attn_out", n) == (kind, layer):
                continue  # none of them reads what this sender writes
            held.pop(("attn_out", n))
            edits += [
                Edit("z", n, patch(every, self.base["z", n], h))
                for h in range(modules.heads(self.hf, "z")) if h not in heads
            ]  # fmt: skip
        return edits + [Edit(k, n, patch(every, v)) for (k, n), v in held.items()]

    def logits(self, edges: Sequence[Edge], through: Sequence[str] = (), positions: Any = "all") -> Tensor:
        """[edge, vocab] at the last position."""
        ids = self.of.base
        at = [_place(edge.receiver) for edge in edges]
        keep = sorted({place[:2] for place in at if place is not None})
        frozen, seen = oracle.runs(self.hf, ids, [self.frozen(edge, through) for edge in edges], keep)
        where = self.of.positions(positions)
        patched: list[list[Edit]] = []
        for row, place in enumerate(at):
            if place is None:
                patched.append([])
            else:
                kind, layer, index = place
                patched.append([Edit(kind, layer, patch(where, seen[kind, layer][row], index))])
        out = oracle.runs(self.hf, ids, patched)[0][:, -1]
        final = torch.tensor([place is None for place in at])
        return torch.where(final[:, None], frozen[:, -1], out)


def _place(receiver: str) -> tuple[str, int, int | None] | None:
    if receiver == METRIC:
        return None
    where, _, what = receiver.removeprefix("L").partition(".")
    if what == "MLP":
        return "mlp_out", int(where), None
    return what[0], int(where), int(what[2:-1])
