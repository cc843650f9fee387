"""Features of a sparse autoencoder: of a direction, of a class difference, of prompts, and as nodes that are patched.

    decompose(model, sae, direction)                    which few features make up a direction, against random ones
    decompose_difference(model, sae, prompts)           which carry harmful − harmless, against shuffled labels
    top_features(model, sae, prompts)                   what features fire on, with the token marked
    patch_features(model, tokens, metric, sae)          each feature patched exactly, the error kept
    feature_inputs(model, tokens, sae, features)        which heads and MLPs make features fire

The last two have `graph_rows()`: features as nodes beside heads and MLPs (`circuits.graph.component_graph`).

Reading order: `pursuit`, `decomposition`, `contrast`, `top`, `patching` and its result `patched`, `inputs`.
"""

from circuits.measure.features.contrast import ClassFeatures, decompose_difference
from circuits.measure.features.decomposition import Decomposition, decompose
from circuits.measure.features.inputs import FeatureInputs, feature_inputs
from circuits.measure.features.patched import FeaturePatching
from circuits.measure.features.patching import patch_features
from circuits.measure.features.top import TopFeatures, top_features

__all__ = [
    "ClassFeatures", "Decomposition", "FeatureInputs", "FeaturePatching", "TopFeatures", "decompose",
    "decompose_difference", "feature_inputs", "patch_features", "top_features",
]  # fmt: skip
