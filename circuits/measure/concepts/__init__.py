"""Two concepts of one model: the angle between their directions by layer, with its bias and its nulls."""

from circuits.measure.concepts.angles import ConceptAngles, compare_concepts

__all__ = ["ConceptAngles", "compare_concepts"]
