"""Resume a kept run at a layer and a position.

1. Columns before an edit are served from the kept keys and values; only those from it on are run (window).
2. Edits travel together as rows of one growing batch (a wavefront): a row joins at its layer, so nothing below it is
   recomputed.
3. Only the last position is read: the last block computes keys and values for the rest and one query per window.

Causality makes all three exact: an edit at column p and layer k changes nothing before p and nothing below k.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.capture import KeysValues, Run
from circuits.engine.window import At, Windows
from circuits.model import Model
from circuits.model.hooks import Edit, hooked, require_fired
from circuits.sites import ORDER, Site

Rows = Float[Tensor, "row pair pos d_model"]
Last = Float[Tensor, "row pair group d_model"]
"""At the last column of every window."""
RowKeysValues = tuple[Float[Tensor, "row kv_head key d_head"], Float[Tensor, "row kv_head key d_head"]]
"""Of every row and pair (flattened): the base run's prefix, then the packed columns."""
Enter = Callable[[int, slice], Rows]
"""(layer, rows joining there) -> the residual entering it, on the packed columns."""


@runtime_checkable
class Edits(Protocol):
    """What is edited in the rows of a batch after they have joined."""

    def residual(self, layer: int, x: Rows, at: At) -> Rows:
        """Edit the residual entering a block."""
        ...

    def inside(self, layer: int, n_rows: int, at: At) -> Mapping[Site, Edit]:
        """What to hook within a block."""
        ...


_ALL = frozenset(ORDER)
_KEYS_VALUES = frozenset(("k", "v"))
"""Of the last block's two calls the first makes keys and values; the second, at the last column, the rest."""


class _KeysKnownError(Exception):
    """Leaves a block as soon as its keys and values exist."""


@final
class _Keys:
    """Stands in for a Hugging Face cache: the base run's first `prefix` keys and values in front of the rows' own.

    `stop` leaves the block once they are known; `served` gives keys and values known before instead.
    """

    def __init__(
        self, base: KeysValues, prefix: int, n: int, *, stop: bool = False, served: RowKeysValues | None = None
    ) -> None:
        self._base, self._prefix, self._n, self._stop, self._served = base, prefix, n, stop, served
        self.known: RowKeysValues | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> RowKeysValues:
        def grow(kept: Tensor) -> Tensor:
            kept = kept[:, :, : self._prefix]
            return kept.expand(self._n, *kept.shape).flatten(0, 1)

        if self._served is not None:
            return self._served
        both = torch.cat([grow(self._base[0]), keys], -2), torch.cat([grow(self._base[1]), values], -2)
        if self._stop:
            self.known = both
            raise _KeysKnownError
        return both

    def get_seq_length(self, *_: Any) -> int:
        return self._prefix


@final
class Replay:
    """Runs blocks of one model again over rows of edited copies of one kept run."""

    def __init__(self, model: Model, base: Run, *, max_memory: int | None = None) -> None:
        self.model, self.base, self.max_memory = model, base, max_memory
        self.n_layers = model.shape.n_layers
        self.last = base.tokens.shape[1] - 1
        self.token_layers = 0
        """Tokens × blocks run so far: the cost, in the unit of a forward pass."""
        self.fired = 0
        """How often an edit's hook fired so far."""

    def propagate(self, windows: Windows, joins: Sequence[int], enter: Enter, edits: Edits | None = None) -> Last:
        """Run rows to the final residual at the last column of every window.

        `joins[i]` is the layer whose entering residual row i departs at (n_layers: the final residual); ascending.
        Returns [row, pair, window, d_model].
        """
        final = windows.columns[windows.ends]
        width = len(final) if joins[0] == self.n_layers else len(windows)
        x = self.base.resid[0].new_empty(0, len(self.base.tokens), width, self.model.shape.d_model)
        done = 0
        for layer in range(joins[0], self.n_layers + 1):
            ended = layer == self.n_layers
            upto = done + sum(1 for join in joins[done:] if join == layer)
            if upto > done:
                new = enter(layer, slice(done, upto))
                x = torch.cat([x, new[:, :, windows.ends] if ended else new])
                done = upto
            if edits is not None:
                x = edits.residual(layer, x, At(final if ended else windows.columns))
            if layer == self.n_layers - 1:
                x = self._last_block(layer, x, windows, edits)
            elif not ended:
                x = self.block(layer, x, windows, edits)
        return x

    def block(self, layer: int, x: Rows, windows: Windows, edits: Edits | None = None) -> Rows:
        """One block on the packed columns of every row."""
        prefix = max(windows.starts)
        every = torch.arange(len(windows))
        return self._call(layer, x, windows, every, prefix, _Keys(self.base.kv[layer], prefix, len(x)), edits)

    def _last_block(self, layer: int, x: Rows, windows: Windows, edits: Edits | None) -> Last:
        """Keys and values of every packed token, then the last column's query of each window alone."""
        n, prefix = len(x), max(windows.starts)
        if len(windows) == len(windows.starts):  # every window is the last column alone
            return self.block(layer, x, windows, edits)
        stop = _Keys(self.base.kv[layer], prefix, n, stop=True)
        self._call(layer, x, windows, torch.arange(len(windows)), prefix, stop, edits, _KEYS_VALUES)
        served = _Keys(self.base.kv[layer], prefix, n, served=stop.known)
        ends = windows.ends
        return self._call(layer, x[:, :, ends], windows, ends, prefix, served, edits, _ALL - _KEYS_VALUES)

    def _call(
        self, layer: int, x: Rows, windows: Windows, queries: Int[Tensor, " pos"], prefix: int, keys: _Keys,
        edits: Edits | None, kinds: frozenset[str] = _ALL,
    ) -> Rows:  # fmt: skip
        self.token_layers += x.shape[0] * x.shape[1] * x.shape[2]
        block = self.model.parts.blocks[layer]
        kwargs = self._kwargs(layer, windows, queries, prefix, len(x)) | {block.cache_name: keys, "use_cache": False}
        at = windows.at(queries, prefix, self.last + 1)
        hooks = edits.inside(layer, len(x), at) if edits is not None else {}
        hooks = {site: edit for site, edit in hooks.items() if site.kind in kinds}
        out: Any = x  # what a call returns that stops at its keys and values
        with torch.no_grad(), hooked(self.model.parts, hooks) as fired, contextlib.suppress(_KeysKnownError):
            out = block.whole(x.flatten(0, 1), **kwargs)
        require_fired(hooks, fired, self.model.name)
        self.fired += fired.total()
        return (out[0] if isinstance(out, tuple) else out).view_as(x)

    def _kwargs(
        self, layer: int, windows: Windows, queries: Int[Tensor, " pos"], prefix: int, n: int
    ) -> dict[str, Any]:
        """The recorded call of a block, for packed queries and grown to n rows."""

        def rows(t: Tensor) -> Tensor:
            return t if t.shape[0] == 1 else t.repeat(n, *[1] * (t.ndim - 1))

        columns = windows.columns[queries]
        call = dict(self.base.calls[layer])
        call["attention_mask"] = rows(windows.mask(call["attention_mask"], queries, prefix))
        if call.get("position_embeddings") is not None:
            call["position_embeddings"] = tuple(rows(t[:, columns]) for t in call["position_embeddings"])
        if call.get("position_ids") is not None:
            call["position_ids"] = rows(call["position_ids"][:, columns])
        call.pop("cache_position", None)  # counts along a cache that is not there
        return call
