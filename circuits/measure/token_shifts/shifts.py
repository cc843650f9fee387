"""Do the words of a concept become less likely when its direction is gone? Probabilities of named token sets, per prompt.

    p[cell, set, prompt]    probability that the reply begins with a token of the set, and its log-odds log p/(1 − p)
    total                   the sum of these probabilities over the first n reply positions, each after the unedited greedy
                            reply so far: expected tokens of the set, 0 to n

Openings such as "I am not able to" say what they are only after some tokens: `total` sees them. It asks, at every position,
what would come next if the reply had gone as it did without the edit, so that before and after are compared on the same
text. It is not what an edited reply would contain, and it holds back edits that turn the first token. Positions after the
end of the unedited reply are left out.

Sets are of tokens, not of meanings: a word counts by its form with and without leading space, where that is one token of
the vocabulary (`spelled`); what is more than one is listed (`left_out`), or refused where no form is one. Log-odds keep
apart what probabilities near 0 and 1 hide. Null: the same edits along random directions, each changing activations as
much as the edit does (`nulls`); p is of the mean change over the prompts of a class.
p-values are not adjusted for the number of rows. A direction made from these very prompts is tested on what it was fitted to.
Source: the extension of "Refusal in Language Models Is Mediated by a Single Direction" to incapability
(probabilities of refusal, incapability and capability tokens under ablation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import bars, lines
from circuits.engine import read, sweep
from circuits.engine.edits import check
from circuits.engine.readout import Readout
from circuits.errors import AuditError, CircuitError
from circuits.frames import long_frame
from circuits.interventions import Cell
from circuits.measure.token_shifts.nulls import random_cells, require_nulls
from circuits.measure.token_shifts.reply import carried, continued, greedy, require_positions
from circuits.measure.token_shifts.words import Words, resolve
from circuits.metrics import BoundMetric, LogOdds
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.token_pairs import TokenPairs
from circuits.result import Result
from circuits.sites import Site
from circuits.stats import bootstrap_mean
from circuits.tables import of_instructions

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BASELINE: Final = "unedited"
_AGREE: Final = {torch.float64: 1e-6, torch.float32: 1e-4}
"""How far two computations of one probability may be apart; in half precision 0.03."""
_SCORES: Final = ("p", "log_odds", "total")


@final
@dataclass(frozen=True, kw_only=True)
class TokenShifts(Result):
    """Log-odds at the first reply position and probabilities along the reply, unedited (the first cell) and edited."""

    log_odds: Float[Tensor, "cell set prompt"]
    along: Float[Tensor, "cell set prompt pos"]
    """Probability at each reply position after the unedited reply so far; NaN after its end."""
    cells: tuple[str, ...]
    """unedited, then the edits, then their random counterparts (`null of …`)."""
    null_of: dict[str, str]
    spelled: dict[str, tuple[str, ...]]
    """Set -> its tokens, as people read them."""
    left_out: dict[str, tuple[str, ...]]
    """Set -> forms that are more than one token, with their pieces."""
    labels: tuple[str, ...]
    text: tuple[str, ...]
    reply: tuple[str, ...]
    """The unedited greedy reply to each prompt, as far as it was read."""

    def to_frame(self) -> pd.DataFrame:
        """One row per cell, set and prompt: p, log_odds, total, positions read, and what they were unedited (`…_before`)."""
        log_odds, along = self.log_odds.double().numpy(), self.along.double().numpy()
        scores = {"p": _probability(log_odds), "log_odds": log_odds, "total": np.nansum(along, axis=-1)}
        axes = {"cell": list(self.cells), "set": list(self.spelled), "prompt": list(range(len(self.labels)))}
        frame = long_frame(axes, scores | {f"{name}_before": value[:1] for name, value in scores.items()})
        read_at = np.isfinite(along[0, 0]).sum(-1)
        rows = frame["prompt"].to_numpy()
        return frame.assign(
            positions=read_at[rows], label=np.array(self.labels, dtype=object)[rows],
            null_of=[self.null_of.get(cell, "") for cell in frame["cell"]],
        )  # fmt: skip

    def to_summary(self) -> pd.DataFrame:
        """One row per class, edit, set and score: mean before, after, and change with its bootstrap interval over prompts.

        `null_mean`, `null_low`, `null_high`: mean change under the edit's random counterparts, its mean and range; `p_null`
        is two-sided, of the change's size, and `least_p` the smallest that so many counterparts allow.
        """
        import pandas as pd

        frame = self.to_frame()
        rows = [
            self._row(frame, label, cell, name, score)
            for label in dict.fromkeys(self.labels)
            for cell in self.cells[1:]
            if cell not in self.null_of
            for name in self.spelled
            for score in _SCORES
        ]
        return pd.DataFrame(rows)

    def _row(self, frame: pd.DataFrame, label: str, cell: str, name: str, score: str) -> dict[str, Any]:
        here = frame[(frame["label"] == label) & (frame["set"] == name)]
        own = here[here["cell"] == cell]
        change = bootstrap_mean((own[score] - own[f"{score}_before"]).to_numpy())
        drawn = here[here["null_of"] == cell].assign(moved=lambda f: f[score] - f[f"{score}_before"])
        null = drawn.groupby("cell", sort=False)["moved"].mean().to_numpy()
        hits = int((np.abs(null) >= abs(change.estimate)).sum())
        some = len(null) > 0
        return {
            "label": label, "cell": cell, "set": name, "score": score, "n": len(own), "before": own[f"{score}_before"].mean(),
            "after": own[score].mean(), "change": change.estimate, "low": change.low, "high": change.high,
            "null_mean": null.mean() if some else np.nan, "null_low": null.min() if some else np.nan,
            "null_high": null.max() if some else np.nan, "p_null": (1 + hits) / (1 + len(null)) if some else np.nan,
            "least_p": 1 / (1 + len(null)) if some else np.nan,
        }  # fmt: skip

    def position_frame(self) -> pd.DataFrame:
        """One row per class, cell (but the random ones), set and reply position: mean probability, over `n` prompts."""
        n = self.along.shape[3]
        axes = {
            "cell": list(self.cells), "set": list(self.spelled), "prompt": list(range(len(self.labels))),
            "position": list(range(1, n + 1)),
        }  # fmt: skip
        frame = long_frame(axes, {"p": self.along.double().numpy()})
        frame = frame[~frame["cell"].isin(list(self.null_of))].dropna(subset="p")
        frame = frame.assign(label=np.array(self.labels, dtype=object)[frame["prompt"].to_numpy()])
        grouped = frame.groupby(["label", "cell", "set", "position"], sort=False)["p"]
        return grouped.agg(["mean", "size"]).rename(columns={"mean": "p", "size": "n"}).reset_index()

    def figure(self, *, score: str = "p") -> go.Figure:
        """Change of a score (p, log_odds or total) by set and edit, a panel per class."""
        if score not in _SCORES:
            raise CircuitError(f"no score {score!r}\nwrite one of: {', '.join(_SCORES)}")
        table = self.to_summary()
        unit = {"p": "change of probability", "log_odds": "change of log-odds", "total": "change of expected tokens"}[
            score
        ]
        where = f", first {self.along.shape[3]} reply positions" if score == "total" else ", first reply position"
        said = "; ".join(f"{name}: {' '.join(tokens)}" for name, tokens in self.spelled.items())
        return bars(
            table[table["score"] == score], x="set", y="change", color="cell", facet="label", low="low", high="high",
            title=f"Token sets before and after each edit{where}", x_title="token set", y_title=unit,
            caption=f"{self.provenance.caption} · {said}",
        )  # fmt: skip

    def position_figure(self) -> go.Figure:
        """Mean probability of each set along the unedited reply, before and after each edit, a panel per class."""
        return lines(
            self.position_frame(), x="position", y="p", color="set", dash="cell", facet="label",
            title="Token sets along the unedited reply", x_title="reply position", y_title="mean probability",
            caption=self.provenance.caption,
        )  # fmt: skip


def token_shifts(
    model: Model, prompts: InstructionTokens, cells: Mapping[str, Cell], tokens: Mapping[str, Sequence[str]], *,
    positions: int = 8, null_draws: int = 20, seed: int = 0,
) -> TokenShifts:  # fmt: skip
    """Probability of each token set under each cell's edits, at the first reply position and along the first `positions`.

    The first position under the edits is measured by an audited sweep per set; further ones, and the random counterparts,
    by one forward pass per cell, whose first position must agree with the sweep. Edits are those of unpaired prompts:
    positions last, all or numbers, patches with values. Raises, before the first forward pass: TokenError for words that
    are no token, with their pieces; SiteError for what the model or the prompts do not have; CircuitError for no cells, and
    for edits without random counterpart where `null_draws` asks for some. AuditError where the two computations disagree.
    """
    sets = resolve(model.tokenizer, tokens)
    if not cells or positions < 1 or any(not cell for cell in cells.values()) or BASELINE in cells:
        raise CircuitError(f"{len(cells)} cells, {positions} positions: give at least one of each, edits in every cell, "
                           f"and none called {BASELINE!r}")  # fmt: skip
    pairs = prompts.beside_themselves()
    require_positions(list(cells.values()))
    for name, cell in cells.items():
        check(model, pairs, cell)
        if positions > 1:
            carried(model, pairs, cell, positions - 1)
        if null_draws:
            require_nulls(name, cell)
    every, null_of = dict(cells), {}
    for i, (name, cell) in enumerate(cells.items()):
        drawn = random_cells(model, pairs, cell, null_draws, seed=seed + i) if null_draws else []
        for k, null in enumerate(drawn):
            every[f"null of {name} #{k}"], null_of[f"null of {name} #{k}"] = null, name
    metrics = {name: LogOdds(model, *model.tokenizer.convert_ids_to_tokens(list(w.ids))) for name, w in sets.items()}
    swept = [sweep(model, pairs, metric, list(cells.values()), direction="noise") for metric in metrics.values()]
    first = torch.stack([torch.cat([s.base[None], s.value]) for s in swept], 1).double()
    reply, before_end = greedy(model, pairs, positions)
    bound = [metric.bind(pairs) for metric in metrics.values()]
    odds = torch.stack([_along(model, pairs, cell, reply, bound) for cell in ((), *every.values())])
    _require_agreement(model, first, odds[: len(first), ..., 0], list(cells))
    along = torch.where(before_end, odds.sigmoid(), torch.nan)
    about = of_instructions(model, prompts, certificate=swept[0].certificate.line)
    metric = f"probability of {', '.join(sets)}"
    return TokenShifts(
        provenance=replace(about, metric=metric),
        log_odds=torch.cat([first, odds[len(first) :, ..., 0]]),
        along=along, cells=(BASELINE, *every), null_of=null_of, **_named(sets),
        labels=tuple(i.label for i in prompts.instructions), text=tuple(i.text for i in prompts.instructions),
        reply=tuple(
            model.tokenizer.decode(row[kept], skip_special_tokens=True)
            for row, kept in zip(reply, before_end, strict=True)
        ),
    )  # fmt: skip


def _named(sets: Mapping[str, Words]) -> dict[str, dict[str, tuple[str, ...]]]:
    return {what: {name: getattr(words, what) for name, words in sets.items()} for what in ("spelled", "left_out")}


def _along(
    model: Model, pairs: TokenPairs, cell: Cell, reply: Tensor, bound: Sequence[BoundMetric]
) -> Float[Tensor, "set prompt pos"]:
    """Log-odds of every set at each reply position, by one forward pass over the prompts with the reply after them."""
    n = reply.shape[1]
    longer = continued(pairs, reply[:, :-1])
    last = Site("resid_post", model.shape.n_layers - 1)
    final = read(model, longer, carried(model, pairs, cell, n - 1), [last], columns=list(range(-n, 0))).seen[last]
    rows = final.transpose(0, 1).to(model.device, model.dtype)  # [pos, prompt, d_model]
    odds = torch.stack([Readout(model, metric)(rows) for metric in bound])
    return odds.double().cpu().transpose(1, 2)


def _require_agreement(
    model: Model,
    swept: Float[Tensor, "cell set prompt"],
    whole: Float[Tensor, "cell set prompt"],
    cells: Sequence[str],
) -> None:
    apart = (swept.sigmoid() - whole.sigmoid()).abs()
    if not apart.max() <= _AGREE.get(model.dtype, 0.03):
        cell = int(apart.flatten(1).amax(1).argmax())
        name = BASELINE if cell == 0 else cells[cell - 1]
        raise AuditError(
            f"{model.name}: probabilities at the first position under {name} differ by {apart.max():.1e} between the sweep and "
            "a whole forward pass"
        )


def _probability(log_odds: Any) -> Any:
    from scipy import special

    return special.expit(log_odds)
