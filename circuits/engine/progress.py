"""Who wants to know how far a sweep is: a listener for the length of a context.

with listening(lambda share: bar.update(share)):
    patch_residual(...)
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Callable[[float], None]) -> Generator[None]:
    """Call `listener` with the share of its cells that a sweep has finished since the last call (0 to 1)."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def advance(share: float) -> None:
    """Tell the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(share)
