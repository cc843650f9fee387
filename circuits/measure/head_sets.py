"""Do these heads carry it together? Patch all heads of a set, each at its own result.

    value[pair, set] = metric of the base run with every head of the set taken from the source

Noised and recovered: the set was necessary; denoised and recovered: it is enough. A set chosen on these prompts is not
thereby right for others: test it on unpaired ones. Two sets together may do less than one alone.
As a null, as many heads drawn at random from the layers of all sets (those of the set excluded), several times.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", activation patching classes of heads.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine import sweep
from circuits.engine.random_heads import random_heads
from circuits.engine.sweep import Direction
from circuits.errors import SiteError
from circuits.frames import summary
from circuits.interventions import Patch
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.result import Result
from circuits.sites import Site
from circuits.tables import patched_frame, provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@final
@dataclass(frozen=True, kw_only=True)
class HeadSetPatching(Result):
    """Metric of the base run with all heads of a set replaced; the last sets are random ones (`null of …`)."""

    value: Float[Tensor, "pair set"]
    source: Float[Tensor, " pair"]
    base: Float[Tensor, " pair"]
    sets: dict[str, tuple[str, ...]]
    """Set name -> head labels."""
    null_of: dict[str, str]
    """Random set -> the set it is the null of."""
    positions: str
    direction: Direction

    def to_frame(self) -> pd.DataFrame:
        """One row per pair and set: size, value (metric), fraction (recovered), and the set it is a null of."""
        frame = patched_frame({"set": list(self.sets)}, self.value, self.base, self.source)
        sizes = {name: len(heads) for name, heads in self.sets.items()}
        return frame.assign(
            heads=frame["set"].map(sizes), null_of=[self.null_of.get(str(name), "") for name in frame["set"]],
            direction=self.direction, positions=self.positions,
        )  # fmt: skip

    def to_summary(self) -> pd.DataFrame:
        """One row per set: mean fraction with interval, and the mean and largest of its random sets."""
        frame = self.to_frame()
        table = summary(frame[frame["null_of"] == ""], ["set", "heads"], "fraction", clusters=self.clusters)
        null = frame[frame["null_of"] != ""].groupby(["null_of", "set"])["fraction"].mean().reset_index()
        spread = null.groupby("null_of")["fraction"]
        table["null_mean"] = table["set"].map(spread.mean())
        table["null_max"] = table["set"].map(spread.max())
        order = list(self.sets)
        table = table.sort_values("set", key=lambda c: c.map(order.index)).reset_index(drop=True)
        return table.assign(direction=self.direction)

    def figure(self) -> go.Figure:
        """Fraction recovered by set, beside the mean of random sets of the same size."""
        import pandas as pd

        table = self.to_summary()
        names = table["set"] + " (" + table["heads"].astype(str) + ")"
        measured = table.assign(set=names, heads_drawn="the set")
        null = pd.DataFrame({"set": names, "mean": table["null_mean"], "heads_drawn": "random, same size"})
        return bars(
            pd.concat([measured, null.dropna(subset="mean")], ignore_index=True),
            x="set", y="mean", color="heads_drawn", low="low", high="high",
            title=f"Sets of heads patched at {self.positions} positions, {self.direction[:-1]}ing",
            x_title="set (number of heads)", y_title="fraction recovered", caption=self.provenance.caption,
        )  # fmt: skip


def patch_head_sets(
    model: Model,
    tokens: TokenPairs,
    metric: Metric,
    *,
    sets: Mapping[str, Sequence[Site]],
    positions: Positions = "all",
    direction: Direction = "noise",
    null_draws: int = 10,
    seed: int = 0,
) -> HeadSetPatching:
    """Patch each set of heads, and `null_draws` random sets of the same size for each that leaves enough others.

    Raises SiteError for an empty set, a site that is no head, or one this model lacks; nothing has run by then.
    """
    chosen = {name: tuple(heads) for name, heads in sets.items()}
    for name, heads in chosen.items():
        if not heads or any(h.kind != "z" or h.index is None for h in heads):
            raise SiteError(f"set {name!r} needs heads, e.g. head(8, 7); it has {', '.join(map(str, heads)) or 'none'}")
    layers = {h.layer for heads in chosen.values() for h in heads}
    rng, everything, null_of = random.Random(seed), dict(chosen), dict[str, str]()  # noqa: S311  not for secrets
    for name, heads in chosen.items():
        for i, drawn in enumerate(random_heads(heads, model.shape.n_heads, null_draws, seed=rng, layers=layers)):
            everything[f"null of {name} #{i}"], null_of[f"null of {name} #{i}"] = drawn, name
    cells = [tuple(Patch(h, positions) for h in heads) for heads in everything.values()]
    swept = sweep(model, tokens, metric, cells, direction=direction)
    return HeadSetPatching(
        provenance=provenance(model, tokens, metric, swept.certificate.line),
        value=swept.value.T.contiguous(), source=swept.source, base=swept.base,
        sets={name: tuple(h.label for h in heads) for name, heads in everything.items()},
        null_of=null_of, positions=str(positions), direction=direction,
    )  # fmt: skip
