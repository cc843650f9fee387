"""How much of a behaviour does a circuit carry? Run it with every other edge cut, and compare.

    circuit = Circuit.top_n(model, scores, 200)             # or by_threshold, greedy, between(nodes)
    evaluate(model, tokens, metric, {"mine": circuit})      # faithfulness of it and of its complement
    completeness(model, tokens, metric, circuit)            # does it lose what the model loses?
    minimality(model, tokens, metric, circuit)              # what does each edge (or node) add?
    sparsity_curve(model, tokens, metric, scores)           # faithfulness over size; CPR and CMD, beside random scores

    faithfulness = (m(C) − m(∅))/(m(M) − m(∅))              m(∅): no edge kept, the ablation run; m(M): the clean run

Every number depends on the ablation, which is named beside it. What is kept is exact: nothing is linearised, and edges
into queries, keys and values are told apart.

How it misleads: faithfulness above 1 or below 0 is possible (a negative component left out, one kept alone); a circuit can be
faithful by another way than the model's; the mean over pairs hides pairs that fail. Under `resample` what both prompts
share is never cut: where to attend, say, is kept whatever edges are.
Source: Wang et al., arXiv:2211.00593; Hanna et al., arXiv:2403.17806; Mueller et al., arXiv:2504.13151.

Reading order: `chosen` (Circuit), `connected` (what lies on no path), `share` (faithfulness over pairs), then the verbs.
"""

from circuits.measure.circuit.chosen import Circuit, Rank, Scores
from circuits.measure.circuit.complete import Completeness, completeness
from circuits.measure.circuit.curve import MIB_SIZES, SparsityCurve, sparsity_curve
from circuits.measure.circuit.faithful import Faithfulness, evaluate
from circuits.measure.circuit.minimal import Minimality, minimality

__all__ = [
    "MIB_SIZES", "Circuit", "Completeness", "Faithfulness", "Minimality", "Rank", "Scores", "SparsityCurve",
    "completeness", "evaluate", "minimality", "sparsity_curve",
]  # fmt: skip
