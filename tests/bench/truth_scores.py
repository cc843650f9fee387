"""Every method's scores on a planted model, by name, pair by pair: exact effects, screens, baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from bench import truth_sets as true
from numpy.typing import NDArray

from circuits.engine import mean_activations, sweep
from circuits.engine.edges import METRIC, all_edges
from circuits.engine.edges.cut import Cuts
from circuits.interventions import Patch
from circuits.measure.attention import classify_heads
from circuits.measure.attribution import attribute_logits
from circuits.measure.paths import patch_paths
from circuits.measure.screens import EDGE_METHODS, NODE_METHODS, exact_nodes, screen_edges, screen_nodes
from circuits.metrics import LogitDifference
from circuits.model import Model
from circuits.organisms.planted import Truth
from circuits.prompts import TokenPairs
from circuits.sites import parse

LARGE: Final = 0.05
"""Of the gap."""
DIRECTIONS: Final = ("noise", "denoise")


@final
@dataclass(frozen=True, eq=False)
class Scored:
    """What a method says of every name, beside what is true of the intervention that it measures or estimates."""

    method: str
    names: tuple[str, ...]
    value: NDArray[np.float64]
    """[pair, name]"""
    effect: true.Effects
    """Names without an entry are left out of questions of effect: arithmetic does not know them."""
    limit: float
    """What counts as large, in the unit of the value."""
    gap: float
    """Signed mean of source − base: the unit of a share."""
    exact: bool = False
    """It measures what `effect` says, and has to find it within the model's tolerance."""
    signed: bool = True

    @property
    def size(self) -> dict[str, float]:
        """Mean |value| over pairs: what names are ranked by."""
        return dict(zip(self.names, np.abs(self.value).mean(0).tolist(), strict=True))

    @property
    def share(self) -> dict[str, float]:
        """Mean value as a share of the way from base to source; opposed components are negative."""
        return dict(zip(self.names, (self.value.mean(0) / self.gap).tolist(), strict=True))


@final
@dataclass(frozen=True, eq=False)
class Planted:
    """One planted model and its pairs."""

    truth: Truth
    model: Model
    tokens: TokenPairs

    @property
    def metric(self) -> LogitDifference:
        return LogitDifference(self.model)

    def scored(self, method: str, names: Any, value: Any, effect: true.Effects, how: str, **more: Any) -> Scored:
        """With the usual limit and unit."""
        gap = true.gap(self.truth)
        array = np.asarray(torch.as_tensor(value).double().numpy())
        return Scored(method, tuple(names), array, effect, LARGE * gap, gap if how == "denoise" else -gap, **more)


def nodes(of: Planted, steps: int = 5) -> Iterator[Scored]:
    """Heads and MLPs, at all positions."""
    model, tokens, names = of.model, of.tokens, [node.name for node in of.truth.nodes]
    for how in DIRECTIONS:
        effect = true.node_effects(of.truth, how)
        yield of.scored(f"exact, {how}", names, exact_nodes(model, tokens, of.metric, direction=how)(names), effect, how,
                        exact=True)  # fmt: skip
    for how in ("zero", "mean"):
        yield of.scored(f"exact, {how} ablation", names, _ablated(of, names, how), true.node_effects(of.truth, how), how,
                        exact=True)  # fmt: skip
    for method in NODE_METHODS:
        if method != "atp-qk":  # of a head's result it is atp
            yield from _screened(of, method, names, true.node_effects, steps, DIRECTIONS)
    yield _attributed(of)
    yield from _attention(of)


def inputs(of: Planted, *, directions: Sequence[Any] = DIRECTIONS, steps: int = 5) -> Iterator[Scored]:
    """Queries, keys and values."""
    names = list(true.input_effects(of.truth, of.model, "noise"))

    def effect(truth: Truth, how: Any) -> true.Effects:
        return true.input_effects(truth, of.model, how)

    for how in directions:
        found = exact_nodes(of.model, of.tokens, of.metric, direction=how)(names)
        yield of.scored(f"exact, {how}", names, found, effect(of.truth, how), how, exact=True)
    for method in NODE_METHODS:
        yield from _screened(of, method, names, effect, steps, directions)


def edges(
    of: Planted, *, ablations: Sequence[Any] = ("zero", "mean"), methods: Sequence[Any] = EDGE_METHODS, steps: int = 5
) -> Iterator[Scored]:
    """Every edge of the graph; each edge cut alone under `ablations`; screens by `methods`."""
    model, tokens, metric = of.model, of.tokens, of.metric
    every = all_edges(model)
    names = [edge.label for edge in every]
    for how in DIRECTIONS:
        found = patch_paths(model, tokens, metric, direction=how)
        effect = true.edge_effects(of.truth, model, how)
        yield of.scored(f"exact, {how}", names, found.value - found.base[:, None], effect, how, exact=True)
    # the embedding has what both prompts have in common, which these two take away as well: arithmetic does not know that
    some = [edge for edge in every if edge.sender != "embed"]
    for how in ablations:
        cuts = Cuts(model, tokens, metric, ablation=how)
        value = cuts.run([set(every) - {edge} for edge in some]) - cuts.clean
        effect = true.edge_effects(of.truth, model, how)
        effect = {edge.label: effect[edge.label] for edge in some}
        for label in true.structure_alone(of.truth, model) & effect.keys():
            del effect[label]
        yield of.scored(f"exact, {how} ablation", [e.label for e in some], value.T, effect, how, exact=True)
    for method in methods:
        for how in DIRECTIONS:
            screen = screen_edges(model, tokens, metric, method=method, direction=how, steps=steps)
            yield of.scored(
                f"{method}, {how}", screen.names, screen.score, true.edge_effects(of.truth, model, how), how
            )


def _screened(
    of: Planted, method: Any, names: list[str], effect: Any, steps: int, directions: Sequence[Any]
) -> Iterator[Scored]:
    for how in directions:
        found = screen_nodes(of.model, of.tokens, of.metric, method=method, nodes=names, direction=how, steps=steps)
        yield of.scored(f"{method}, {how}", names, found.score, effect(of.truth, how), how, signed=found.signed)


def _ablated(of: Planted, names: list[str], how: str) -> Any:
    sites = [parse(name) for name in names]
    means = mean_activations(of.model, of.tokens, sites) if how == "mean" else {}
    swept = sweep(of.model, of.tokens, of.metric, [(Patch(s, "all", means.get(s, torch.zeros(()))),) for s in sites],
                  direction="noise")  # fmt: skip
    return (swept.value - swept.base).T


def _attributed(of: Planted) -> Scored:
    """What is written to the metric directly, clean − corrupt."""
    found = attribute_logits(of.model, of.tokens, of.metric)
    layers, heads = range(of.model.shape.n_layers), range(of.model.shape.n_heads)
    of_heads = (found.heads[0] - found.heads[1]).flatten(1)
    of_mlps = (found.written[0] - found.written[1])[:, 1]
    names = [f"L{n}.H{h}" for n in layers for h in heads] + [f"L{n}.MLP" for n in layers]
    value, effect = torch.cat([of_heads, of_mlps], 1), true.direct_effects(of.truth)
    return of.scored("direct logit attribution", names, value, effect, "denoise", exact=True)


def _attention(of: Planted) -> Iterator[Scored]:
    """How much heads look where the mechanism looks: scores without a metric, of heads alone."""
    found = classify_heads(of.model, of.tokens)
    names = tuple(f"L{n}.H{h}" for n in range(of.model.shape.n_layers) for h in range(of.model.shape.n_heads))
    for method, score, effect in (
        ("attention, last → subject", found.direct, true.looks_at_subject(of.truth)),
        ("attention, to the token before", found.diagonal, true.looks_one_back(of.truth)),
    ):
        yield Scored(method, names, score.flatten(1).double().numpy(), effect, found.threshold, 1.0, signed=False)


def role(name: str) -> str:
    """A node with its role, an edge with those of both ends."""
    sender, arrow, receiver = name.partition(" → ")
    ends = [sender, *([receiver] if arrow else [])]
    return " → ".join(f"{end} ({true.ROLE_OF[end]})" if end in true.ROLE_OF and end not in ("embed", METRIC) else end
                      for end in ends)  # fmt: skip
