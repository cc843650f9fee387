"""The attributes that have one meaning wherever they stand, and the type each must have.

Anything else is free: a column of a frame becomes an attribute of its name (`noise_last`, `writes`, `dla_refusal`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from circuits.errors import CircuitError
from circuits.graph.scalars import Scalar, shorten

Owner = Literal["graph", "node", "edge"]

_NUMBER: Final = (float, int)
_TYPES: Final[dict[Owner, dict[str, tuple[type, ...]]]] = {
    "graph": {
        "model": (str,), "model_hash": (str,), "metric": (str,), "n_layers": (int,), "n_heads": (int,),
        "n_kv_heads": (int,), "d_model": (int,), "parallel_attn_mlp": (bool,),
    },
    "node": {
        "kind": (str,), "layer": (int,), "head": (int,), "feature": (int,), "klass": (str,), "position": (str,),
        "site": (str,), "label": (str,), "effect": _NUMBER, "low": _NUMBER, "high": _NUMBER, "p": _NUMBER,
        "in_circuit": (bool,),
    },
    "edge": {
        "kind": (str,), "effect": _NUMBER, "low": _NUMBER, "high": _NUMBER, "p": _NUMBER, "kv_head": (int,),
        "in_circuit": (bool,),
    },
}  # fmt: skip
"""`klass`: what the head was found to be; `label`: a name to show beside the id; `site`: where a feature or a residual
node reads (resid_pre, attn_out, …); `effect`, `low`, `high`, `p`: measured influence, its interval, its p-value;
`kv_head`: the key–value head whose shared input was edited; `in_circuit`: whether the circuit that was chosen has it."""
_COUNTS: Final = frozenset(("layer", "head", "feature", "kv_head", "n_layers", "n_heads", "n_kv_heads", "d_model"))


def check(owner: Owner, values: Mapping[str, Scalar], where: str) -> None:
    """Raise CircuitError where an attribute with a known meaning has another type, or a number outside its range."""
    for name, types in _TYPES[owner].items():
        if name in values and type(values[name]) not in types:
            said, wanted = shorten(values[name]), " or ".join(kind.__name__ for kind in types)
            raise CircuitError(f"{where}: {name} is {said}; it must be {wanted}")
    for name in sorted(_COUNTS & values.keys() & _TYPES[owner].keys()):
        if int(values[name]) < (name in {"n_layers", "n_heads", "n_kv_heads", "d_model"}):
            raise CircuitError(f"{where}: {name} is {values[name]}; it counts, so it cannot be that small")
    if owner == "graph":
        return
    if not 0 <= float(values.get("p", 0)) <= 1:
        raise CircuitError(f"{where}: p is {values['p']}; a p-value lies between 0 and 1")
    if {"low", "high"} <= values.keys() and float(values["low"]) > float(values["high"]):
        raise CircuitError(f"{where}: low {values['low']} lies above high {values['high']}; were they swapped?")
