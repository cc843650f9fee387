"""What can go wrong, in few kinds.

Every error a user can cause is a `CircuitError`: its message says what is wrong, where (which pair, layer or
token), and what to do. The command line prints that message and exits with 2; anything else is our fault.
"""

from __future__ import annotations


def legible(text: str) -> str:
    """Text with its control characters spelled out (line breaks stay): raw, they would steer the terminal that shows it."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


class CircuitError(Exception):
    """A problem in what was asked for, with the remedy in its message; names of files in it are made `legible`."""

    def __str__(self) -> str:
        return legible(super().__str__())


class AlignmentError(CircuitError):
    """Pairs that do not line up token by token; the message shows every one of them."""


class ModelError(CircuitError):
    """A model that is unknown, incomplete, unreachable or without the sites the toolkit needs."""


class TokenError(CircuitError):
    """A string that should be one token of this model and is not; the message shows its pieces."""


class SiteError(CircuitError):
    """A site, layer, head, position or group that this model or these prompts do not have."""


class UndefinedError(CircuitError):
    """A number that does not exist for this input: no difference to recover, a direction of norm zero."""


class OutputError(CircuitError):
    """A place that cannot be written to, or a value that a file format cannot hold."""


class AuditError(CircuitError):
    """A computation that failed its own checks: a hook that never fired, a patch that is not exact."""
