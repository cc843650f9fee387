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
def listening(listener: Callable[[float], None]) -> Generator[Callable[[float], None]]:
    """Call `listener` with the share of its cells that a sweep has finished since the last call (0 to 1).

    Gives whoever listened before, to pass on what it should know.
    """
    before = _listener.get()
    token = _listener.set(listener)
    try:
        yield before or _nobody
    finally:
        _listener.reset(token)


@contextmanager
def part_of_it(share: float) -> Generator[None]:
    """Whatever is finished within the context counts as `share` of the whole."""
    before = _listener.get() or _nobody
    with listening(lambda done: before(done * share)):
        yield


def advance(share: float) -> None:
    """Tell the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(share)


def _nobody(share: float) -> None:
    del share
