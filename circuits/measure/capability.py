"""What does an edit cost on harmless prompts? KL and perplexity of text that the unedited model writes itself.

    kl         KL(unedited ‖ edited) of the distribution that predicts each token, averaged over the tokens, in nats
    log_ratio  mean over the same tokens of log p unedited − log p edited: the log of the ratio of perplexities, edited/unedited

The tokens are the instruction's and the greedy continuation's (with the token that ends it, where it ends); the
template's are not scored. Every position is edited. An edit that costs nothing has kl 0; a log ratio below zero is a text
that the edited model finds likelier. `*_continuation` are the same over the continuation alone.

An edit of a direction is read beside its `null`: the same edit of random directions. Intervals are over prompts, each a
draw of its own.
Source: Arditi et al., arXiv 2406.11717, evaluation of the intervened model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import bars
from circuits.engine.edits import check
from circuits.engine.logits import continued, logits_under, rows_with_logits
from circuits.errors import CircuitError, SiteError
from circuits.interventions import Cell, Patch
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.prompts.token_pairs import TokenPairs
from circuits.result import Result
from circuits.stats import mean_interval
from circuits.tables import provenance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MEASURES: Final = ("kl", "log_ratio", "kl_continuation", "log_ratio_continuation")
"""In nats per token."""
_AT_ONCE: Final = 1 << 24
"""Entries of a distribution held in double precision at once (128 MB)."""


@final
@dataclass(frozen=True, kw_only=True)
class CapabilityCost(Result):
    """What every edit does to the unedited model's own text on each harmless prompt, in nats per token."""

    kl: Float[Tensor, "cell prompt"]
    log_ratio: Float[Tensor, "cell prompt"]
    kl_continuation: Float[Tensor, "cell prompt"]
    log_ratio_continuation: Float[Tensor, "cell prompt"]
    nll: Float[Tensor, " prompt"]
    """Of the unedited model, over the same tokens: the log of its perplexity."""
    tokens: tuple[int, ...]
    """How many are scored in each prompt."""
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    """The unedited continuations."""
    cells: tuple[str, ...]
    """Names of the edits; the last are nulls (`null of …`)."""
    null_of: dict[str, str]

    def to_frame(self) -> pd.DataFrame:
        """One row per edit and prompt: the four measures, `nll`, `tokens`, prompt and text, `null_of`."""
        import pandas as pd

        every = {name: getattr(self, name).double().numpy() for name in MEASURES}
        parts = [
            pd.DataFrame({
                "cell": name, "prompt": range(len(self.prompts)), **{m: v[c] for m, v in every.items()},
                "nll": self.nll.double().numpy(), "tokens": self.tokens, "text": self.prompts, "completion": self.texts,
                "null_of": self.null_of.get(name, ""),
            })
            for c, name in enumerate(self.cells)
        ]  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    def to_summary(self) -> pd.DataFrame:
        """One row per edit: each measure's mean with its 95 % interval over prompts, and its null's.

        `perplexity_ratio` is exp of the mean log ratio. `null_kl` is the mean over prompts and random edits, `null_kl_low` and
        `null_kl_high` the least and greatest mean of one (so for all measures); NaN where no null was given.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for c, name in enumerate(self.cells):
            if name in self.null_of:
                continue
            null = [i for i, cell in enumerate(self.cells) if self.null_of.get(cell) == name]
            row: dict[str, Any] = {"cell": name, "n": len(self.prompts), "null_draws": len(null)}
            for measure in MEASURES:
                values = getattr(self, measure).double().numpy()
                found, drawn = mean_interval(values[c]), values[null].mean(-1)
                row |= {measure: found.estimate, f"{measure}_low": found.low, f"{measure}_high": found.high}
                spread = {"": np.mean, "_low": np.min, "_high": np.max}
                row |= {f"null_{measure}{end}": f(drawn) if null else np.nan for end, f in spread.items()}
            ends = ("", "_low", "_high")
            rows.append(row | {f"perplexity_ratio{end}": np.exp(row[f"log_ratio{end}"]) for end in ends})
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Both measures of every edit with their intervals, its null beside it (least to greatest random edit)."""
        import pandas as pd

        table = self.to_summary()
        shown: list[pd.DataFrame] = []
        for measure, panel in (("kl", "KL(unedited ‖ edited)"), ("log_ratio", "log perplexity ratio")):
            ends = [measure, f"{measure}_low", f"{measure}_high"]
            for what, prefix in (("edit", ""), ("random", "null_")):
                part = table[["cell", *(prefix + end for end in ends)]].set_axis(["cell", "y", "low", "high"], axis=1)
                shown.append(part.dropna(subset="y").assign(shown=what, panel=panel))
        return bars(
            pd.concat(shown, ignore_index=True), x="cell", y="y", color="shown", facet="panel", low="low", high="high",
            title="What each edit costs on harmless prompts", x_title="edit", y_title="nats per token",
            caption=self.provenance.caption,
        )  # fmt: skip


def capability_cost(
    model: Model,
    prompts: InstructionTokens,
    cells: Mapping[str, Cell],
    *,
    null: Mapping[str, Sequence[Cell]] | None = None,
    max_new_tokens: int = 32,
    max_memory: int | None = None,
) -> CapabilityCost:
    """Measure each edit on the prompts labelled harmless; `null` gives random edits to read the edit of that name beside.

    An edit acts at all positions and brings its own values; whatever is one per pair is one per harmless prompt. Raises
    CircuitError without harmless prompts, SiteError for other edits, both before anything is run.
    """
    if not prompts.labelled("harmless").any():
        raise CircuitError(
            f"{prompts.instructions.name}: no prompt is labelled harmless\nadd some: the cost is measured there"
        )
    if max_new_tokens < 1:
        raise CircuitError(f"max_new_tokens is {max_new_tokens}; a continuation needs at least one token")
    prompts = prompts.only(prompts.labelled("harmless"))
    every, null_of = _named(cells, null or {})
    pairs = prompts.beside_themselves()
    for name, cell in every.items():
        check(model, pairs, cell)
        _require_everywhere(model, name, cell)
    text = continued(model, prompts, max_new_tokens=max_new_tokens)
    scored, said = _scored(prompts, text)
    values = _measure(model, text.beside_themselves(), list(every.values()), scored, said, max_memory)
    spoken = [ids[own] for ids, own in zip(text.ids, said, strict=True)]
    about, n = provenance(model, pairs), len(prompts.ids)
    about = replace(
        about, pairs=f"{n} harmless prompt{'s' * (n != 1)} ({prompts.hash})", clusters=(),
        metric=f"own text, up to {max_new_tokens} new tokens",
    )  # fmt: skip
    return CapabilityCost(
        provenance=about, **values, tokens=tuple(scored.sum(1).tolist()),
        prompts=tuple(i.text for i in prompts.instructions),
        texts=tuple(model.tokenizer.batch_decode(spoken, skip_special_tokens=True)),
        cells=tuple(every), null_of=null_of,
    )  # fmt: skip


def _named(cells: Mapping[str, Cell], null: Mapping[str, Sequence[Cell]]) -> tuple[dict[str, Cell], dict[str, str]]:
    """Edits and nulls by name. Raises SiteError for no edits, and for the null of none."""
    unknown = sorted(set(null) - set(cells))
    if not cells or unknown:
        what = f"null of {', '.join(unknown)}" if unknown else "no edits"
        raise SiteError(f"{what}: name at least one edit, and every null by the name of its edit")
    every, null_of = dict(cells), dict[str, str]()
    for name, drawn in null.items():
        for n, cell in enumerate(drawn):
            every[f"null of {name} #{n}"], null_of[f"null of {name} #{n}"] = cell, name
    return every, null_of


def _require_everywhere(model: Model, name: str, cell: Cell) -> None:
    """Raise SiteError for an edit that the unedited text's own positions would not have."""
    for i in cell:
        if not (isinstance(i.positions, str) and i.positions == "all"):
            raise SiteError(
                f"{name}: {i.site.label} is edited at {i.positions!r}; its cost on a text is that of positions 'all'"
            )
        if isinstance(i, Patch) and (i.value is None or i.value.ndim > len(model.shape.tail(i.site, 0))):
            raise SiteError(f"{name}: {i.site.label} is patched by position; a text has others: give one value for all")


def _scored(
    prompts: InstructionTokens, text: InstructionTokens
) -> tuple[Bool[Tensor, "prompt pos"], Bool[Tensor, "prompt pos"]]:
    """Tokens whose prediction is scored (a first one is predicted by nothing), and those of the continuation."""
    length, whole = prompts.mask.sum(1, keepdim=True), text.mask.cumsum(1)
    said = text.mask & (whole > length)
    return (text.instruction | said) & (whole > 1), said


def _measure(
    model: Model, text: TokenPairs, cells: list[Cell], scored: Bool[Tensor, "prompt pos"],
    said: Bool[Tensor, "prompt pos"], max_memory: int | None,
) -> dict[str, Float[Tensor, "*cell prompt"]]:  # fmt: skip
    """Every measure of every cell, in batches of prompts; the unedited logits are made once for each batch."""
    step = rows_with_logits(model, text.n_pos, max_memory)
    found: dict[str, list[Tensor]] = {name: [] for name in (*MEASURES, "nll")}
    for start in range(0, text.n_pairs, step):
        rows = slice(start, start + step)
        here, late = scored[rows], said[rows]
        before = _predicting(logits_under(model, text, (), rows=rows, max_memory=max_memory), here)
        truth = text.clean[rows][here].to(before.device)
        nll = _nll(before, truth)
        found["nll"].append(_mean(nll, here, here))
        each: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
        for cell in cells:
            after = _predicting(logits_under(model, text, cell, rows=rows, max_memory=max_memory), here)
            kl, ratio = _kl(before, after), _nll(after, truth) - nll
            for name, value, part in zip(MEASURES, (kl, ratio, kl, ratio), (here, here, late, late), strict=True):
                each[name].append(_mean(value, here, part))
        for name, values in each.items():
            found[name].append(torch.stack(values))
    return {name: torch.cat(parts, -1).float() for name, parts in found.items()}


def _predicting(
    logits: Float[Tensor, "prompt pos d_vocab"], scored: Bool[Tensor, "prompt pos"]
) -> Float[Tensor, "token d_vocab"]:
    """The logits that predict each scored token: those one column before it."""
    return logits[:, :-1][scored[:, 1:].to(logits.device)]


def _nll(logits: Float[Tensor, "token d_vocab"], truth: Tensor) -> Float[Tensor, " token"]:
    """−log p of each token, in double precision, on the CPU."""
    parts = [-x.double().log_softmax(-1).gather(-1, t[:, None])[:, 0].cpu() for x, t in _chunks((logits, truth))]
    return torch.cat(parts)


def _kl(before: Float[Tensor, "token d_vocab"], after: Float[Tensor, "token d_vocab"]) -> Float[Tensor, " token"]:
    """KL(before ‖ after) at each token, in double precision, on the CPU."""
    parts: list[Tensor] = []
    for b, a in _chunks((before, after)):
        p, q = b.double().log_softmax(-1), a.double().log_softmax(-1)
        parts.append((p.exp() * (p - q)).sum(-1).cpu())
    return torch.cat(parts).clamp(min=0)  # rounding may leave −1e-17 of nothing


def _chunks(both: tuple[Tensor, Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    step = max(1, _AT_ONCE // both[0].shape[-1])
    first, second = (t.split(step) for t in both)
    return zip(first, second, strict=True)


def _mean(
    values: Float[Tensor, " token"], scored: Bool[Tensor, "prompt pos"], part: Bool[Tensor, "prompt pos"]
) -> Float[Tensor, " prompt"]:
    """Mean over the tokens of a part, for each prompt."""
    by_column = torch.zeros(scored.shape, dtype=torch.double)
    by_column[scored] = values
    return (by_column * part).sum(1) / part.sum(1)
