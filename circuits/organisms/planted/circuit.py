"""The planted circuit, said in features of the residual stream: what each component looks for, reads and writes.

A subject's strength x is made at its own position, goes two ways to the last one, and raises one logit against another:

    enricher (MLP)   raw → x, at the subject
    previous-token   x of the token before → `before`, together with a mark
    mover            `before` of the marked position → `moved`, which the unembedding reads
    negative         −`moved` of its own position
    backup           x of the subject, while `moved` is below a threshold
    AND, OR          two heads each bring x of the subject; the last MLP (gates) combines them
    direct           two heads bring x of the subject to the unembedding, and nothing else
    decoy            x of the subject into a feature that nothing reads

A head's score is a sum of products of what its query and key read; what it copies is read at the key's position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

Kind = Literal["gpt2", "gemma2"]
KINDS: Final[tuple[Kind, Kind]] = ("gpt2", "gemma2")
Reading = Mapping[str, float]
"""Feature -> coefficient. `one` is 1 everywhere."""

N_LAYERS: Final = 4
N_HEADS: Final = 6

POSITIONAL: Final = ("cos fast", "sin fast", "cos slow", "sin slow")
FEATURES: Final = (
    "one", *POSITIONAL, "raw", "subject", "strength", "before", "mark", "moved", "and first", "and second", "or first",
    "or second", "decoy", "out",
)  # fmt: skip

FREQUENCIES: Final = (1.0, 0.1)
"""Radians per position; a head that attends by offset takes cos of both. Nothing else comes near up to 40 positions."""

SCORE: Final = 40.0
"""Of the position looked for, where all others have 0 (before a soft cap): attention elsewhere is below 1e-13."""
STEEPNESS: Final = 200.0
"""GELU(STEEPNESS·u)/STEEPNESS is max(0, u) where |u| ≥ 0.03, to 1e-7."""

MOVED: Final = 2.0
NEGATIVE: Final = 0.5
BACKUP: Final = 1.0
DIRECT: Final = (0.5, 0.75)
AND: Final = 2.5
OR: Final = 1.5
"""Gains, in logits per unit of what is read."""
BACKUP_BELOW: Final = 0.3
AND_ABOVE: Final = 1.4
OR_SLOPE: Final = 1.5
OR_FROM: Final = 0.3


@final
@dataclass(frozen=True)
class Head:
    """What a head looks for (`match`: products of a query's and a key's reading) and what it copies from there."""

    copy: tuple[tuple[Reading, Reading], ...]
    """(read at the key's position, written at the query's)"""
    match: tuple[tuple[Reading, Reading], ...] = ()
    offset: int | None = None
    """Attend this many positions back instead."""


@final
@dataclass(frozen=True)
class Unit:
    """A neuron: max(0, read), written."""

    read: Reading
    write: Reading


def _of_subject(into: str, gain: float = 1.0) -> Head:
    return Head(match=(({"one": SCORE}, {"subject": 1.0}),), copy=(({"strength": 1.0}, {into: gain}),))


_UNLESS_MOVED: Final = 150.0
HEADS: Final[Mapping[str, tuple[int, int, Head]]] = {
    "previous token": (1, 0, Head(offset=1, copy=(({"strength": 1.0}, {"before": 1.0}), ({"subject": 1.0}, {"mark": 1.0})))),
    "and first": (1, 1, _of_subject("and first")),
    "or first": (1, 2, _of_subject("or first")),
    "direct first": (1, 3, _of_subject("out", DIRECT[0])),
    "mover": (2, 0, Head(match=(({"one": SCORE}, {"mark": 1.0}),), copy=(({"before": 1.0}, {"moved": 1.0}),))),
    "and second": (2, 1, _of_subject("and second")),
    "or second": (2, 2, _of_subject("or second")),
    "direct second": (2, 3, _of_subject("out", DIRECT[1])),
    "decoy": (2, 4, _of_subject("decoy")),
    "negative": (3, 0, Head(offset=0, copy=(({"moved": 1.0}, {"out": -NEGATIVE}),))),
    "backup": (3, 1, Head(
        match=(({"one": _UNLESS_MOVED * BACKUP_BELOW, "moved": -_UNLESS_MOVED}, {"subject": 1.0}),),
        copy=(({"strength": 1.0}, {"out": BACKUP}),),
    )),
}  # fmt: skip
"""Role -> layer, head, and what it does."""

_OR: Final = {"or first": OR_SLOPE, "or second": OR_SLOPE}
MLPS: Final[Mapping[str, tuple[int, tuple[Unit, ...]]]] = {
    "enricher": (0, (Unit({"raw": 1.0}, {"strength": 1.0}),)),
    "gates": (3, (
        Unit({"and first": 1.0, "and second": 1.0, "one": -AND_ABOVE}, {"out": AND}),
        Unit({**_OR, "one": -OR_FROM}, {"out": OR}),
        Unit({**_OR, "one": -OR_FROM - 1}, {"out": -OR}),
    )),
}  # fmt: skip
"""Role -> layer and neurons."""

METRIC: Final[Reading] = {"out": 1.0, "moved": MOVED}
"""What the unembedding reads: half of it for the answer, half against it for the wrong one."""
SOFTCAP: Final[Mapping[Kind, float | None]] = {"gpt2": None, "gemma2": 30.0}
NAMES: Final[Mapping[str, str]] = {
    **{role: f"L{layer}.H{index}" for role, (layer, index, _) in HEADS.items()},
    **{role: f"L{layer}.MLP" for role, (layer, _) in MLPS.items()},
}
"""Role -> the component's label."""
