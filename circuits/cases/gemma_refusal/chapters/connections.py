"""What talks to what: edges screened by gradients, the largest and a sample of the rest measured exactly, and the fewest
of them that carry the metric when every other edge is cut.

Edges are ranked in two ways: by their exact effect, which asks whether an edge is missed when it alone is gone, and by the
screen's estimate, an average over the way between the runs that also sees edges which stand in for each other. Chosen and
shown on the same pairs a circuit looks better than it is, so it is also chosen on half of the templates and run on the other.
"""  # noqa: D205

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.cases.gemma_refusal.setting import Missing, Setting
from circuits.engine.edges import Edge
from circuits.errors import UndefinedError
from circuits.frames import fraction, undefined
from circuits.measure.circuit import (
    Circuit,
    Faithfulness,
    Minimality,
    Scores,
    SparsityCurve,
    evaluate,
    minimality,
    sparsity_curve,
)
from circuits.measure.paths import Paths, patch_paths
from circuits.measure.screens import Screen, Verified, screen_edges, verify

STEPS: Final = 6
TOP: Final = 300
"""Edges that the screen ranks first: measured exactly."""
SAMPLE: Final = 400
"""Of the others: measured exactly, to know what the screen misses."""
LARGE: Final = 0.01
"""Share of the mean gap from which one edge's effect is called large: one edge of thousands moves little."""
SIZES: Final = (5, 10, 20, 40, 70, 100, 150, 200, 250, TOP)
"""Circuits of so many edges are run."""
RANKINGS: Final = ("effect", "estimate")
"""What edges are ranked by."""
FAITHFUL: Final = 0.8
"""The smallest of them whose interval lies above this is called the circuit."""


@final
@dataclass(frozen=True, eq=False)
class Found:
    """Everything that is known of edges."""

    screen: Screen
    verified: Verified
    paths: Paths
    """Of the TOP edges."""
    curve: SparsityCurve | Missing
    circuits: dict[str, Circuit]
    """Of the largest edges, by `named`."""
    faithful: Faithfulness | Missing
    held_out: Faithfulness | Missing
    circuit: Circuit | Missing
    minimal: Minimality | Missing

    @property
    def connected(self) -> Circuit:
        """All edges of `paths` that lie on a way from the embedding to the metric."""
        return max(self.circuits.values(), key=len)

    @property
    def estimates(self) -> dict[str, float]:
        """Label of an edge -> the screen's mean estimate as a share of the mean gap; NaN where the gaps cancel."""
        base, source = (t.double().mean(0, keepdim=True).numpy() for t in (self.screen.base, self.screen.source))
        moved = base[:, None] + self.screen.score.double().mean(0, keepdim=True).numpy()
        return dict(zip(self.screen.names, fraction(moved, base, source)[0].tolist(), strict=True))


def measure(s: Setting) -> Found | Missing:
    """Screen, measure, cut. Missing where the metric has no gradient or the pairs have no gap."""
    model, tokens, metric = s.model, s.tokens, s.metric
    screen = s.attempt(
        "edge screen", lambda: screen_edges(model, tokens, metric, method="eap-ig-inputs"),
        lambda r: f"{len(r.names)} edges, {r.forward_passes} forward and {r.backward_passes} backward",
    )  # fmt: skip
    if isinstance(screen, Missing):
        return screen
    if undefined(*(t.double().numpy() for t in (screen.base, screen.source))).all():
        return Missing("no pair has a gap between its two runs, so that no edge can move any of it")
    measured: list[Paths] = []

    def exact(edges: Sequence[Any]) -> Float[Tensor, "pair cell"]:
        measured.append(patch_paths(model, tokens, metric, edges=list(edges)))
        return measured[-1].value - measured[-1].base[:, None]

    large = LARGE * (screen.source - screen.base).double().abs().mean().item()
    verified = s.attempt(
        "path patching", lambda: verify(screen, exact, top=TOP, sample=SAMPLE, threshold=large, seed=s.seed),
        lambda r: f"{len(r.names)} edges exactly; {measured[0].provenance.certificate.partition(':')[0]}",
    )  # fmt: skip
    if isinstance(verified, Missing):
        return verified
    paths = _first(measured[0], verified.n_top)
    scores = {edge: float(mean) for edge, mean in zip(screen.what, screen.score.double().mean(0), strict=True)}
    of_screen = Scores({e: v for e, v in scores.items() if isinstance(e, Edge)}, screen.method, model.hash)
    curve = s.attempt(
        "sparsity", lambda: sparsity_curve(model, tokens, metric, of_screen, seed=s.seed),
        lambda r: "CPR {:.3f}, CMD {:.3f}".format(*r.areas()["value"]),
    )  # fmt: skip
    circuits = _circuits(s, paths, screen, list(range(s.tokens.n_pairs)))
    faithful = s.attempt("circuits", lambda: evaluate(model, tokens, metric, circuits), _said)
    held_out = _held_out(s, paths, screen)
    circuit = _smallest(faithful, circuits)
    minimal: Minimality | Missing = circuit if isinstance(circuit, Missing) else s.attempt(
        "minimality", lambda: minimality(model, tokens, metric, circuit, of="nodes"),
        lambda r: f"{len(r.parts)} components of {len(circuit)} edges",
    )  # fmt: skip
    return Found(screen, verified, paths, curve, circuits, faithful, held_out, circuit, minimal)


def _first(paths: Paths, n: int) -> Paths:
    """The first n edges of a result."""
    return replace(paths, value=paths.value[:, :n], edges=paths.edges[:n], kinds=paths.kinds[:n])


def named(n: int, ranking: str) -> str:
    """`200 by effect`."""
    return f"{n} by {ranking}"


def _circuits(s: Setting, paths: Paths, screen: Screen, pairs: list[int]) -> dict[str, Circuit]:
    """The largest of the measured edges over some pairs, so many of them, without those that lie on no way through.

    Raises UndefinedError where none of these pairs has a gap.
    """
    each = fraction(*(t.double().numpy()[pairs] for t in (paths.value, paths.base, paths.source)))
    if not np.isfinite(each).any(0).all():
        raise UndefinedError("no prompt of the templates that a circuit would be chosen on has a gap")
    edges = [Edge(*ends) for ends in paths.edges]
    scored = dict(zip(screen.what, screen.score.double()[pairs].mean(0).tolist(), strict=True))
    of = {"effect": np.nanmean(each, axis=0).tolist(), "estimate": [scored[edge] for edge in edges]}
    sizes = [n for n in SIZES if n < len(edges)] + [len(edges)]
    return {
        named(n, ranking): Circuit.top_n(
            s.model, Scores(dict(zip(edges, of[ranking], strict=True)), ranking, s.model.hash), n
        )
        for ranking in RANKINGS for n in sizes
    }  # fmt: skip


def _smallest(faithful: Faithfulness | Missing, circuits: dict[str, Circuit]) -> Circuit | Missing:
    """The smallest circuit that is surely faithful enough."""
    if isinstance(faithful, Missing):
        return faithful
    table = faithful.to_summary()
    table = table[(table["part"] == "circuit") & (table["low"] >= FAITHFUL)].sort_values("n_edges", kind="stable")
    if table.empty:
        most = max(map(len, circuits.values()))
        return Missing(f"no circuit of up to {most} measured edges is surely {FAITHFUL:g} faithful")
    return circuits[str(table["circuit"].iloc[0])]


def _held_out(s: Setting, paths: Paths, screen: Screen) -> Faithfulness | Missing:
    """Circuits chosen by the effects on every second template, run on the others."""

    def run() -> Faithfulness:
        names = list(paths.provenance.clusters or range(s.tokens.n_pairs))
        order = {name: i for i, name in enumerate(dict.fromkeys(names))}
        chosen_on = [pair for pair, name in enumerate(names) if order[name] % 2 == 0]
        run_on = [pair for pair in range(len(names)) if pair not in set(chosen_on)]
        if not run_on:
            raise UndefinedError("one template leaves none to choose a circuit on and none to run it on")
        seen, theirs = s.tokens.select(chosen_on), replace(screen, **_rows(screen, chosen_on), score=screen.score[chosen_on])
        known = replace(paths, **_rows(paths, chosen_on), value=paths.value[chosen_on])
        pool: list[Edge] = theirs.top(len(paths.edges))  # the run pairs have no say in which edges are candidates either
        place = {edge: i for i, edge in enumerate(known.edges)}
        new = [edge for edge in pool if (edge.sender, edge.receiver) not in place]
        value = [known.value[:, place[e.sender, e.receiver]] for e in pool if e not in new]
        if new:
            value += patch_paths(s.model, seen, s.metric, edges=new).value.unbind(1)
        pool = [edge for edge in pool if edge not in new] + new
        those = replace(
            known, value=torch.stack(value, 1), edges=tuple((e.sender, e.receiver) for e in pool),
            kinds=tuple(e.kind for e in pool),
        )  # fmt: skip
        found = _circuits(s, those, theirs, list(range(len(chosen_on))))
        return evaluate(s.model, s.tokens.select(run_on), s.metric, found)

    return s.attempt("circuits held out", run, _said)


def _rows(found: Screen | Paths, pairs: list[int]) -> dict[str, Any]:
    """The metric of both runs on some pairs."""
    return {"base": found.base[pairs], "source": found.source[pairs]}


def _said(found: Faithfulness) -> str:
    table = found.to_summary()
    largest = table[table["part"] == "circuit"].sort_values("n_edges", kind="stable").iloc[-1]
    return f"{largest['n_edges']} edges {largest['faithfulness']:.2f} faithful"
