"""What senders change in the residual stream, carried from block to block: directly, or through named components too.

Rows of one sender each hold D, what its changed output makes of the stream; the rest of the model is frozen at the base
run. 1. A sender's row begins with its own D_s where it writes. 2. A component in `through` is recomputed from the stream
with D, at its norm's own new scale, and what it then adds beyond the base run joins D. 3. Whoever reads a row sees the
base run's stream plus D. In parallel blocks all parts read D as it enters the block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, final

import torch

from circuits.engine.edges.differences import Differences
from circuits.engine.edges.names import Step, parallel, written_at
from circuits.engine.edges.received import attended, received
from circuits.engine.replay import Replay, Rows
from circuits.sites import Site, parse

Read = Callable[[Step, Rows], None]
"""(when, D of the senders that have written by then, in their order), on columns from the first difference."""
ATTENTION: Final = 0
MLP: Final = 1


@final
class Carrier:
    """Carries senders through one model, whose replay and differences share a base run."""

    def __init__(self, replay: Replay, differences: Differences, through: Sequence[str] = ()) -> None:
        self._replay, self._differences = replay, differences
        self._through: dict[Step, list[str]] = {}
        for mediator in through:
            self._through.setdefault(written_at(mediator), []).append(mediator)
        self._parallel = parallel(replay.model)

    @property
    def first(self) -> int:
        """The first column that rows have: that of the first difference."""
        return self._differences.start

    def carry(self, senders: Sequence[str], until: Step, read: Read) -> None:
        """Show their rows to `read` at every step of every block up to `until`; `senders` in the order they write."""
        base, n_layers = self._differences.base, self._replay.n_layers
        shape = base.resid[0][:, self.first :].shape
        rows = base.resid[0].new_zeros(len(senders), *shape)
        live = self._joined(rows, senders, 0, (-1, MLP))
        begins = 0 if live else written_at(senders[0])[0]
        for layer in range(begins, min(until[0] + 1, n_layers)):
            now = rows[:live]
            read((layer, ATTENTION), now)
            change = self._changed((layer, ATTENTION), now)
            if self._parallel:
                read((layer, MLP), now)
                change = change + self._changed((layer, MLP), now)
            rows[:live] += change
            live = self._joined(rows, senders, live, (layer, ATTENTION))
            if not self._parallel:
                read((layer, MLP), rows[:live])
                rows[:live] += self._changed((layer, MLP), rows[:live])
            live = self._joined(rows, senders, live, (layer, MLP))
        if until[0] >= n_layers:
            read(until, rows[:live])

    def stream(self, step: Step, *, whole: bool = False) -> Rows:
        """What is read at a step of the base run, [1, pair, pos, d_model], on the columns of rows (or on all)."""
        layer, part = step
        base, start = self._differences.base, 0 if whole else self.first
        x = base.resid[min(layer, self._replay.n_layers)][None, :, start:]
        if part == MLP and not self._parallel:
            x = x + base.seen[Site("attn_out", layer)][None, :, start:]
        return x

    def _joined(self, rows: Rows, senders: Sequence[str], live: int, step: Step) -> int:
        while live < len(senders) and written_at(senders[live]) == step:
            rows[live] = self._differences.of(senders[live])
            live += 1
        return live

    def _changed(self, step: Step, rows: Rows) -> Rows:
        """What the components of `through` at a step add beyond the base run, given its stream plus `rows`."""
        mediators = self._through.get(step, [])
        if not mediators or not len(rows):
            return torch.zeros_like(rows)
        (layer, part), seen, start = step, self._differences.base.seen, self.first
        x = self.stream(step) + rows
        if part == MLP:
            return received(self._replay, layer, "mlp", x, start)["mlp_out"] - seen[Site("mlp_out", layer)][:, start:]
        z, attn_out = attended(self._replay, layer, x, start)
        added = attn_out - seen[Site("attn_out", layer)][:, start:]
        if mediators == [Site("attn_out", layer).label]:
            return added
        heads = self._differences.written.heads(layer, z - seen[Site("z", layer)][:, start:], start)
        change = torch.zeros_like(rows)
        for mediator in mediators:
            change += (
                added - heads.sum(-2) if mediator.endswith(".post-norm") else heads[:, :, :, parse(mediator).index]
            )
        return change
