"""Along which edges does information flow? Path patching: one receiver alone reads what one sender gives in the other run.

    value[pair, edge] = metric of the base run, the receiver's q, k, v or MLP made of the base run's stream + D
    D = what the sender adds in the source run − what it adds in the base run

Directly, everything else is frozen at the base run up to the receiver; with `through`, the components named there are
recomputed on the way. The norm in front of a receiver has its own new scale; a head goes through the norm after attention
(Gemma 2, OLMo 2) at the base run's scale, and what that norm's scale does apart is the sender `post-norm`. A k or v receiver
belongs to a key-value head and is read by every query head of its group.

How it misleads: effects of single edges do not add up where a norm, an attention pattern or an MLP is not linear in them;
an edge without effect may have a stand-in; under noising a receiver that needs two senders loses both effects at once.
Source: Wang et al., "Interpretability in the Wild"; Goldowsky-Dill et al., "Localizing Model Behavior with Path Patching".

Reading order: `measure` (the verb), `result` (frames and the figure).
"""

from circuits.measure.paths.measure import exact_edges, patch_paths
from circuits.measure.paths.result import Paths

__all__ = ["Paths", "exact_edges", "patch_paths"]
