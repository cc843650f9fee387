"""Find, test and draw circuits in language models.

    import circuits as ct

    model  = ct.load()                                # the bundled model; or a hub id, or a local folder
    pairs  = ct.toy_refusal_pairs()                   # or ct.PairSet.from_csv("pairs.csv")
    tokens = pairs.tokenize(model)                    # aligned, positions named
    metric = ct.RefusalMetric(model, "I")             # or ct.LogitDifference(model, "sorry", "sure")

    resid  = ct.patch_residual(model, tokens, metric)                # where
    groups = ct.patch_groups(model, tokens, metric)                  # which stage
    heads  = ct.patch_heads(model, tokens, metric)                   # which head
    roles  = ct.classify_heads(model, tokens)                        # what it attends to
    resid.to_frame(); resid.figure(); resid.save("runs/mine")

    screen = ct.screen_edges(model, tokens, metric)                  # which connections, by gradients
    paths  = ct.patch_paths(model, tokens, metric, edges=screen.top(100))     # … exactly
    found  = ct.Circuit.top_n(model, dict(zip(screen.what, screen.score.mean(0).tolist())), 200)
    ct.evaluate(model, tokens, metric, found)                        # with all others cut

Reading order of the package: errors, axes, sites · prompts, model, metrics, interventions · engine · measure · graph ·
report · case, cases. Names are imported on first use: `import circuits` itself loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuits.engine import generate, mean_activations, resampled_activations, sweep
    from circuits.engine.edges import Edge
    from circuits.errors import CircuitError
    from circuits.graph import component_graph, export, load_graph
    from circuits.interventions import Ablate, Add, Clamp, Patch, Rotate, ablate_everywhere
    from circuits.measure.attention import classify_heads
    from circuits.measure.attribution import attribute_logits
    from circuits.measure.behaviour import behaviour
    from circuits.measure.blocks import patch_blocks
    from circuits.measure.circuit import Circuit, Scores, completeness, evaluate, minimality, sparsity_curve
    from circuits.measure.clamping import clamp_component
    from circuits.measure.directions import choose_direction
    from circuits.measure.groups import patch_groups
    from circuits.measure.head_sets import patch_head_sets
    from circuits.measure.head_writes import head_writes
    from circuits.measure.heads import patch_heads
    from circuits.measure.interaction import interactions
    from circuits.measure.lens import logit_lens
    from circuits.measure.ov import ov_circuits
    from circuits.measure.patched_behaviour import patched_behaviour
    from circuits.measure.paths import exact_edges, patch_paths
    from circuits.measure.repair_identity import decompose_repair
    from circuits.measure.residual import patch_residual
    from circuits.measure.screens import exact_nodes, screen_edges, screen_nodes, verify
    from circuits.measure.self_repair import self_repair
    from circuits.measure.transfer import transfer
    from circuits.measure.unembedding import compare_unembedding
    from circuits.measure.writes import components
    from circuits.metrics import LogitDifference, LogOdds, RefusalMetric
    from circuits.model import Model, bundled_models, load
    from circuits.prompts import (
        InstructionSet,
        Pair,
        PairSet,
        TokenPairs,
        diverse_instructions,
        filter_subjects,
        refusal_subjects,
        toy_refusal_pairs,
    )
    from circuits.refusal import is_refusal
    from circuits.report.circuit import write_page
    from circuits.sites import Site, head, neuron, parse

__version__ = "0.1.0"

_HOME = {
    "circuits.engine": ("generate", "mean_activations", "resampled_activations", "sweep"),
    "circuits.engine.edges": ("Edge",),
    "circuits.errors": ("CircuitError",),
    "circuits.graph": ("component_graph", "export", "load_graph"),
    "circuits.interventions": ("Ablate", "Add", "Clamp", "Patch", "Rotate", "ablate_everywhere"),
    "circuits.measure.attention": ("classify_heads",),
    "circuits.measure.attribution": ("attribute_logits",),
    "circuits.measure.behaviour": ("behaviour",),
    "circuits.measure.blocks": ("patch_blocks",),
    "circuits.measure.circuit": ("Circuit", "Scores", "completeness", "evaluate", "minimality", "sparsity_curve"),
    "circuits.measure.clamping": ("clamp_component",),
    "circuits.measure.directions": ("choose_direction",),
    "circuits.measure.groups": ("patch_groups",),
    "circuits.measure.head_sets": ("patch_head_sets",),
    "circuits.measure.head_writes": ("head_writes",),
    "circuits.measure.heads": ("patch_heads",),
    "circuits.measure.interaction": ("interactions",),
    "circuits.measure.lens": ("logit_lens",),
    "circuits.measure.ov": ("ov_circuits",),
    "circuits.measure.patched_behaviour": ("patched_behaviour",),
    "circuits.measure.paths": ("exact_edges", "patch_paths"),
    "circuits.measure.repair_identity": ("decompose_repair",),
    "circuits.measure.residual": ("patch_residual",),
    "circuits.measure.screens": ("exact_nodes", "screen_edges", "screen_nodes", "verify"),
    "circuits.measure.self_repair": ("self_repair",),
    "circuits.measure.transfer": ("transfer",),
    "circuits.measure.unembedding": ("compare_unembedding",),
    "circuits.measure.writes": ("components",),
    "circuits.metrics": ("LogOdds", "LogitDifference", "RefusalMetric"),
    "circuits.model": ("Model", "bundled_models", "load"),
    "circuits.prompts": (
        "InstructionSet", "Pair", "PairSet", "TokenPairs", "diverse_instructions", "filter_subjects", "refusal_subjects",
        "toy_refusal_pairs",
    ),
    "circuits.refusal": ("is_refusal",),
    "circuits.report.circuit": ("write_page",),
    "circuits.sites": ("Site", "head", "neuron", "parse"),
}  # fmt: skip
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Ablate",
    "Add",
    "Circuit",
    "CircuitError",
    "Clamp",
    "Edge",
    "InstructionSet",
    "LogOdds",
    "LogitDifference",
    "Model",
    "Pair",
    "PairSet",
    "Patch",
    "RefusalMetric",
    "Rotate",
    "Scores",
    "Site",
    "TokenPairs",
    "ablate_everywhere",
    "attribute_logits",
    "behaviour",
    "bundled_models",
    "choose_direction",
    "clamp_component",
    "classify_heads",
    "compare_unembedding",
    "completeness",
    "component_graph",
    "components",
    "decompose_repair",
    "diverse_instructions",
    "evaluate",
    "exact_edges",
    "exact_nodes",
    "export",
    "filter_subjects",
    "generate",
    "head",
    "head_writes",
    "interactions",
    "is_refusal",
    "load",
    "load_graph",
    "logit_lens",
    "mean_activations",
    "minimality",
    "neuron",
    "ov_circuits",
    "parse",
    "patch_blocks",
    "patch_groups",
    "patch_head_sets",
    "patch_heads",
    "patch_paths",
    "patch_residual",
    "patched_behaviour",
    "refusal_subjects",
    "resampled_activations",
    "screen_edges",
    "screen_nodes",
    "self_repair",
    "sparsity_curve",
    "sweep",
    "toy_refusal_pairs",
    "transfer",
    "verify",
    "write_page",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
