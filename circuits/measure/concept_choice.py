"""Which layer's direction carries a concept? Candidates from unpaired prompts, scored by what they do, and filtered.

    candidate[layer] = mean(of) − mean(against) of the residual entering layer, at the last position

    bypass  metric of the `of` prompts with the candidate ablated everywhere (low: the behaviour is gone)
    induce  metric of the `against` prompts with the candidate added at its layer, at every position
    kl      divergence of the `against` prompts' next-token distribution under ablation, in nats

Chosen: the lowest bypass among candidates that induce more than no edit does, whose kl is small, and that do not stand in
the last layers, where a direction may be the unembedding of the reply's first token. The null is random directions ablated.
Source: Arditi et al., arXiv 2406.11717.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.draw import lines
from circuits.engine import sweep
from circuits.engine.collect import last_residuals
from circuits.engine.contrast import difference_of_means, two_classes
from circuits.engine.divergence import Divergence
from circuits.errors import UndefinedError
from circuits.interventions import Add, Cell, ablate_everywhere
from circuits.linalg import random_directions
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.result import Result
from circuits.selection import Filter, Selection, select
from circuits.sites import Site
from circuits.tables import of_instructions

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_LEAST = 6


@final
@dataclass(frozen=True, kw_only=True)
class ConceptChoice(Result):
    """Candidates by layer with their scores (NaN: undefined), and the one chosen."""

    candidates: Float[Tensor, "layer d_model"]
    """At their own norm."""
    bypass: Float[Tensor, " layer"]
    induce: Float[Tensor, " layer"]
    kl: Float[Tensor, " layer"]
    null_bypass: Float[Tensor, " direction"]
    """Of random directions: the chosen one, being the best of many, is fairly compared with the lowest of these."""
    of_metric: float
    """Mean metric of the `of` prompts without an edit."""
    against_metric: float
    of: str
    against: str
    max_kl: float
    max_depth: float
    layer: int

    @property
    def direction(self) -> Float[Tensor, " d_model"]:
        """The chosen difference of means, at its own norm."""
        return self.candidates[self.layer]

    @property
    def selection(self) -> Selection:
        """Which filter rejected how many, the survivors, the choice and its ties."""
        return _select(self.bypass, self.induce, self.kl, self.against_metric, self.max_kl, self.max_depth)

    def to_frame(self) -> pd.DataFrame:
        """One row per layer: norm, bypass, induce, kl, passed, chosen, and the lowest bypass of random directions."""
        import pandas as pd

        n = len(self.bypass)
        return pd.DataFrame({
            "layer": range(n), "norm": self.candidates.norm(dim=-1).numpy(), "bypass": self.bypass.numpy(),
            "induce": self.induce.numpy(), "kl": self.kl.numpy(), "passed": self.selection.passed,
            "chosen": [layer == self.layer for layer in range(n)], "null_bypass": float(self.null_bypass.min()),
        })  # fmt: skip

    def figure(self) -> go.Figure:
        """Both scores by layer, beside the metric without an edit and the lowest of random directions."""
        import pandas as pd

        frame = self.to_frame()
        said = {"bypass": f"{self.of} prompts, ablated", "induce": f"{self.against} prompts, added"}
        shown = pd.concat([frame[["layer"]].assign(y=frame[c], series=s) for c, s in said.items()], ignore_index=True)
        return lines(
            shown, x="layer", y="y", color="series",
            title=f"Every layer's direction {self.of} − {self.against}, ablated and added",
            x_title="layer of the direction", y_title=self.provenance.metric,
            reference={
                f"{self.of}, no edit": self.of_metric, f"{self.against}, no edit": self.against_metric,
                "ablated, lowest random": float(self.null_bypass.min()),
            },
            caption=f"{self.provenance.caption} · chosen: layer {self.layer}",
        )  # fmt: skip


def choose_concept_direction(
    model: Model, prompts: InstructionTokens, metric: Metric, *, concept: tuple[str, str] = ("harmful", "harmless"),
    max_kl: float = 0.1, max_depth: float = 0.8, null_draws: int = 10, seed: int = 0,
) -> ConceptChoice:  # fmt: skip
    """Score every layer's candidate of a concept (of, against), and choose. The metric should be higher on the `of` prompts.

    Raises CircuitError for labels without enough prompts; UndefinedError where no layer has a direction, where the metric
    does not rise with the concept, and where no candidate passes: with what rejected how many, and what to relax.
    """
    of, against = concept
    chosen, _ = two_classes(prompts.instructions, of, against, least=_LEAST)
    prompts = prompts.only(chosen)
    sides = [prompts.only(prompts.labelled(label)).beside_themselves() for label in (of, against)]
    candidates = difference_of_means(last_residuals(model, prompts), prompts.labelled(of)).float()
    defined = [layer for layer, v in enumerate(candidates) if bool(v.isfinite().all())]
    if not defined:
        raise UndefinedError(f"{of} and {against} prompts have the same mean residual at every layer: no direction")
    layers = range(model.shape.n_layers)
    ablated: list[Cell] = [ablate_everywhere(candidates[layer], layers) for layer in defined]
    added: list[Cell] = [(Add(Site("resid_pre", layer), candidates[layer]),) for layer in defined]
    null: list[Cell] = [
        ablate_everywhere(v, layers) for v in random_directions(null_draws, model.shape.d_model, seed=seed)
    ]
    removed = sweep(model, sides[0], metric, [*ablated, *null], direction="noise")
    raised = sweep(model, sides[1], metric, added, direction="noise")
    harm = sweep(model, sides[1], Divergence(model, sides[1]), ablated, direction="noise", audited=False)
    scores = torch.full((3, len(candidates)), float("nan"))
    for i, values in enumerate((removed.value[: len(defined)], raised.value, harm.value)):
        scores[i, defined] = values.mean(-1).float()
    bypass, induce, kl = scores
    high, low = float(removed.base.mean()), float(raised.base.mean())
    if not high > low:
        raise UndefinedError(
            f"{metric.name} is not higher on {of} prompts ({high:.3g}) than on {against} ones ({low:.3g})\n"
            "choose a metric that rises with the concept, e.g. log-odds of the words that show it"
        )
    layer = _select(bypass, induce, kl, low, max_kl, max_depth).index[0]
    return ConceptChoice(
        provenance=of_instructions(model, prompts, metric, removed.certificate.line), candidates=candidates, bypass=bypass,
        induce=induce, kl=kl, null_bypass=removed.value[len(defined) :].mean(-1), of_metric=high, against_metric=low, of=of,
        against=against, max_kl=max_kl, max_depth=max_depth, layer=layer,
    )  # fmt: skip


def _select(
    bypass: Float[Tensor, " layer"], induce: Float[Tensor, " layer"], kl: Float[Tensor, " layer"], against: float,
    max_kl: float, max_depth: float,
) -> Selection:  # fmt: skip
    n = len(bypass)
    filters = (
        Filter("layer", torch.arange(n).double().numpy(), "less than", float(int(max_depth * n)), "max_depth · n_layers"),
        Filter("kl", kl.double().numpy(), "at most", max_kl, "max_kl"),
        Filter("induce", induce.double().numpy(), "more than", against, remedy="check that the metric rises with the concept"),
    )  # fmt: skip
    return select(bypass.double().numpy(), filters, axes={"layer": range(n)}, what="candidate directions")
