"""What a picture was drawn from, in few numbers: written beside the pictures that README shows, and compared by the tests.

A figure is split in two. Its *text*: structure, words, colours, all digits masked, as a hash. Its *numbers*: those of every
list of every trace, and all others of a trace or of the layout together; each as how many there are, their sum, a sum in
which each has another weight, and the sum of absolute values, which says how large a change is. So a picture drawn on
another machine is the same although its numbers differ in the seventh digit, and one whose cells were swapped is not.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

FILE: Final = "drawn.json"
"""Beside the pictures: name -> `png`, the sha256 of the file, and what `described` says of the figure."""
_DIGITS: Final = re.compile(r"[-−]?\d+(\.\d+)?(e[-+]?\d+)?")
_SAME: Final = 1e-4
"""Of the sum of absolute values: below is rounding."""


def described(figure: go.Figure) -> dict[str, Any]:
    """`text` and `numbers` of a figure."""
    words: list[str] = []
    numbers: dict[str, list[float]] = {}
    for place, value in _leaves(figure.to_plotly_json(), ()):
        if isinstance(value, bool) or not isinstance(value, int | float):
            words.append(f"{place} {_DIGITS.sub('#', str(value))}")
        else:
            numbers.setdefault(_part(place), []).append(float(value))
    text = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    return {"text": text, "numbers": {part: _summed(values) for part, values in numbers.items()}}


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of a figure is not as it was; empty where it is the same picture."""
    found = [] if was["text"] == now["text"] else ["words, colours or structure"]
    for part in sorted({*was["numbers"], *now["numbers"]}):
        old, new = was["numbers"].get(part), now["numbers"].get(part)
        if old is None or new is None or old[0] != new[0]:
            found.append(f"how many numbers {part} has")
        elif any(abs(a - b) > _SAME * max(old[3], new[3]) for a, b in zip(old[1:], new[1:], strict=True)):
            found.append(f"numbers of {part}")
    return found


def _leaves(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every word and number, with the way to it. Lists of numbers come packed."""
    if isinstance(value, Mapping) and "bdata" in value:
        value = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"]).tolist()
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _leaves(value[key], (*place, str(key)))
    elif isinstance(value, list | tuple):
        for i, child in enumerate(value):
            yield from _leaves(child, (*place, str(i) if len(place) < 2 else ""))
    else:
        yield place, value.item() if isinstance(value, np.generic) else value


def _part(place: tuple[str, ...]) -> str:
    """`data.0.z` for what stands in a list of a trace, `data.0` and `layout` for the rest."""
    return ".".join(place[:3] if place[0] == "data" and "" in place else place[:2] if place[0] == "data" else place[:1])


def _summed(values: list[float]) -> list[float]:
    there = [(i, v) for i, v in enumerate(values) if math.isfinite(v)]
    sums = sum(v for _, v in there), sum(v * math.cos(i) for i, v in there), sum(abs(v) for _, v in there)
    return [len(there), *(float(f"{s:.7g}") for s in sums)]
