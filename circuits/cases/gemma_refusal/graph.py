"""The circuit as a graph: every block and every head that scores or acts, with its effects; edges into the metric.

An edge says what was measured: the fraction of the metric that noising the component at the last position moves.
Influence between components is not measured here, so no such edge is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import networkx as nx
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from circuits.engine.sweep import Direction
from circuits.frames import records, summary
from circuits.graph import component_graph
from circuits.measure.attention import HeadClasses
from circuits.measure.blocks import BlockPatching
from circuits.measure.heads import HeadPatching
from circuits.measure.writes import Components
from circuits.result import Provenance
from circuits.sites import Site
from circuits.stats import max_t

DRAWN: Final = 0.02
"""Heads without a class whose effect is smaller than this are left out of the graph."""


def node_frame(
    blocks: Mapping[Direction, BlockPatching], heads: Mapping[Direction, HeadPatching], classes: HeadClasses,
    written: Components,
) -> pd.DataFrame:  # fmt: skip
    """One row per node: effects (denoise, noise; at last and subject), intervals, class, p-values, what it writes."""
    return pd.concat([_blocks(blocks, written), _heads(heads, classes)], ignore_index=True)


def _blocks(blocks: Mapping[Direction, BlockPatching], written: Components) -> pd.DataFrame:
    rows: dict[str, dict[str, Any]] = {}
    for direction, result in blocks.items():
        frame = result.to_frame()
        for role in ("last", "subject"):
            at = frame[(frame["pos"] == -1) if role == "last" else (frame["role"] == "subject")]
            table = summary(at, ["kind", "layer"], "fraction").assign(p=_adjusted(at, ["kind", "layer"]))
            for r in records(table):
                label = Site(r["kind"], int(r["layer"])).label
                rows.setdefault(label, {"id": label})
                rows[label] |= {
                    f"{direction}_{role}": r["mean"], f"{direction}_{role}_low": r["low"],
                    f"{direction}_{role}_high": r["high"], f"{direction}_{role}_p": r["p"],
                }  # fmt: skip
    for r in records(written.written_summary()):
        rows[Site(r["kind"], int(r["layer"])).label]["writes"] = r["mean"]
    return pd.DataFrame(list(rows.values()))


def _heads(heads: Mapping[Direction, HeadPatching], classes: HeadClasses) -> pd.DataFrame:
    table = classes.to_summary()[["label", "klass", "direct", "diagonal", "BOS"]].rename(columns={"label": "id"})
    for direction, result in heads.items():
        frame = result.to_frame()
        effects = summary(frame, ["label"], "fraction").assign(p=_adjusted(frame, ["label"]))
        named = {"label": "id", "mean": f"{direction}_last", "p": f"{direction}_last_p"}
        named |= {side: f"{direction}_last_{side}" for side in ("low", "high")}
        table = table.merge(effects.drop(columns="n").rename(columns=named), on="id", how="right")
    acts = table[["denoise_last", "noise_last"]].abs().max(axis=1) >= DRAWN
    return table[acts | table["klass"].isin(["direct", "diagonal"])]


def _adjusted(frame: pd.DataFrame, by: list[str]) -> NDArray[np.floating[Any]]:
    """max-T p-values over the cells of this table, in the order of its summary; pairs without a fraction left out."""
    table = frame.pivot_table(index="pair", columns=by, values="fraction", aggfunc="mean").dropna()
    return max_t(table.to_numpy(float)) if len(table) > 1 else np.full(table.shape[1], np.nan)


def build(nodes: pd.DataFrame, provenance: Provenance) -> nx.DiGraph[str]:
    """Nodes as given, the metric, and one edge from each to the metric."""
    metric = pd.DataFrame([{"id": "metric", "label": provenance.metric}])
    edges = pd.DataFrame({
        "source": nodes["id"], "target": "metric", "kind": "writes", "effect": nodes["noise_last"],
        "low": nodes["noise_last_low"], "high": nodes["noise_last_high"],
    })  # fmt: skip
    attributes: dict[str, str | int | float | bool] = {
        "model": provenance.model, "model_hash": provenance.model_hash, "pairs": provenance.pairs,
        "metric": provenance.metric, "dtype": provenance.dtype,
        "effect": "fraction of the metric moved by noising the component at the last position, mean over pairs",
        "ablation": "interchange with the other prompt of the pair",
    }  # fmt: skip
    return component_graph(pd.concat([nodes, metric], ignore_index=True), edges.dropna(subset="effect"), attributes)
