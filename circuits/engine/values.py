"""The metric under every cell of a list, resuming one kept run.

Cells that patch one site at one position take the fast path (single); all others are replayed from their first layer
and first position with their edits in place (several).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Run
from circuits.engine.edits import Bound, bind
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay
from circuits.engine.several import Several, run_several
from circuits.engine.single import Single, run_singles
from circuits.interventions import Cell, Patch
from circuits.prompts.align import TokenPairs


def values(
    replay: Replay, tokens: TokenPairs, readout: Readout, cells: list[Cell], source: Run
) -> Float[Tensor, "cell pair"]:
    """The metric under every cell, resuming `replay.base` and patching from `source`."""
    base = replay.base
    start = tokens.first_difference
    value = readout(base.resid[-1][None, :, -1]).repeat(len(cells), 1)
    singles: list[Single] = []
    several: list[Several] = []
    for i, cell in enumerate(cells):
        # only where nothing else acts are the two runs the same before the first difference
        pure = all(isinstance(i, Patch) and i.value is None for i in cell)
        bound = bind(replay.model, tokens, cell, source, skip_before=start if pure else 0)
        bound = tuple(b for b in bound if b.first is not None)
        if not bound:
            continue  # nothing after the first difference: the base value, exactly
        if len(bound) == 1 and _is_single(bound[0]):
            columns = bound[0].mask.any(0).nonzero()[:, 0].tolist()
            singles += [Single(i, bound[0], column) for column in columns]
        else:
            several.append(Several(i, bound))
    run_singles(replay, singles, readout, source, value)
    run_several(replay, several, readout, value)
    return value


def _is_single(b: Bound) -> bool:
    """Whether a bound edit is one patch of one column of each pair, made within the blocks."""
    return isinstance(b.intervention, Patch) and b.site.kind != "embed" and int(b.mask.sum(-1).max()) == 1
