"""The type checker of the tests: beartype, which compiles the check of a signature once instead of at every definition.

jaxtyping checks a call with a stand-in that has the signature of the function and nothing else of it. A function within
another is defined anew at every call of that one, and so would its check be: most of the time that checking takes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, get_args, get_origin

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

CONF = BeartypeConf(is_pep484_tower=True)  # as in all typing, an int may stand where a float is meant
PLAIN = (bool, int, float, str, type(None))
_made: dict[Hashable, Any] = {}


def checked(what: Any) -> Any:
    """A stand-in that refuses arguments of other types; the one already made of the same signature where there is one."""
    try:
        key = _signature(what)
        hash(key)
    except (_UnlikeError, TypeError):
        return beartype(what, conf=CONF)
    if key not in _made:
        _made[key] = beartype(what, conf=CONF)
    return _made[key]


class _UnlikeError(Exception):
    """No other signature is known to be the same."""


def _signature(what: Callable[..., Any]) -> Hashable:
    """Equal for two stand-ins only where every call means the same to both: same code, annotations and defaults."""
    if not hasattr(what, "__code__") or what.__closure__:
        raise _UnlikeError
    given = [*(what.__defaults__ or ()), *(what.__kwdefaults__ or {}).values()]
    if not all(type(value) in PLAIN for value in given):
        raise _UnlikeError
    hints = tuple((name, _meaning(hint)) for name, hint in what.__annotations__.items())
    return what.__module__, what.__qualname__, what.__code__, hints, tuple((type(value), value) for value in given)


def _meaning(hint: Any) -> Hashable:
    """jaxtyping makes a class whenever a shape is written down: by what it says. All else by itself and its parts."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return hint.dtype, hint.array_type, hint.dim_str
    if isinstance(hint, list):  # the parameters of a Callable
        return list, tuple(map(_meaning, hint))
    parts = get_args(hint)
    return (get_origin(hint), *map(_meaning, parts)) if parts else (type(hint), hint)
