"""Component graphs of any size with random numbers, for the page that shows them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from circuits.graph import component_graph

MODEL = "refusal-gemma (bundled, Gemma architecture; not Gemma)"
ROLES = ("subject", "post_subject", "last")


def _order(name: str) -> tuple[int, int]:
    if name in {"embed", "metric"}:
        return (-1, 0) if name == "embed" else (1 << 20, 0)
    layer, part = name.split("@", maxsplit=1)[0][1:].split(".")
    return int(layer), {"H": 0, "A": 0, "M": 1, "F": 2}[part[0]]


def _kind(target: str, rng: np.random.Generator) -> str:
    if target == "metric":
        return "final"
    part = target.split(".")[1][0]
    return str(rng.choice(["q", "k", "v"])) if part == "H" else "mlp" if part == "M" else "feeds"


def random_graph(components: int, edges: int, *, seed: int = 0, positions: bool = False, layers: int = 18):
    """A graph with heads, blocks, features where there is room, embed and metric; effects with intervals and p-values."""
    rng = np.random.default_rng(seed)
    heads = [f"L{layer}.H{head}" for layer in range(layers) for head in range(8)]
    blocks = [f"L{layer}.{block}" for layer in range(layers) for block in ("ATTN", "MLP")]
    features = [f"L{layer}.F{int(n)}" for layer in range(layers) for n in sorted(set(rng.integers(0, 16384, 40)))]
    pool = heads + blocks + (features if components > 150 else [])
    names = [str(name) for name in rng.permutation(pool)[: components - 2]]
    names = [f"{name}@{rng.choice(ROLES)}" if positions else name for name in names]
    rows = []
    for name in names:
        effect, half = rng.laplace() * 0.15, rng.uniform(0.02, 0.1)
        row = {"id": name, "noise": effect, "noise_low": effect - half, "noise_high": effect + half}
        row["noise_p"] = float(np.clip(np.exp(-((effect / half) ** 2)), 1e-4, 1))
        if ".H" in name:
            row["klass"] = str(rng.choice(["direct", "diagonal", "BOS", "other"]))
        rows.append(row)
    rows += [{"id": "embed"}, {"id": "metric", "label": "logit['I'] − mean(others)"}]
    every = [row["id"] for row in rows]
    found = {}
    while len(found) < edges:
        source, target = (every[i] for i in rng.integers(0, len(every), 2))
        if _order(source) < _order(target):
            effect, half = rng.laplace() * 0.1, rng.uniform(0.01, 0.06)
            p = float(np.clip(np.exp(-((effect / half) ** 2)), 1e-4, 1))
            row = {"effect": effect, "low": effect - half, "high": effect + half, "p": p, "n": 46}
            found[source, target, _kind(target, rng)] = row
    frame = pd.DataFrame([{"source": s, "target": t, "kind": k} | row for (s, t, k), row in found.items()])
    attributes = {
        "model": MODEL,
        "pairs": "46 pairs (ab12cd)",
        "metric": "logit['I'] − mean(others)",
        "dtype": "float32",
    }
    return component_graph(pd.DataFrame(rows), frame, attributes)


def curve_of(
    graph, counts: tuple[int, ...] = (1, 2, 5, 10, 20, 40, 80, 150, 300, 600, 1200, 2500, 5000)
) -> pd.DataFrame:
    """A faithfulness curve that rises with the share of edges kept, with both ways of saying what was kept."""
    sizes = sorted((abs(effect) for *_, effect in graph.edges(data="effect")), reverse=True)
    kept = [n for n in counts if n < len(sizes)] + [len(sizes)]
    faithfulness = [1 - float(np.exp(-6 * n / len(sizes))) for n in kept]
    return pd.DataFrame({
        "edges": kept, "threshold": [sizes[n - 1] for n in kept], "faithfulness": faithfulness,
        "low": [f - 0.05 for f in faithfulness], "high": [f + 0.05 for f in faithfulness],
        "null": [0.4 * n / len(sizes) for n in kept],
    })  # fmt: skip
