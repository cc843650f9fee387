"""`circuits doctor`: what is installed, what the machine has, and whether the engine is exact on it.

`check` says what a check is, `packages`, `machine` and `surroundings` look, `exactness` computes; `examination` runs them all.
"""

from circuits.command.doctor.examination import arguments, examine

__all__ = ["arguments", "examine"]
