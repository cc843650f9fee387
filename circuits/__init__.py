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

    found  = ct.choose_concept_direction(model, ct.diverse_instructions().tokenize(model), metric)   # prompts without pairs
    ct.save_edits("no-refusal", ct.ablate_everywhere(found.direction, range(model.shape.n_layers)), model=model)

Reading order of the package: errors, axes, sites · prompts, model, metrics, interventions · engine · judges, edits, sae ·
measure · graph · report · case, cases. Names are imported on first use: `import circuits` itself loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuits.edits import Edits, load_edits, orthogonalised, save_edits
    from circuits.engine import generate, generate_cells, mean_activations, resampled_activations, sweep
    from circuits.engine.edges import Edge
    from circuits.engine.kept import keep
    from circuits.errors import CircuitError
    from circuits.graph import component_graph, export, load_graph
    from circuits.harness import evaluate_tasks
    from circuits.interventions import Ablate, Add, Aim, Clamp, Patch, Rotate, ablate_everywhere
    from circuits.judges import EndpointJudge, PerplexityJudge, SubstringJudge
    from circuits.measure.attention import classify_heads
    from circuits.measure.attention_text import attention_on_tokens
    from circuits.measure.attribution import attribute_logits
    from circuits.measure.behaviour import behaviour
    from circuits.measure.blocks import patch_blocks
    from circuits.measure.capability import capability_cost
    from circuits.measure.circuit import Circuit, Scores, completeness, evaluate, minimality, sparsity_curve
    from circuits.measure.clamping import clamp_component
    from circuits.measure.classes import compare_pca_directions, separate_classes
    from circuits.measure.concept_choice import choose_concept_direction
    from circuits.measure.concepts import compare_concepts
    from circuits.measure.directions import choose_direction
    from circuits.measure.features import decompose, decompose_difference, feature_inputs, patch_features, top_features
    from circuits.measure.groups import patch_groups
    from circuits.measure.head_sets import patch_head_sets
    from circuits.measure.head_writes import head_writes
    from circuits.measure.heads import patch_heads
    from circuits.measure.interaction import interactions
    from circuits.measure.layer_directions import layer_directions
    from circuits.measure.lens import logit_lens
    from circuits.measure.ov import ov_circuits
    from circuits.measure.padding import padding_effects
    from circuits.measure.patched_behaviour import patched_behaviour
    from circuits.measure.paths import exact_edges, patch_paths
    from circuits.measure.planes import concept_planes
    from circuits.measure.prompt_sets import compare_prompt_sets
    from circuits.measure.repair_identity import decompose_repair
    from circuits.measure.residual import patch_residual
    from circuits.measure.rotation import compare_planes, locate_edits, rotate_sweep
    from circuits.measure.screens import exact_nodes, screen_edges, screen_nodes, verify
    from circuits.measure.self_repair import self_repair
    from circuits.measure.steering import Dose, steer
    from circuits.measure.token_shifts import token_shifts
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
        capability_instructions,
        diverse_instructions,
        filter_subjects,
        refusal_subjects,
        toy_refusal_pairs,
    )
    from circuits.refusal import is_refusal
    from circuits.remote import ray_workers
    from circuits.report.circuit import write_page
    from circuits.sae import bundled_saes, load_sae
    from circuits.sites import Site, head, neuron, parse

__version__ = "0.1.0"

_HOME = {
    "circuits.edits": ("Edits", "load_edits", "orthogonalised", "save_edits"),
    "circuits.engine": ("generate", "generate_cells", "mean_activations", "resampled_activations", "sweep"),
    "circuits.engine.edges": ("Edge",),
    "circuits.engine.kept": ("keep",),
    "circuits.errors": ("CircuitError",),
    "circuits.graph": ("component_graph", "export", "load_graph"),
    "circuits.harness": ("evaluate_tasks",),
    "circuits.interventions": ("Ablate", "Add", "Aim", "Clamp", "Patch", "Rotate", "ablate_everywhere"),
    "circuits.judges": ("EndpointJudge", "PerplexityJudge", "SubstringJudge"),
    "circuits.measure.attention": ("classify_heads",),
    "circuits.measure.attention_text": ("attention_on_tokens",),
    "circuits.measure.attribution": ("attribute_logits",),
    "circuits.measure.behaviour": ("behaviour",),
    "circuits.measure.blocks": ("patch_blocks",),
    "circuits.measure.capability": ("capability_cost",),
    "circuits.measure.circuit": ("Circuit", "Scores", "completeness", "evaluate", "minimality", "sparsity_curve"),
    "circuits.measure.clamping": ("clamp_component",),
    "circuits.measure.classes": ("compare_pca_directions", "separate_classes"),
    "circuits.measure.concept_choice": ("choose_concept_direction",),
    "circuits.measure.concepts": ("compare_concepts",),
    "circuits.measure.directions": ("choose_direction",),
    "circuits.measure.features": (
        "decompose", "decompose_difference", "feature_inputs", "patch_features", "top_features",
    ),
    "circuits.measure.groups": ("patch_groups",),
    "circuits.measure.head_sets": ("patch_head_sets",),
    "circuits.measure.head_writes": ("head_writes",),
    "circuits.measure.heads": ("patch_heads",),
    "circuits.measure.interaction": ("interactions",),
    "circuits.measure.layer_directions": ("layer_directions",),
    "circuits.measure.lens": ("logit_lens",),
    "circuits.measure.ov": ("ov_circuits",),
    "circuits.measure.padding": ("padding_effects",),
    "circuits.measure.patched_behaviour": ("patched_behaviour",),
    "circuits.measure.paths": ("exact_edges", "patch_paths"),
    "circuits.measure.planes": ("concept_planes",),
    "circuits.measure.prompt_sets": ("compare_prompt_sets",),
    "circuits.measure.repair_identity": ("decompose_repair",),
    "circuits.measure.residual": ("patch_residual",),
    "circuits.measure.rotation": ("compare_planes", "locate_edits", "rotate_sweep"),
    "circuits.measure.screens": ("exact_nodes", "screen_edges", "screen_nodes", "verify"),
    "circuits.measure.self_repair": ("self_repair",),
    "circuits.measure.steering": ("Dose", "steer"),
    "circuits.measure.token_shifts": ("token_shifts",),
    "circuits.measure.transfer": ("transfer",),
    "circuits.measure.unembedding": ("compare_unembedding",),
    "circuits.measure.writes": ("components",),
    "circuits.metrics": ("LogOdds", "LogitDifference", "RefusalMetric"),
    "circuits.model": ("Model", "bundled_models", "load"),
    "circuits.prompts": (
        "InstructionSet", "Pair", "PairSet", "TokenPairs", "capability_instructions", "diverse_instructions",
        "filter_subjects", "refusal_subjects", "toy_refusal_pairs",
    ),
    "circuits.refusal": ("is_refusal",),
    "circuits.remote": ("ray_workers",),
    "circuits.report.circuit": ("write_page",),
    "circuits.sae": ("bundled_saes", "load_sae"),
    "circuits.sites": ("Site", "head", "neuron", "parse"),
}  # fmt: skip
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Ablate",
    "Add",
    "Aim",
    "Circuit",
    "CircuitError",
    "Clamp",
    "Dose",
    "Edge",
    "Edits",
    "EndpointJudge",
    "InstructionSet",
    "LogOdds",
    "LogitDifference",
    "Model",
    "Pair",
    "PairSet",
    "Patch",
    "PerplexityJudge",
    "RefusalMetric",
    "Rotate",
    "Scores",
    "Site",
    "SubstringJudge",
    "TokenPairs",
    "ablate_everywhere",
    "attention_on_tokens",
    "attribute_logits",
    "behaviour",
    "bundled_models",
    "bundled_saes",
    "capability_cost",
    "capability_instructions",
    "choose_concept_direction",
    "choose_direction",
    "clamp_component",
    "classify_heads",
    "compare_concepts",
    "compare_pca_directions",
    "compare_planes",
    "compare_prompt_sets",
    "compare_unembedding",
    "completeness",
    "component_graph",
    "components",
    "concept_planes",
    "decompose",
    "decompose_difference",
    "decompose_repair",
    "diverse_instructions",
    "evaluate",
    "evaluate_tasks",
    "exact_edges",
    "exact_nodes",
    "export",
    "feature_inputs",
    "filter_subjects",
    "generate",
    "generate_cells",
    "head",
    "head_writes",
    "interactions",
    "is_refusal",
    "keep",
    "layer_directions",
    "load",
    "load_edits",
    "load_graph",
    "load_sae",
    "locate_edits",
    "logit_lens",
    "mean_activations",
    "minimality",
    "neuron",
    "orthogonalised",
    "ov_circuits",
    "padding_effects",
    "parse",
    "patch_blocks",
    "patch_features",
    "patch_groups",
    "patch_head_sets",
    "patch_heads",
    "patch_paths",
    "patch_residual",
    "patched_behaviour",
    "ray_workers",
    "refusal_subjects",
    "resampled_activations",
    "rotate_sweep",
    "save_edits",
    "screen_edges",
    "screen_nodes",
    "self_repair",
    "separate_classes",
    "sparsity_curve",
    "steer",
    "sweep",
    "token_shifts",
    "top_features",
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
