"""Graphs that the tests of the formats write and read: two by hand, and random ones."""

from __future__ import annotations

import math

import networkx as nx
import pandas as pd
from hypothesis import strategies as st

from circuits.graph.assemble import Parts, assemble
from circuits.graph.component import component_graph

MODEL = {
    "model": "refusal-gemma (not Gemma)", "model_hash": "9f2c", "n_layers": 12, "n_heads": 8, "n_kv_heads": 1,
    "d_model": 32, "parallel_attn_mlp": False,
}  # fmt: skip
TWO_WAY = ["graphml", "gexf", "cytoscape", "node-link"]
"""Formats that hold every graph."""
LAYERS, HEADS = 4, 4


def sample():
    """Every kind of node but the error, at positions, with odd texts; every kind of edge."""
    nodes = pd.DataFrame({
        "id": ["embed", "L3.resid_pre", "L8.H7@last", "L8.ATTN", "L9.H6", "L9.MLP", "L9.F123", "L11.resid_post", "metric"],
        "klass": [None, None, "direct", None, "diagonal", None, None, None, None],
        "label": [None, "half\\way", None, None, None, None, '"the" bomb', None, "logit['I'] − mean"],
        "noising": [math.nan, 0.1 + 0.2, -1e-300, 2.0, -0.0, 0.5, 1 / 3, 1e300, math.nan],
        "rank": [0, 1, -(2**53), 2, 3, 4, 5, 6, 7],
        "survives": [False, True, True, False, True, False, True, False, True],
        "token": [" ‹bomb›\n", '<&>"', "true", "3", "</script><script>", "\t", "x" * 3000, "0.5", "🜨 é"],
    })  # fmt: skip
    edges = pd.DataFrame({
        "source": ["embed", "L8.H7@last", "L8.H7@last", "L8.H7@last", "L9.H6", "L9.MLP", "L9.F123", "L9.MLP", "L8.ATTN"],
        "target": ["L8.H7@last", "L9.H6", "L9.H6", "L9.H6", "L9.MLP", "metric", "L11.resid_post", "L9.F123", "L9.MLP"],
        "kind": ["feeds", "q", "k", "v", "mlp", "final", "final", "feeds", "writes"],
        "effect": [0.5, 1 / 3, 0.25, -1e-9, 1.0, 0.4, -0.0, 1e-300, 0.1],
        "low": [math.nan, 0.1, 0.2, -1e-8, 0.9, 0.3, -0.1, 0.0, 0.0],
        "high": [math.nan, 0.5, 0.3, 1e-8, 1.1, 0.5, 0.1, 1.0, 0.2],
        "p": [math.nan, 0.01, 0.02, 1.0, 0.0, 0.001, 0.9, 0.5, 0.04],
        "kv_head": [math.nan, math.nan, 0, 0, math.nan, math.nan, math.nan, math.nan, math.nan],
    })  # fmt: skip
    return component_graph(nodes, edges, MODEL | {"pairs": 46, "level": 0.95, "metric": "logit['I'] − mean\nof others"})


def plain():
    """Heads, MLPs and the two ends with edges of EAP-IG's kinds: what every format holds."""
    nodes = pd.DataFrame({
        "id": ["embed", "L0.H1", "L1.H0", "L1.H1", "L1.MLP", "metric"],
        "klass": [None, "name mover", None, "negative", None, None],
        "effect": [math.nan, 0.4, 0.1, -0.2, math.nan, math.nan],
        "in_circuit": [True, True, False, True, True, True],
    })  # fmt: skip
    edges = pd.DataFrame({
        "source": ["embed", "L0.H1", "L0.H1", "L0.H1", "L1.H1", "L0.H1", "L1.MLP"],
        "target": ["L0.H1", "L1.q[0]", "L1.k[0]", "L1.v[0]", "L1.MLP", "metric", "metric"],
        "kind": ["v", "q", "k", "v", "mlp", "final", "final"],
        "effect": [0.1 + 0.2, 1 / 3, 0.25, -0.5, 1e-7, 2.0, -0.0],
        "low": [0.1, 0.3, 0.2, -0.6, 0.0, 1.0, -0.1],
    })  # fmt: skip
    model = {"model": "toy", "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_model": 8, "parallel_attn_mlp": False}
    return component_graph(nodes, edges, model)


def typed(values):
    """Attributes with their types, and floats to the last bit: -0.0 is not 0.0, 1 is neither 1.0 nor True."""
    return {name: (type(value), repr(value)) for name, value in values.items()}


def assert_same(a, b):
    assert type(b) is nx.MultiDiGraph
    assert typed(a.graph) == typed(b.graph)
    assert [(n, typed(v)) for n, v in a.nodes(data=True)] == [(n, typed(v)) for n, v in b.nodes(data=True)]
    assert [(s, t, k, typed(v)) for s, t, k, v in a.edges(keys=True, data=True)] == [
        (s, t, k, typed(v)) for s, t, k, v in b.edges(keys=True, data=True)
    ]


texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="￾￿", include_characters="\n\t"),
    min_size=1, max_size=12,
) | st.sampled_from(
    ["</script><script>alert(1)</script>", "a\nb", '"', "\\", '\\"', "\\\n", "]]>", "&amp;", "true", "1", "é" * 4000, "//x"]
)  # fmt: skip
values = st.one_of(texts, st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
names = texts.filter(str.strip).map(lambda name: f"own {name}")
free = st.dictionaries(names, values, max_size=4)
effects = st.floats(-1e6, 1e6) | st.integers(-5, 5)
measured = st.fixed_dictionaries({"effect": effects}, optional={"p": st.floats(0, 1), "in_circuit": st.booleans()})


STEPS = {"resid_pre": 0, "H": 1, "ATTN": 1, "resid_mid": 2, "MLP": 3, "F": 4, "own": 4}


def step(name):
    """Where a node of a random graph stands: block and step, in the order in which a model computes."""
    if name.startswith(("embed", "metric")):
        return (-1, 0) if name.startswith("embed") else (LAYERS, 0)
    layer, _, rest = name.removeprefix("L").partition(".")
    return int(layer), next(place for kind, place in STEPS.items() if rest.startswith(kind))


@st.composite
def graphs(draw, *, everywhere=False):
    """Parts of a random graph by the rules of `assemble`, for `built`; `everywhere`: what EAP-IG's format holds too."""
    layers = st.integers(0, LAYERS - 1)
    heads = st.builds("L{}.H{}".format, layers, st.integers(0, HEADS - 1))
    ids = heads | st.builds("L{}.MLP".format, layers) | st.just("embed")
    if not everywhere:
        roles = st.sampled_from(["", "@last", "@subject"]) | texts.map("@{}".format)
        kinds = st.sampled_from(["ATTN", "resid_pre", "resid_mid", "F7", "H0", "MLP"])
        ids |= st.builds("L{}.{}{}".format, layers, kinds, roles) | st.builds("{}.own {}".format, layers, texts)
    own = draw(free) | {"model": "toy", "n_layers": LAYERS, "n_heads": HEADS, "d_model": 8, "parallel_attn_mlp": False}
    nodes = [(name, draw(free)) for name in [*draw(st.lists(ids, max_size=8, unique=True)), "metric"]]
    for name, values in nodes:
        values.update(draw(measured) if everywhere else {})
        values.update({"kind": "feature", "layer": step(name)[0]} if ".own " in name else {})
    edges = []
    for target, _ in nodes:
        kinds = ["final"] if target == "metric" else []
        kinds = ["q", "k", "v"] if step(target)[1] == 1 and ".H" in target[:5] else kinds
        kinds = ["mlp"] if step(target)[1] == 3 else kinds
        kinds += [] if everywhere else ["feeds", "writes"]
        for source in [name for name, _ in nodes if step(name) < step(target) and kinds]:
            chosen = draw(st.sets(st.sampled_from(kinds)))
            edges += [(source, target, draw(free) | draw(measured) | {"kind": kind}) for kind in chosen]
    return own, nodes, edges


def built(parts):
    return assemble(Parts(*parts))
