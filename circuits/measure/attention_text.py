"""What do chosen heads read of these prompts? Their attention from one position, written on the tokens.

    weights[prompt, head, pos] = the pattern of the head at the query (the last token, if not said otherwise)

Tokens are the instruction's, the template's, the first one (`bos`: where heads look that look at nothing), or the query
itself. `to_summary` gives each head's mean mass on these by class of prompts; the masses of one prompt sum to one.
A class whose instructions are longer has more instruction tokens to look at: `even`, the mass that equal attention to all
tokens would give, says how much. Attention says where a head looks, not whether what it moves matters.
Source: the extension of "Refusal in Language Models Is Mediated by a Single Direction" to incapability,
further work: do heads attend to what makes a request harmful or impossible?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.draw import bars
from circuits.draw.token_cells import token_cells
from circuits.engine import capture
from circuits.errors import AuditError, SiteError
from circuits.frames import long_frame, summary
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Result
from circuits.sites import Site
from circuits.tables import of_instructions

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROLES: Final = ("instruction", "template", "bos", "query")
"""The query is a role of its own where it is a template token, and before all else."""
_BATCH: Final = 64
_OFF: Final = {torch.float64: 1e-6, torch.float32: 1e-4}
"""How far the rows of a pattern may be from one; in half precision 0.02."""


@final
@dataclass(frozen=True, kw_only=True)
class AttentionOnTokens(Result):
    """Attention of each head from the query to every position; zero after it and at padding."""

    weights: Float[Tensor, "prompt head pos"]
    mask: Bool[Tensor, "prompt pos"]
    """True at real tokens up to the query."""
    instruction: Bool[Tensor, "prompt pos"]
    heads: tuple[str, ...]
    query: int
    """From the end."""
    tokens: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    text: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt, head and real token up to the query: position (from the end), token, role, weight."""
        import pandas as pd

        _, n_heads, width = self.weights.shape
        prompt, pos = np.nonzero(self.mask.numpy())
        roles = self._roles()
        one = pd.DataFrame({
            "prompt": prompt, "label": np.array(self.labels, dtype=object)[prompt], "pos": pos - width,
            "token": [self.tokens[i][p] for i, p in zip(prompt, pos, strict=True)], "role": roles[prompt, pos],
        })  # fmt: skip
        parts = [
            one.assign(head=self.heads[h], weight=self.weights[prompt, h, pos].double().numpy()) for h in range(n_heads)
        ]
        return pd.concat(parts, ignore_index=True)

    def _roles(self) -> Any:
        """[prompt, pos]; of no meaning at padding."""
        real = self.mask.numpy()
        roles = np.where(self.instruction.numpy(), "instruction", "template").astype(object)
        roles[np.arange(len(real)), real.argmax(axis=1)] = "bos"
        roles[:, self.query + real.shape[1]] = "query"
        return roles

    def mass_frame(self) -> pd.DataFrame:
        """One row per prompt, head and role: the mass on it, and `even`, its share of the tokens."""
        roles = np.stack([(self._roles() == role) & self.mask.numpy() for role in ROLES])
        mass = np.einsum("nhp,rnp->nhr", self.weights.double().numpy(), roles)
        even = roles.sum(-1).T / self.mask.numpy().sum(-1)[:, None]
        axes = {"prompt": list(range(len(self.labels))), "head": list(self.heads), "role": list(ROLES)}
        frame = long_frame(axes, {"mass": mass, "even": even[:, None]})
        return frame.assign(label=[self.labels[i] for i in frame["prompt"]])

    def to_summary(self) -> pd.DataFrame:
        """One row per head, class and role: mean mass with its bootstrap interval over prompts, n, and mean `even`."""
        mass = self.mass_frame()
        keys = ["head", "label", "role"]
        table = summary(mass, keys, "mass", over="prompt")
        even = mass.groupby(keys, as_index=False)["even"].mean()
        return table.merge(even, on=keys)

    def figure(self, *, prompts: Sequence[int] | None = None, heads: Sequence[str] | None = None) -> go.Figure:
        """The tokens of a few prompts, shaded by each head's attention.

        Without `prompts`, the first two of every class; without `heads`, the first four. Raises SiteError for what is not here.
        """
        first = {
            label: [i for i, own in enumerate(self.labels) if own == label][:2] for label in dict.fromkeys(self.labels)
        }
        chosen = [i for rows in first.values() for i in rows] if prompts is None else list(prompts)
        shown = list(self.heads[:4] if heads is None else heads)
        beyond = [i for i in chosen if not 0 <= i < len(self.labels)]
        missing = [h for h in shown if h not in self.heads]
        if beyond or missing or not chosen or not shown:
            raise SiteError(
                f"no prompt {beyond} and no head {missing} here: there are prompts 0 to {len(self.labels) - 1} and heads "
                f"{', '.join(self.heads)}"
            )
        frame = self.to_frame()
        frame = frame[frame["prompt"].isin(chosen) & frame["head"].isin(shown)]
        names = [f"{self.labels[i]} {i}" for i in frame["prompt"]]
        left = len(self.heads) - len(shown)
        return token_cells(
            frame.assign(prompt=names, grey=frame["role"] != "instruction"), row="prompt", pos="pos", token="token",
            value="weight", facet="head", muted="grey", unit="attention (probability)",
            title=f"Attention from position {self.query}",
            caption=self.provenance.caption + (f" · {left} more heads are not drawn" if left else ""),
        )  # fmt: skip

    def mass_figure(self) -> go.Figure:
        """Mean mass on the instruction, the template, the first token and the query, by head and class."""
        return bars(
            self.to_summary(), x="head", y="mean", color="label", facet="role", low="low", high="high",
            title=f"Where the attention from position {self.query} goes", x_title="head", y_title="mass (probability)",
            caption=self.provenance.caption,
        )  # fmt: skip


def attention_on_tokens(
    model: Model, prompts: InstructionTokens, heads: Sequence[Site], *, query: int = -1
) -> AttentionOnTokens:
    """Attention of heads (`head(layer, index)`) from the position `query`, counted from the end, to the prompts' tokens.

    Costs one forward pass over the prompts. Raises SiteError, before it, for what is no head of the model and for a
    query that is not a token of every prompt; AuditError where a row of a pattern does not sum to one.
    """
    if not heads or any(h.kind != "z" or h.index is None for h in heads):
        raise SiteError(f"{[h.label for h in heads]}: give heads, such as [head(8, 7)]")
    chosen = list(dict.fromkeys(heads))
    model.check_layers([h.layer for h in chosen])
    beyond = [h.label for h in chosen if not 0 <= (h.index or 0) < model.shape.n_heads]
    if beyond:
        raise SiteError(f"{', '.join(beyond)}: this model has heads 0 to {model.shape.n_heads - 1}")
    width, shortest = prompts.ids.shape[1], int(prompts.mask.sum(1).min())
    if not -shortest <= query < 0:
        raise SiteError(f"query {query} is not a token of every prompt\ncount from the end: {-shortest} to -1")
    layers = sorted({h.layer for h in chosen})
    found: list[Tensor] = []
    for start in range(0, len(prompts.ids), _BATCH):
        rows = slice(start, start + _BATCH)
        run = capture(model, prompts.ids[rows], prompts.mask[rows], [Site("pattern", layer) for layer in layers])
        at_query = {
            layer: run.seen[Site("pattern", layer)][:, query].float().cpu() for layer in layers
        }  # [prompt, head, key]
        found.append(torch.stack([at_query[h.layer][:, h.index] for h in chosen], 1))
    weights, seen = torch.cat(found), prompts.mask & (torch.arange(width) <= query + width)
    _require_rows(model, weights, seen, chosen)
    return AttentionOnTokens(
        provenance=of_instructions(model, prompts), weights=weights, mask=seen, instruction=prompts.instruction, query=query,
        tokens=prompts.text, heads=tuple(h.label for h in chosen), labels=tuple(i.label for i in prompts.instructions),
        text=tuple(i.text for i in prompts.instructions),
    )  # fmt: skip


def _require_rows(
    model: Model, weights: Float[Tensor, "prompt head pos"], seen: Bool[Tensor, "prompt pos"], heads: Sequence[Site]
) -> None:
    """Every row sums to one over the tokens it may see, and is zero elsewhere."""
    off = (weights.double() * seen[:, None]).sum(-1) - 1
    outside = (weights.double() * ~seen[:, None]).abs().sum(-1)
    worst = torch.maximum(off.abs(), outside)
    if not worst.max() <= _OFF.get(model.dtype, 0.02):
        prompt, h = divmod(int(worst.argmax()), len(heads))
        raise AuditError(
            f"{model.name}: attention of {heads[h].label} on prompt {prompt} sums to {1 + off[prompt, h]:.4f} over the tokens "
            "it sees; a head with a sink outside the prompt has no distribution over it"
        )
