"""Who makes up for what was ablated? The change in the metric as direct effect, norms and every later component.

terms     one ablation's change, term by term          result    frames, shares and the picture
identity  the verb: ablate, take apart, check, null
"""

from __future__ import annotations

from circuits.measure.repair_identity.identity import decompose_repair
from circuits.measure.repair_identity.result import RepairIdentity

__all__ = ["RepairIdentity", "decompose_repair"]
