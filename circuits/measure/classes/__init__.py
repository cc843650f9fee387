"""Classes of prompts in the residual stream: how far apart they lie, and how much of a concept few components hold."""

from circuits.measure.classes.pca_directions import PcaDirections, compare_pca_directions
from circuits.measure.classes.separation import ClassSeparation, separate_classes

__all__ = ["ClassSeparation", "PcaDirections", "compare_pca_directions", "separate_classes"]
