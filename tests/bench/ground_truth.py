"""What every method finds where the truth is known: docs/ground-truth.md.

    python tests/bench/ground_truth.py [--out docs/ground-truth.md]

Planted circuits have their truth from arithmetic (`truth_sets`), the bundled model from exact path patching of every edge.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads
TESTS = Path(__file__).parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from bench import truth_roles, truth_rows, truth_scores, truth_sets  # noqa: E402  found on the path just given
from bench.page import section  # noqa: E402
from bench.truth_bundled import bundled  # noqa: E402
from bench.truth_rows import table  # noqa: E402
from bench.truth_scores import Planted, Scored  # noqa: E402

from circuits.model import load  # noqa: E402
from circuits.organisms import planted  # noqa: E402

PAGE: Final = TESTS.parent / "docs" / "ground-truth.md"
TEMPLATE: Final = Path(__file__).with_name("ground_truth.md.jinja")
NODE_HEAD: Final = (*truth_rows.HEAD, "area: mechanism", "of the mechanism, not large")
INPUT_HEAD: Final = truth_rows.HEAD
EDGE_HEAD: Final = (*truth_rows.HEAD, "area: information", "area: mechanism", "carrying information, not large")
ROLE_HEAD: Final = ("rule", "method", "recovered", "missed", "wrongly named")
SHARED: Final = ("exact, noise", "exact, denoise", "atp, noise", "eap-ig-inputs, noise", "eap-ig-activations, noise",
                 "direct logit attribution")  # fmt: skip
FAMILIES: Final = ("exact", "atp", "atp-graddrop", "eap", "eap-ig-inputs", "eap-ig-activations")


def known(kind: planted.Kind, home: Path) -> Planted:
    """A planted model, written to a folder in `home` and loaded."""
    folder = home / f"planted-{kind}"
    truth = planted.write(kind, folder)
    model = load(str(folder), device="cpu")
    return Planted(truth, model, planted.pairs().tokenize(model))


def node_table(of: Planted, scored: Mapping[str, Scored]) -> str:
    """Heads and MLPs."""
    sets = {"mechanism": truth_sets.node_mechanism(of.truth)}
    rows = [truth_rows.row(each, sets, "mechanism") for each in scored.values()]
    return table(NODE_HEAD, [*rows, _null(scored["exact, noise"], sets)])


def input_table(of: Planted) -> str:
    """Queries, keys and values: effects alone."""
    found = list(truth_scores.inputs(of))
    rows = [truth_rows.row(each, {"": ()}, "")[: len(INPUT_HEAD)] for each in found]
    return table(INPUT_HEAD, [*rows, _null(found[0], {})[: len(INPUT_HEAD)]])


def edge_table(of: Planted, scored: Mapping[str, Scored]) -> str:
    """Every edge of the graph."""
    truth, model = of.truth, of.model
    sets = {
        "information": truth_sets.edge_information(truth, model), "mechanism": truth_sets.edge_mechanism(truth, model),
    }  # fmt: skip
    rows = [truth_rows.row(each, sets, "information") for each in scored.values()]
    return table(EDGE_HEAD, [*rows, _null(scored["exact, noise"], sets)])


def told(of: Planted) -> dict[str, Any]:
    """All that is said of one planted model."""
    nodes = {each.method: each for each in truth_scores.nodes(of)}
    edges = {each.method: each for each in truth_scores.edges(of)}
    rules = [row for method in FAMILIES for row in truth_roles.rows(of, nodes, edges, method)]
    related = truth_roles.relations(of)
    effect = {name: each.mean() for name, each in nodes["exact, noise"].effect.items()}
    structure = truth_sets.structure_alone(of.truth, of.model)
    return {
        "title": of.model.title, "pairs": of.tokens.n_pairs, "gap": f"{truth_sets.gap(of.truth):.2f}",
        "nodes": node_table(of, nodes), "inputs": input_table(of), "edges": edge_table(of, edges),
        "n_nodes": len(effect), "n_acting": sum(x != 0 for x in effect.values()),
        "n_mechanism": len(truth_sets.node_mechanism(of.truth)), "n_edges": len(edges["exact, noise"].names),
        "n_information": len(truth_sets.edge_information(of.truth, of.model)), "n_structure": len(structure),
        "n_structure_sent": sum(not label.startswith("embed") for label in structure),
        "rules": table(ROLE_HEAD, rules), "n_related": len(related),
        "wrong": [f"{a} and {b}: {label}, is {true}" for a, b, label, true in related if label != true],
        "n_together": sum(true != "independent" for *_, true in related),
        "shares": table(("component", "true, noise", "true, denoise", *SHARED),
                        truth_roles.shares_table(of, nodes, list(SHARED))),
    }  # fmt: skip


def _null(of: Scored, sets: Mapping[str, set[str]]) -> tuple[str, ...]:
    acting = [name for name, effect in of.effect.items() if (effect != 0).any()]
    return truth_rows.null_row(of.names, acting, sets)


def main() -> None:
    """Measure everything and write the page."""
    import jinja2

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as home:
        found: list[dict[str, Any]] = []
        for kind in planted.KINDS:
            found.append(told(known(kind, Path(home))))
            print(found[-1]["nodes"], found[-1]["edges"], found[-1]["rules"], sep="\n\n", flush=True)
    of_bundled = bundled()
    options = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(**options, keep_trailing_newline=True)  # noqa: S701  Markdown, not HTML
    text = environment.from_string(TEMPLATE.read_text()).render(
        planted=found, bundled=of_bundled, on=section("")["on"], draws=truth_rows.DRAWS
    )
    out.write_text(text)


if __name__ == "__main__":
    main()
