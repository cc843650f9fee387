"""What does the model do under an edit, as the edit grows? The metric and the completions over layers and coefficients.

`dose` makes the edits, `measure` runs them all, `result` holds what came of it. Nothing here knows what is steered:
a dose is a name, a cell, and where it stands in the sweep.
"""

from circuits.measure.steering.dose import Dose, ablations, additions, coefficients, random_ablations
from circuits.measure.steering.measure import steer
from circuits.measure.steering.result import Steering

__all__ = ["Dose", "Steering", "ablations", "additions", "coefficients", "random_ablations", "steer"]
