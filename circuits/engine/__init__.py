"""The engine runs any list of interventions exactly, as cheaply as causality allows.

Reading order: capture (one run, kept), edits (what an intervention does to an activation), readout (metric at the last
position), replay (resume that run at a layer and position), sweep (a list of cells), audit (the certificate of a
sweep, against the slow oracle), generate (completions under interventions).
"""

from __future__ import annotations

from circuits.engine.audit import Certificate
from circuits.engine.baseline import baseline
from circuits.engine.capture import Run, capture
from circuits.engine.generate import generate
from circuits.engine.sweep import Swept, sweep

__all__ = ["Certificate", "Run", "Swept", "baseline", "capture", "generate", "sweep"]
