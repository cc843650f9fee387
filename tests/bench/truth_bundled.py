"""Screens of the bundled model, beside the exact effects of every edge and every node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from bench import truth_screens as screens
from bench.measure import timed
from bench.truth_rows import table
from bench.truth_screens import Compared
from torch import Tensor

from circuits.engine import Swept, sweep
from circuits.engine.edges import all_edges
from circuits.engine.edges.paths import along_paths
from circuits.interventions import Patch
from circuits.measure.screens import EDGE_METHODS, NODE_METHODS, Screen, all_nodes, screen_edges, screen_nodes
from circuits.metrics import RefusalMetric
from circuits.model import load
from circuits.prompts import toy_refusal_pairs
from circuits.sites import parse

EDGE_TOPS: Final = (100, 300)
NODE_TOPS: Final = (20, 50)
DIRECTIONS: Final = ("noise", "denoise")


def bundled() -> dict[str, Any]:
    """Tables of edges and nodes, both directions."""
    model = load(device="cpu")
    tokens, metric = toy_refusal_pairs().tokenize(model), RefusalMetric(model, "I")
    edges, nodes = all_edges(model), all_nodes(model)
    full = tokens.n_pairs * tokens.n_pos * model.shape.n_layers
    cells = [(Patch(parse(name)),) for name in nodes]
    found: dict[str, Any] = {}
    for how in DIRECTIONS:
        given: dict[str, Any] = {"direction": how}

        def of_edges(given: dict[str, Any] = given) -> Swept:
            return along_paths(model, tokens, metric, edges, **given)  # what patch_paths runs, with its count of passes

        def of_nodes(given: dict[str, Any] = given) -> Swept:
            return sweep(model, tokens, metric, cells, **given)

        def screened(verb: Any, method: str, given: dict[str, Any] = given) -> Callable[[], Screen]:
            return lambda: verb(model, tokens, metric, method=method, **given)

        exact = timed(of_edges)
        by_edge = list(_compared(*exact, full, [screened(screen_edges, method) for method in EDGE_METHODS]))
        by_node = list(_compared(*timed(of_nodes), full, [screened(screen_nodes, method) for method in NODE_METHODS]))
        found[how] = {
            "edges": _tables(by_edge, EDGE_TOPS), "nodes": _tables(by_node, NODE_TOPS),
            "verified": table(
                ("screen", "large from", "true recall", "one sample's", "holds it", "samples that hold it",
                 "unseen: true / bound", "samples bounded"),
                [screens.verify_row(each, share, EDGE_TOPS[0]) for each in by_edge for share in screens.SHARES],
            ),
            "certificate": exact[0].certificate.line, "passes": f"{by_edge[0].passes:.0f}",
        }  # fmt: skip
        for part in found[how].values():
            print(part if isinstance(part, str) else "\n\n".join(part.values()), end="\n\n", flush=True)
    return found | {
        "title": model.title, "hash": model.hash, "pairs": tokens.n_pairs, "pos": tokens.n_pos, "metric": metric.name,
        "n_edges": len(edges), "n_nodes": len(nodes), "gap": f"{by_edge[0].gap.mean():.2f}",
    }  # fmt: skip


def _compared(swept: Swept, seconds: float, full: int, runs: Sequence[Callable[[], Screen]]) -> Iterator[Compared]:
    exact: Tensor = (swept.value - swept.base).T
    for run in runs:
        screen, own = timed(run)
        yield Compared(screen, exact.double().numpy(), swept.certificate.token_layers / full, seconds, own)


def _tables(found: Sequence[Compared], tops: tuple[int, int]) -> dict[str, str]:
    heads = (
        ("screen", "large from", "how many", "recall in as many", *(f"recall in {top}" for top in tops)),
        ("screen", *(f"largest missed by {top}" for top in tops), "ρ", "signs", "passes", "seconds"),
    )
    chance = [top / len(found[0].screen.names) for top in tops]
    rows = [screens.recall_row(each, share, tops) for share in screens.SHARES for each in found]
    rows.append(("random order, on average", "any", "", "", *(f"{x:.2f}" for x in chance)))
    return {
        "recall": table(heads[0], rows), "others": table(heads[1], [screens.other_row(each, tops) for each in found]),
    }  # fmt: skip
