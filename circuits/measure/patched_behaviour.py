"""What does the model say under a patch? Completions of every prompt, beside the unpatched ones, labelled as refusals.

    refused[cell, pair] = whether the completion holds a refusal phrase (`refusal`)
    change[cell]        = refusal rate patched − unpatched, on the same prompts

Cells: `baseline` (the base prompt alone), `source` (the other prompt alone: what a perfect patch would say), then the
cells given, then random ones. Patches act on the prompt; what is generated after it is left alone. A metric can move
without one completion changing, so both are kept. p is McNemar's, adjusted by Holm over the cells given.
The null of a cell that patches heads: as many heads drawn from the same layers, at the same positions. Others have none.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", generation with direct heads noised and denoised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine import generate, sweep
from circuits.engine.random_heads import random_heads
from circuits.engine.sweep import Direction
from circuits.errors import SiteError
from circuits.frames import long_frame, summary
from circuits.interventions import Cell, Patch
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.refusal import is_refusal
from circuits.result import Result
from circuits.stats import Interval, holm, rate
from circuits.stats.paired import mcnemar_p, paired_change
from circuits.tables import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

REFERENCE: Final = ("baseline", "source")


@final
@dataclass(frozen=True, kw_only=True)
class PatchedBehaviour(Result):
    """Completion, refusal and metric of every prompt under every cell; the last cells are random (`null of …`)."""

    completions: tuple[tuple[str, ...], ...]
    """[cell][pair]."""
    refused: Bool[Tensor, "cell pair"]
    metric: Float[Tensor, "cell pair"]
    cells: dict[str, tuple[str, ...]]
    """Cell name -> labels of what it edits."""
    null_of: dict[str, str]
    """Random cell -> the cell it is the null of."""
    prompts: tuple[str, ...]
    """What was completed; under `source`, its counterpart."""
    direction: Direction

    def to_frame(self) -> pd.DataFrame:
        """One row per cell and pair: prompt, completion, refused, metric, `changed` (refused unlike the baseline)."""
        axes = {"cell": list(self.cells), "pair": list(range(len(self.prompts)))}
        refused = self.refused.numpy()
        columns = {"refused": refused, "changed": refused != refused[:1], "metric": self.metric.double().numpy()}
        frame = long_frame(axes, columns)
        frame["completion"] = [text for cell in self.completions for text in cell]
        return frame.assign(
            prompt=list(self.prompts) * len(self.cells), null_of=[self.null_of.get(str(c), "") for c in frame["cell"]],
            direction=self.direction,
        )  # fmt: skip

    def to_summary(self) -> pd.DataFrame:
        """One row per cell given, after the two references.

        Refusal rate (Wilson), change (Newcombe, paired) with the prompts that started and stopped refusing, McNemar's p
        and Holm's; mean metric; and the change of its random cells: mean, extremes, and their share `p_null` that moves
        the rate at least as far.
        """
        import pandas as pd

        frame = self.to_frame()
        metric = summary(frame, ["cell"], "metric", clusters=self.clusters).set_index("cell")
        base = self.refused[0].numpy()
        rows: list[dict[str, object]] = []
        for c, name in enumerate(self.cells):
            if name in self.null_of:
                continue
            after, share = self.refused[c].numpy(), self.rate(name)
            change, null = paired_change(base, after, self.clusters), self._null_changes(name)
            hits = int((np.abs(null) >= abs(change.estimate) - 1e-12).sum())
            rows.append({
                "cell": name, "edits": len(self.cells[name]),
                "refusal_rate": share.estimate, "rate_low": share.low, "rate_high": share.high,
                "change": change.estimate, "change_low": change.low, "change_high": change.high,
                "started": int((after & ~base).sum()), "stopped": int((base & ~after).sum()),
                "p": mcnemar_p(base, after, self.clusters),
                "metric": metric.loc[name, "mean"], "metric_low": metric.loc[name, "low"],
                "metric_high": metric.loc[name, "high"],
                "null_mean": null.mean() if len(null) else np.nan,
                "null_min": null.min() if len(null) else np.nan, "null_max": null.max() if len(null) else np.nan,
                "p_null": (1 + hits) / (1 + len(null)) if len(null) else np.nan, "n": len(base),
            })  # fmt: skip
        table = pd.DataFrame(rows)
        given = ~table["cell"].isin(REFERENCE)
        table.loc[given, "p_holm"] = holm(table.loc[given, "p"].to_numpy())
        table.loc[table["cell"] == "baseline", ["change", "change_low", "change_high", "p"]] = np.nan
        return table.assign(direction=self.direction)

    def rate(self, cell: str) -> Interval:
        """Refusal rate under a cell, with its Wilson interval."""
        return rate(self.refused[list(self.cells).index(cell)].numpy(), self.clusters)

    def _null_changes(self, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        base = float(self.refused[0].double().mean())
        rows = [i for i, cell in enumerate(self.cells) if self.null_of.get(cell) == name]
        return self.refused[rows].double().mean(1).numpy() - base if rows else np.empty(0)

    def figure(self) -> go.Figure:
        """Refusal rate by cell with its interval, beside the mean rate of its random cells."""
        import pandas as pd

        table = self.to_summary()
        base = table["refusal_rate"].iloc[0]
        measured = table.assign(patched="the cell")
        null = pd.DataFrame(
            {"cell": table["cell"], "refusal_rate": base + table["null_mean"], "patched": "random heads, same number"}
        ).assign(rate_low=base + table["null_min"], rate_high=base + table["null_max"])
        shown = pd.concat([measured, null.dropna(subset="refusal_rate")], ignore_index=True)
        return bars(
            shown, x="cell", y="refusal_rate", color="patched", low="rate_low", high="rate_high",
            title=f"Refusals under patches, {self.direction[:-1]}ing",
            x_title="what is patched (random: smallest to largest of the draws)", y_title="refusal rate",
            caption=self.provenance.caption,
        )  # fmt: skip


def patched_behaviour(  # noqa: PLR0913  generation has knobs of its own
    model: Model,
    tokens: TokenPairs,
    metric: Metric,
    *,
    cells: Mapping[str, Cell],
    direction: Direction = "noise",
    null_draws: int = 10,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
) -> PatchedBehaviour:
    """Complete and measure every base prompt under every cell. Noising completes clean prompts, denoising corrupt ones.

    A set of heads is a cell: `tuple(Patch(h) for h in heads)`. Greedy at temperature 0, else sampled with one seed for all
    cells. Raises SiteError for an empty or misnamed cell and whatever `sweep` raises, before anything is generated.
    """
    named = dict(cells)
    wrong = [name for name, cell in named.items() if not cell or name in REFERENCE]
    if wrong or not named:
        raise SiteError(
            f"cell {wrong[0]!r} is empty, or has the name of a reference ({', '.join(REFERENCE)})"
            if wrong
            else "no cells given; e.g. {'direct': tuple(Patch(h) for h in heads)}"
        )
    null_of: dict[str, str] = {}
    for i, (name, cell) in enumerate(cells.items()):
        for draw, drawn in enumerate(_random_cells(cell, model.shape.n_heads, null_draws, seed + i)):
            label = f"null of {name} #{draw}"
            named[label], null_of[label] = drawn, name
    swept = sweep(model, tokens, metric, list(named.values()), direction=direction)
    base, other = ("clean", "corrupt") if direction == "noise" else ("corrupt", "clean")

    def complete(cell: Cell, on: str) -> tuple[str, ...]:
        texts = generate(model, tokens, cell, on=on, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        return tuple(texts)

    texts = (complete((), base), complete((), other), *(complete(cell, base) for cell in named.values()))
    return PatchedBehaviour(
        provenance=provenance(model, tokens, metric, swept.certificate.line),
        completions=texts,
        refused=torch.tensor([[is_refusal(text) for text in cell] for cell in texts]),
        metric=torch.cat([swept.base[None], swept.source[None], swept.value]),
        cells=dict.fromkeys(REFERENCE, ()) | {n: tuple(i.site.label for i in cell) for n, cell in named.items()},
        null_of=null_of, prompts=tuple(getattr(pair, base) for pair in tokens.pairs), direction=direction,
    )  # fmt: skip


def _random_cells(cell: Cell, n_heads: int, draws: int, seed: int) -> list[Cell]:
    """The same patches at random other heads; none for a cell that does anything else than patch heads."""
    patches = [i for i in cell if isinstance(i, Patch) and i.site.kind == "z" and i.site.index is not None]
    if len(patches) < len(cell) or any(i.value is not None for i in patches):
        return []
    drawn = random_heads([i.site for i in patches], n_heads, draws, seed=seed)
    return [tuple(replace(i, site=site) for i, site in zip(patches, sites, strict=True)) for sites in drawn]
