"""Which components, or edges between them, seem to matter? Estimates by gradients, and how far they can be trusted.

    screen = screen_edges(model, tokens, metric, method="eap-ig-inputs")
    checked = verify(screen, exact, top=50, sample=100)     # exact effects of the largest, and of a sample of the rest

A score estimates, per pair, how the metric changes when the base run's component (or what one receiver reads of it) is
replaced by the source run's. Plain gradients (`atp`, `eap`) are tangents at the base run: right for small differences.

How it misleads: where the metric bends between the two runs the tangent points elsewhere: attention that is saturated
has a gradient near zero, a direct and an indirect effect that cancel at the base run hide both. The other methods repair
one failure each and cost more passes; none is exact, so `verify` what a screen drops as well as what it picks. Shares of
the way between two runs are inputs or activations that no prompt has.

Reading order: `nodes` and `edges` (the verbs), `passes` (runs and batches they share), `result`,
`exact` (effects of nodes by the engine's sweep), `verify`, `strata` (its arithmetic), `verified` (its result).
"""

from circuits.measure.screens.edges import EDGE_METHODS, EdgeMethod, screen_edges
from circuits.measure.screens.exact import exact_nodes
from circuits.measure.screens.nodes import NODE_METHODS, NodeMethod, all_nodes, screen_nodes
from circuits.measure.screens.result import Screen
from circuits.measure.screens.verified import Verified
from circuits.measure.screens.verify import verify

__all__ = [
    "EDGE_METHODS", "NODE_METHODS", "EdgeMethod", "NodeMethod", "Screen", "Verified", "all_nodes", "exact_nodes",
    "screen_edges", "screen_nodes", "verify",
]  # fmt: skip
