"""Edges of the residual stream: what a sender adds to it and a receiver reads from it.

Reading order: names (who there is, and who comes before whom), written (what every sender adds in a run), received (what
a receiver makes of any residual), differences (what senders add in one run and not in the other), carried (that, from
block to block), receivers (edges as rows, run to the metric), paths (path patching), slowly (its sample for the audit).
"""

from __future__ import annotations

from circuits.engine.edges.names import METRIC, Edge, all_edges, all_receivers, all_senders, check_edges
from circuits.engine.edges.received import received
from circuits.engine.edges.written import Written

__all__ = ["METRIC", "Edge", "Written", "all_edges", "all_receivers", "all_senders", "check_edges", "received"]
