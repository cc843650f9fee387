"""JSON as it is defined: one object, no name twice, and numbers that are numbers; anything else is named."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final, TypeVar

from circuits.errors import CircuitError
from circuits.graph.scalars import shorten

T = TypeVar("T")
_WORDS: Final[dict[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a whole number",
}


def dump(data: Any) -> str:
    """`data` as JSON that ends in a newline; text as it is, not as escapes."""
    return json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def load(text: str) -> dict[str, Any]:
    """The object that `text` holds. Raises CircuitError where it is cut off, no JSON, no object, or names a key twice.

    NaN and the infinities come through as floats: EAP-IG writes NaN for what has no score.
    """
    try:
        data = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise CircuitError("its brackets are nested too deeply; this is no graph") from None
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise CircuitError(f"this is no JSON ({error}); is the file complete?") from None
    return need(data, dict, "the file")


def need(value: Any, kind: type[T], where: str) -> T:
    """`value` where it is of exactly this kind. Raises CircuitError naming `where` and what stands there."""
    if type(value) is not kind:
        raise CircuitError(f"{where} is {shorten(value)}; it must be {_WORDS[kind]}")
    return value


def field(data: dict[str, Any], name: str, kind: type[T], where: str) -> T:
    """`data[name]` of this kind. Raises CircuitError where it is missing or of another kind."""
    if name not in data:
        raise CircuitError(f"{where} has no {shorten(name)}; is the file complete, and of this format?")
    return need(data[name], kind, f"{shorten(name)} of {where}")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`pairs` as an object. Raises CircuitError where a name stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise CircuitError(f"the name {shorten(twice)} stands twice in one object; which value is meant?")
    return found
