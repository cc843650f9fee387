"""A slow oracle: one prompt at a time, unpadded, in a whole forward pass, with plain PyTorch hooks.

It shares nothing with the engine, so that both can only agree by being right: it finds modules by their names in the
Hugging Face classes (`oracle_modules`), and writes every edit and metric out as its formula. It takes
interventions as the values they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import oracle_modules as modules
import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]
"""An activation of one prompt, [pos, d], [pos, head, d] or for a pattern [query, head, key], to its replacement."""
Key = tuple[str, int]
"""("attn_out", 3)"""


@dataclass(frozen=True)
class Edit:
    kind: str
    layer: int
    change: Change


def run(hf: Any, ids: Tensor, edits: Sequence[Edit] = (), keep: Iterable[Key] = ()) -> tuple[Tensor, dict[Key, Tensor]]:
    """Logits [pos, vocab] of one prompt under edits, and the activations asked for as they are after the edits."""
    logits, seen = runs(hf, ids, [edits], keep)
    return logits[0], {key: x[0] for key, x in seen.items()}


def runs(
    hf: Any, ids: Tensor, cells: Sequence[Sequence[Edit]], keep: Iterable[Key] = ()
) -> tuple[Tensor, dict[Key, Tensor]]:
    """The same of one prompt once for every list of edits: [row, pos, vocab]. Copies of it stand in one batch."""
    seen: dict[Key, Tensor] = {}
    at: dict[Key, list[tuple[int, Edit]]] = {key: [] for key in keep}
    for row, edits in enumerate(cells):
        for edit in edits:
            at.setdefault((edit.kind, edit.layer), []).append((row, edit))

    def acting(key: Key) -> Change:
        def act(x: Tensor) -> Tensor:
            x = x.clone()
            for row, edit in at[key]:
                x[row] = edit.change(x[row].clone())
            seen[key] = x.clone()
            return x

        return act

    keys = sorted(at, key=lambda key: (key[1], modules.KINDS.index(key[0])))
    of_weights = {layer: modules.viewed(hf, kind, acting((kind, layer))) for kind, layer in keys if kind == "pattern"}
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(modules.weights_through(hf, of_weights))
        for kind, layer in keys:
            for hook in modules.hooks(hf, kind, layer, acting((kind, layer))):
                stack.callback(hook.remove)
        logits = hf(input_ids=ids.expand(len(cells), -1), use_cache=False).logits
    return logits, seen


def kinds(hf: Any) -> list[str]:
    """The activations that this architecture has."""
    return [kind for kind in modules.KINDS if not (kind == "resid_mid" and modules.parallel(hf))]


def keys(hf: Any) -> list[Key]:
    """All activations of all layers."""
    layers = range(hf.config.num_hidden_layers)
    return [("embed", 0), *((kind, layer) for layer in layers for kind in kinds(hf) if kind != "embed")]


def patterns(hf: Any, ids: Tensor) -> list[Tensor]:
    """Attention weights [head, query, key] of every layer."""
    with torch.no_grad():
        return [weights[0] for weights in hf(input_ids=ids[None], use_cache=False, output_attentions=True).attentions]


# --- edits, as formulas -----------------------------------------------------------------------------------------------


def patch(
    positions: Iterable[int], value: Tensor, index: int | None = None, at_keys: Iterable[int] | None = None
) -> Change:
    """a[p] becomes value[p]; of one head or neuron if one is given, and of a pattern's row at some keys alone."""
    every = slice(None)
    wanted = [every] if at_keys is None else list(at_keys)

    def change(x: Tensor) -> Tensor:
        for p in positions:
            for k in wanted:
                at = (p, every if index is None else index, k)[: x.ndim]
                x[at] = value[at]
        return x

    return change


def formula(positions: Iterable[int], f: Callable[[Tensor], Tensor], index: int | None = None) -> Change:
    """a[p] becomes f(a[p]), vector by vector: of one head if one is given, of each head if the activation has heads."""

    def change(x: Tensor) -> Tensor:
        for p in positions:
            if x.ndim == 2:
                x[p] = f(x[p])
            else:
                for h in range(x.shape[1]) if index is None else [index]:
                    x[p, h] = f(x[p, h])
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
        self.hf, self.pair, self.padded = hf, pair, tokens.mask.shape
        real = tokens.mask[pair]
        clean, corrupt = tokens.clean[pair][real], tokens.corrupt[pair][real]
        self.base, self.source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
        self.length = len(clean)
        self.pad = tokens.n_pos - self.length
        (different,) = (clean != corrupt).nonzero(as_tuple=True)
        self.subject = int(different)
        _, self.of_source = run(hf, self.source, keep=keys(hf))

    def positions(self, where: Any) -> list[int]:
        """Positions as an intervention says them, or ("column", c), as indices in the unpadded prompt, each once."""
        named = {
            "subject": [self.subject],
            "post_subject": range(self.subject + 1, self.length - 1),
            "last": [self.length - 1],
            "all": range(self.length),
        }
        if isinstance(where, str):
            return list(named[where])
        if isinstance(where, int):
            return [where % self.length]
        columns = where[1:] if isinstance(where, tuple) and where[0] == "column" else getattr(where, "columns", None)
        if columns is None:
            return sorted({p % self.length for p in where})
        return sorted({c - self.pad for c in columns if c >= self.pad})

    def from_source(self, kind: str, layer: int, where: Any, index: int | None = None, at_keys: Any = None) -> Edit:
        columns = None if at_keys is None else self.positions(at_keys)
        return Edit(kind, layer, patch(self.positions(where), self.of_source[kind, layer], index, columns))

    def edits(self, cell: Iterable[Any]) -> list[Edit]:
        """A cell of interventions, one formula each."""
        return [self._edit(i) for i in cell]

    def _edit(self, i: Any) -> Edit:
        site, where = i.site, self.positions(i.positions)
        match type(i).__name__:
            case "Patch" if i.value is None:
                return self.from_source(site.kind, site.layer, i.positions, site.index, i.keys)
            case "Patch":
                at_keys = None if i.keys is None else self.positions(i.keys)
                return Edit(site.kind, site.layer, patch(where, self._given(i), site.index, at_keys))
            case "Ablate":
                f = ablated(self._own(i.direction, 1), float(self._own(i.alpha, 0)))
            case "Add":
                vector, scale = self._own(i.vector, 1), self._own(i.scale, 0)
                f = lambda a: a + scale * vector  # noqa: E731  a formula like the others
            case "Clamp":
                f = clamped(self._own(i.direction, 1), float(self._own(i.value, 0)))
            case "Rotate":
                f = rotated(*self._own(i.plane, 2), float(self._own(i.degrees, 0)))
            case other:
                raise ValueError(other)
        return Edit(site.kind, site.layer, formula(where, f, site.index))

    def _own(self, given: Any, ndim: int) -> Any:
        """This pair's, of what may be one for all pairs or one for each."""
        return given[self.pair] if isinstance(given, Tensor) and given.ndim > ndim else given

    def _given(self, i: Any) -> Tensor:
        """A value that broadcasts to [pair, pos, …] over padded columns, as one laid over this pair's activation."""
        whole = self.of_source[i.site.kind, i.site.layer]
        tail = list(whole.shape[1:] if i.site.index is None else whole.shape[2:]) or [1]
        if i.site.kind == "pattern":
            tail[-1] += self.pad
        value = i.value.broadcast_to((*self.padded, *tail))[self.pair, self.pad :]
        if i.site.kind == "pattern":
            value = value[..., self.pad :]
        return (value if value.ndim == whole.ndim else value.unsqueeze(1)).expand(whole.shape)

    def logits(self, edits: Sequence[Edit] = (), *, of: Tensor | None = None) -> Tensor:
        """At the last position, of the base prompt unless another is given."""
        return run(self.hf, self.base if of is None else of, edits)[0][-1]

    def all_logits(self, cells: Sequence[Iterable[Any]]) -> Tensor:
        """[cell, vocab] at the last position of the base prompt, under every cell of interventions."""
        edits = [self.edits(cell) for cell in cells]
        parts = [runs(self.hf, self.base, edits[i : i + 64])[0][:, -1] for i in range(0, len(edits), 64)]
        return torch.cat(parts)
