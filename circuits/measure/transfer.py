"""Do heads found on pairs matter elsewhere? Edit them on unpaired instructions, and look at metric and completions both.

No other prompt tells what an edited head should give: `how` says what it gets (`engine.head_edits`), by default its
mean over the other label's prompts, so that harmful prompts get harmless ones', and back.

The pairs, each side on its own, get the same edits, so that the two sets are compared alike. `fraction` of an effect is
its share of the gap between the two labels' unedited prompts, for the metric and for the refusal rate: where one moves by
half the gap and the other does not, proxy and completions disagree. Null: as many random heads of the same layers.
Means of prompts of unequal length mix positions: "last" is the safe choice. Gaps are taken as known, without interval.
Source: "Analysing the Refusal Circuit in Gemma 2b IT", direct heads may be format-specific.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine import generate, sweep
from circuits.engine.head_edits import How, head_edits
from circuits.engine.random_heads import random_heads
from circuits.errors import CircuitError, SiteError, UndefinedError
from circuits.interventions import Cell
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.token_pairs import TokenPairs
from circuits.refusal import is_refusal
from circuits.result import Result
from circuits.sites import Site
from circuits.stats import auroc, holm, mean_interval, rate
from circuits.stats.paired import mcnemar_p, paired_change
from circuits.tables import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SETS: Final = ("pairs", "diverse")
OPPOSED: Final = ("harmful", "harmless")
"""The labels whose prompts stand in for each other."""
HALF: Final = 0.5
"""A share of the gap that counts as having moved."""


@final
@dataclass(frozen=True, kw_only=True)
class Transfer(Result):
    """Metric, completion and refusal of every prompt of both sets, unedited (`baseline`) and with each set of heads edited."""

    metric: Float[Tensor, "cell prompt"]
    refused: Bool[Tensor, "cell prompt"]
    completions: tuple[tuple[str, ...], ...]
    """[cell][prompt]."""
    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    origin: tuple[str, ...]
    """Of every prompt: pairs or diverse."""
    source: tuple[str, ...]
    cells: dict[str, tuple[str, ...]]
    """Cell name -> heads edited; the last are random (`null of …`)."""
    null_of: dict[str, str]
    how: How
    positions: Literal["last", "all"]

    def to_frame(self) -> pd.DataFrame:
        """One row per cell and prompt: origin, label, source, prompt, metric, refused, completion, null_of."""
        import pandas as pd

        frames = [
            pd.DataFrame({
                "cell": name, "prompt": range(len(self.prompts)), "origin": self.origin, "label": self.labels,
                "source": self.source, "text": self.prompts, "metric": self.metric[c].double().numpy(),
                "refused": self.refused[c].numpy(), "completion": self.completions[c], "null_of": self.null_of.get(name, ""),
            })
            for c, name in enumerate(self.cells)
        ]  # fmt: skip
        return pd.concat(frames, ignore_index=True).assign(how=self.how, positions=self.positions)

    def to_summary(self) -> pd.DataFrame:
        """One row per set of prompts, label and cell (but the random ones).

        metric and its change (bootstrap over prompts), refusal rate (Wilson) and its change (Newcombe, McNemar's p, Holm's
        over the rows), both changes as fractions of the gap, the fractions of the random cells (mean, extremes),
        `differ`: metric fraction − rate fraction with its interval over prompts, and `verdict`: which of them moved.
        """
        import pandas as pd

        rows = [self._row(o, label, n) for o in SETS for label in OPPOSED for n in self.cells if n not in self.null_of]
        table = pd.DataFrame(rows)
        edited = table["cell"] != "baseline"
        table.loc[edited, "p_holm"] = holm(table.loc[edited, "p"].to_numpy())
        return table

    def _row(self, origin: str, label: str, name: str) -> dict[str, Any]:
        here, c = self._where(origin, label), list(self.cells).index(name)
        metric, refused = self.metric.double().numpy()[:, here], self.refused.numpy()[:, here]
        gaps = self._gaps(origin, label)
        of = self.clusters if origin == "pairs" else None  # either label's prompts stand in the pairs' order
        value, share = mean_interval(metric[c], of), rate(refused[c], of)
        row: dict[str, Any] = {
            "origin": origin, "label": label, "cell": name, "heads": len(self.cells[name]), "n": len(here),
            "metric": value.estimate, "metric_low": value.low, "metric_high": value.high,
            "refusal_rate": share.estimate, "rate_low": share.low, "rate_high": share.high,
        }  # fmt: skip
        if name == "baseline":
            return row
        moved, change = mean_interval(metric[c] - metric[0], of), paired_change(refused[0], refused[c], of)
        fractions = _shares(moved, gaps[0]), _shares(change, gaps[1])
        null = [i for i, cell in enumerate(self.cells) if self.null_of.get(cell) == name]
        drawn = {
            "metric": (metric[null] - metric[0]).mean(-1) / gaps[0],
            "rate": (refused[null].astype(float) - refused[0]).mean(-1) / gaps[1],
        }
        row |= {
            "metric_change": moved.estimate, "metric_change_low": moved.low, "metric_change_high": moved.high,
            "rate_change": change.estimate, "rate_change_low": change.low, "rate_change_high": change.high,
            "p": mcnemar_p(refused[0], refused[c], of),
        }  # fmt: skip
        for kind, (moved_by, low, high) in zip(("metric", "rate"), fractions, strict=True):
            row |= {f"{kind}_fraction": moved_by, f"{kind}_fraction_low": low, f"{kind}_fraction_high": high}
            spread = {"mean": np.mean, "min": np.min, "max": np.max}
            row |= {f"null_{kind}_{name}": f(drawn[kind]) if null else np.nan for name, f in spread.items()}
        differ = _difference(metric[c] - metric[0], refused[c].astype(float) - refused[0], gaps, of)
        return row | differ | {"verdict": _verdict(*fractions)}

    def agreement(self) -> pd.DataFrame:
        """One row per set of prompts and cell, over both labels: AUROC of the metric as a classifier of refusal.

        `flips`: AUROC of the metric's fall as a classifier of which refusals stop. NaN where there is only one class: `rate`
        is the share that refuses. The two prompts of a pair are one draw, and so are all prompts of a template where pairs
        share some.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for origin in SETS:
            here = np.concatenate([self._where(origin, label) for label in OPPOSED])
            alone = len(here) if origin == "diverse" else len(here) // 2
            of = np.resize(range(alone) if self.clusters is None or origin == "diverse" else self.clusters, len(here))
            for c, name in enumerate(self.cells):
                if name in self.null_of:
                    continue
                metric, refused = self.metric[c].double().numpy()[here], self.refused[c].numpy()[here]
                before = self.refused[0].numpy()[here]
                fall = self.metric[0].double().numpy()[here] - metric
                rows.append(
                    {"origin": origin, "cell": name, "rate": refused.mean(), "n": len(here)}
                    | _area("auroc", metric, refused, ~refused, of)
                    | _area("flips", fall, before & ~refused, before & refused, of)
                )
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """How far metric and refusal rate move towards the other label's, by set of prompts and set of heads."""
        import pandas as pd

        table = self.to_summary()
        table = table[table["cell"] != "baseline"]
        shown = pd.concat(
            [
                table.rename(columns={f"{k}_fraction{e}": f"f{e}" for e in ("", "_low", "_high")}).assign(
                    shown=name, panel=table["origin"] + ", " + table["label"]
                )[["cell", "panel", "shown", "f", "f_low", "f_high"]]
                for k, name in (("metric", "metric"), ("rate", "refusal rate"))
            ],
            ignore_index=True,
        )
        return bars(
            shown, x="cell", y="f", color="shown", facet="panel", low="f_low", high="f_high", threshold=HALF,
            title=f"Heads edited ({self.how}, {self.positions} position), metric against completions",
            x_title="set of heads", y_title="share of the gap between labels", caption=self.provenance.caption,
        )  # fmt: skip

    def _where(self, origin: str, label: str) -> Any:
        return np.flatnonzero((np.array(self.origin) == origin) & (np.array(self.labels) == label))

    def _gaps(self, origin: str, label: str) -> tuple[float, float]:
        """From this label's unedited prompts to the other's: of the metric, of the refusal rate; NaN where there is none."""
        other = OPPOSED[1 - OPPOSED.index(label)]
        here, there = self._where(origin, label), self._where(origin, other)
        metric, refused = self.metric[0].double().numpy(), self.refused[0].double().numpy()
        gaps = (float(x[there].mean() - x[here].mean()) for x in (metric, refused))
        first, second = (gap if abs(gap) > 1e-6 else float("nan") for gap in gaps)
        return first, second


def transfer(  # noqa: PLR0913  two sets of prompts
    model: Model,
    tokens: TokenPairs,
    diverse: InstructionTokens,
    metric: Metric,
    *,
    sets: Mapping[str, Sequence[Site]],
    how: How = "opposite mean",
    positions: Literal["last", "all"] = "last",
    direction: Float[Tensor, " d_model"] | None = None,
    null_draws: int = 10,
    max_new_tokens: int = 32,
    seed: int = 0,
) -> Transfer:
    """Edit each set of heads on the prompts of `tokens` (either side on its own) and on `diverse`; greedy completions.

    `sets` are best found on `tokens`. Raises SiteError for sets that are empty or no heads, CircuitError for a label
    without prompts or `how="direction"` without a direction; both before anything is run.
    """
    wrong = [
        n for n, hs in sets.items() if not hs or n == "baseline" or any(h.kind != "z" or h.index is None for h in hs)
    ]
    if wrong or not sets:
        raise SiteError(f"set {', '.join(wrong) or 'none'}: give sets of heads, e.g. {{'direct': (head(8, 7),)}}")
    if {i.label for i in diverse.instructions} != set(OPPOSED):
        raise CircuitError(f"{diverse.instructions.name}: it needs both harmful and harmless instructions, and no others")
    if (how == "direction") != (direction is not None):
        raise CircuitError('a direction belongs to how="direction", and how="direction" needs one')
    cells = {name: tuple(dict.fromkeys(heads)) for name, heads in sets.items()}
    null_of: dict[str, str] = {}
    for i, name in enumerate(sets):
        for n, drawn in enumerate(random_heads(cells[name], model.shape.n_heads, null_draws, seed=seed + i)):
            cells[f"null of {name} #{n}"], null_of[f"null of {name} #{n}"] = drawn, name
    prompts = (InstructionTokens.from_pairs(tokens), diverse)
    parts = [
        _measure(model, p, metric, list(cells.values()), how, positions, direction, max_new_tokens) for p in prompts
    ]
    said = [i for p in prompts for i in p.instructions]
    texts = tuple(a + b for a, b in zip(parts[0][1], parts[1][1], strict=True))
    about = provenance(model, tokens, metric, parts[1][2])
    about = replace(about, pairs=f"{about.pairs} and {len(diverse.ids)} unpaired instructions ({diverse.hash})")
    return Transfer(
        provenance=about, metric=torch.cat([part[0] for part in parts], 1),
        refused=torch.tensor([[is_refusal(text) for text in row] for row in texts]), completions=texts,
        prompts=tuple(i.text for i in said), labels=tuple(i.label for i in said), source=tuple(i.source for i in said),
        origin=tuple(name for name, p in zip(SETS, prompts, strict=True) for _ in p.instructions),
        cells={"baseline": ()} | {n: tuple(h.label for h in hs) for n, hs in cells.items()},
        null_of=null_of, how=how, positions=positions,
    )  # fmt: skip


def _measure(
    model: Model, prompts: InstructionTokens, metric: Metric, sets: list[tuple[Site, ...]], how: How,
    positions: Literal["last", "all"], direction: Tensor | None, new: int,
) -> tuple[Float[Tensor, "cell prompt"], tuple[tuple[str, ...], ...], str]:  # fmt: skip
    """Metric and completions under every set's edits, the unedited run first, and the sweep's certificate."""
    tokens = prompts.beside_themselves()
    heads = sorted({h for chosen in sets for h in chosen})
    edits = head_edits(model, tokens, heads, how, positions=positions, positive=prompts.harmful, direction=direction)
    cells: list[Cell] = [tuple(edits[h] for h in chosen) for chosen in sets]
    swept = sweep(model, tokens, metric, cells, direction="noise")
    texts = tuple(tuple(generate(model, tokens, cell, max_new_tokens=new)) for cell in ((), *cells))
    return torch.cat([swept.base[None], swept.value]), texts, swept.certificate.line


def _area(name: str, score: Any, above: Any, under: Any, of: Any) -> dict[str, float]:
    """AUROC of a score, of the prompts in `above` against those in `under`; `of` names each prompt's cluster."""
    try:
        found = auroc(score[above], score[under], clusters=(of[above], of[under]))
    except UndefinedError:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def _difference(metric: Any, refused: Any, gaps: tuple[float, float], of: Sequence[int] | None) -> dict[str, float]:
    """Metric fraction − rate fraction, with its interval: whether the proxy overstates what happens to completions."""
    per_prompt = metric / gaps[0] - refused / gaps[1]
    if not np.isfinite(per_prompt).all():
        return dict.fromkeys(("differ", "differ_low", "differ_high"), float("nan"))
    found = mean_interval(per_prompt, of)
    return {"differ": found.estimate, "differ_low": found.low, "differ_high": found.high}


def _shares(change: Any, gap: float) -> tuple[float, float, float]:
    """A change and its limits as shares of a gap, low before high."""
    low, high = sorted((change.low / gap, change.high / gap))
    return change.estimate / gap, low, high


def _verdict(metric: tuple[float, float, float], rate: tuple[float, float, float]) -> str:
    """Whether both moved by half their gap, neither, or one alone; undecided where an interval spans the half."""
    moved = [True if low >= HALF else False if high < HALF else None for _, low, high in (metric, rate)]
    match moved:
        case [True, True]:
            return "agree: both move"
        case [False, False]:
            return "agree: neither moves"
        case [True, False]:
            return "disagree: the metric moves, refusals do not"
        case [False, True]:
            return "disagree: refusals move, the metric does not"
        case _:
            return "undecided"
