"""Models: found by name, loaded with Hugging Face numerics, proved on load, opened for hooks.

Reading order: resolve (name -> folder or hub id), parts (where each site lives), hooks (reading and overwriting),
model (the handle), checks (what is proved), assemble (a handle of a module tree), edit_file and orthogonal (stored edits
in the weights), load (all of it together).
"""

from __future__ import annotations

from circuits.model.load import load
from circuits.model.model import Model, Shape
from circuits.model.resolve import bundled_models

__all__ = ["Model", "Shape", "bundled_models", "load"]
