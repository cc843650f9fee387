"""The planted circuit as weights: features → queries, keys, values, outputs, neurons, in GPT-2 and in Gemma 2.

1. Every head gets axes of its own for what it matches and copies; under grouped queries, heads of a group share keys and
   values and keep to different axes of them.
2. A head that attends by offset takes cos ω(p − s − offset): from learned positions in GPT-2, from the rotation of its
   fast axes in Gemma 2, whose slow axes serve the content.
3. Heads and neurons without a role get small random weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.organisms.planted import circuit as c
from circuits.organisms.planted.prompts import ANSWER, RAW, VOCABULARY, WRONG
from circuits.organisms.planted.spaces import LEVEL, N_DIRECTIONS, combination

D_HEAD: Final = 16
D_MLP: Final = 32
N_KV_HEADS: Final[dict[c.Kind, int]] = {"gpt2": c.N_HEADS, "gemma2": 3}
ROPE_THETA: Final = 1e8
"""Axes 0 and 1 of a head of 16 turn by 1 and 0.1 radians per position, axes 5 to 7 by less than 10⁻⁴."""
N_POSITIONS: Final = 32
NOISE: Final = 5e-4
"""Size of what idle heads and neurons write, in units of the features."""

_MATCH: Final = (7, 6, 5, 15)
_MATCH_IDLE: Final = (14, 13)
_COPY: Final = tuple(range(12))
_COPY_IDLE: Final = (12, 13, 14, 15)
_BALLAST_UNIT: Final = 0
_IDLE_UNITS: Final = slice(16, 32)
# cos 1·n + cos 0.1·n is 2 at n = 0 and at most 1.786 at any other n up to 40: the score is 24 there and at most −21 elsewhere
_PEAK: Final = 210.0
_OFFSET_SCORE: Final = -2 * _PEAK + 24.0


@final
@dataclass(frozen=True, eq=False)
class Attention:
    """One layer's attention over features, before norms and bases; scores are q·k/√d_head."""

    q: Float[Tensor, "head d_head direction"]
    k: Float[Tensor, "kv_head d_head direction"]
    v: Float[Tensor, "kv_head d_head direction"]
    o: Float[Tensor, "head d_head direction"]


@final
@dataclass(frozen=True, eq=False)
class Mlp:
    """One layer's neurons over features: max(0, gate·x)·(up·x), written by `out`."""

    gate: Float[Tensor, "d_mlp direction"]
    up: Float[Tensor, "d_mlp direction"]
    """Used where MLPs are gated; reads `one`, so that it is 1, except in idle neurons."""
    out: Float[Tensor, "d_mlp direction"]


def attention(kind: c.Kind, layer: int, generator: torch.Generator) -> Attention:
    """What the heads of a layer match and copy."""
    n_kv = N_KV_HEADS[kind]
    group = c.N_HEADS // n_kv
    q, o = (torch.zeros(c.N_HEADS, D_HEAD, N_DIRECTIONS, dtype=torch.float64) for _ in range(2))
    k, v = (torch.zeros(n_kv, D_HEAD, N_DIRECTIONS, dtype=torch.float64) for _ in range(2))
    k[:, _MATCH_IDLE] = _random(generator, n_kv, len(_MATCH_IDLE))
    v[:, _COPY_IDLE] = _random(generator, n_kv, len(_COPY_IDLE))
    planted = {index: head for where, index, head in c.HEADS.values() if where == layer}
    for kv in range(n_kv):
        match, copy = iter(_MATCH), iter(_COPY)
        for index in range(kv * group, (kv + 1) * group):
            head = planted.get(index)
            if head is None:
                q[index, _MATCH_IDLE] = _random(generator, len(_MATCH_IDLE))
                o[index, _COPY_IDLE] = NOISE * _random(generator, len(_COPY_IDLE))
                continue
            matched = list(head.match)
            if head.offset is not None:
                _by_offset(kind, head.offset, q[index], k[kv])
                matched.append(({"one": _OFFSET_SCORE}, {"one": 1.0}))
            for query, key in matched:
                axis = next(match)
                q[index, axis], k[kv, axis] = combination(query), combination(key)
            for read, written in head.copy:
                axis = next(copy)
                v[kv, axis], o[index, axis] = combination(read), combination(written)
    return Attention(q * D_HEAD**0.5, k, v, o)


def _by_offset(kind: c.Kind, offset: int, q: Tensor, k: Tensor) -> None:
    """Score _PEAK·Σ cos ω(p − s − offset), over the fast axes."""
    features = [("cos fast", "sin fast"), ("cos slow", "sin slow")]
    for i, (omega, (cos, sin)) in enumerate(zip(c.FREQUENCIES, features, strict=True)):
        turn = torch.tensor(omega * offset, dtype=torch.float64)
        a, b = _PEAK * float(turn.cos()), _PEAK * float(turn.sin())
        if kind == "gpt2":
            q[2 * i], q[2 * i + 1] = combination({cos: a, sin: b}), combination({sin: a, cos: -b})
            k[2 * i], k[2 * i + 1] = combination({cos: 1.0}), combination({sin: 1.0})
        else:  # the key is the same at every position, and the rotation of both does the rest
            q[i], q[i + D_HEAD // 2] = combination({"one": a}), combination({"one": -b})
            k[i] = combination({"one": 1.0})


def mlp(layer: int, generator: torch.Generator) -> Mlp:
    """The neurons of a layer; the first gives a constant, which is the ballast of the norm after the MLP."""
    gate, up, out = (torch.zeros(D_MLP, N_DIRECTIONS, dtype=torch.float64) for _ in range(3))
    up[:] = combination({"one": 1.0})
    up[_IDLE_UNITS] = up[_IDLE_UNITS] + _random(generator, 16)
    gate[_IDLE_UNITS], out[_IDLE_UNITS] = _random(generator, 16), NOISE * _random(generator, 16)
    for where, units in c.MLPS.values():
        for i, unit in enumerate(units if where == layer else (), start=1):
            gate[i] = c.STEEPNESS * combination(unit.read)
            out[i] = combination(unit.write) / c.STEEPNESS
    gate[_BALLAST_UNIT] = combination({"one": 10.0})  # GELU(10) is 10
    return Mlp(gate, up, out)


def embeddings(generator: torch.Generator) -> Float[Tensor, "d_vocab direction"]:
    """Every word has LEVEL along `one` and differs from all others without a name; subjects say their `raw`."""
    found = 0.3 * _unnamed(torch.randn(len(VOCABULARY), N_DIRECTIONS, generator=generator, dtype=torch.float64))
    found[:, 0] = LEVEL
    for word, value in RAW.items():
        found[VOCABULARY.index(word)] += combination({"raw": value, "subject": 1.0})
    return found


def positions() -> Float[Tensor, "pos direction"]:
    """Learned positions of GPT-2: cosine and sine of both frequencies."""
    p = torch.arange(N_POSITIONS, dtype=torch.float64)
    found = torch.zeros(N_POSITIONS, N_DIRECTIONS, dtype=torch.float64)
    for i, omega in enumerate(c.FREQUENCIES):
        for name, wave in (("cos", torch.cos), ("sin", torch.sin)):
            found[:, c.FEATURES.index(f"{name} {('fast', 'slow')[i]}")] = wave(omega * p)
    return found


def unembedding(generator: torch.Generator) -> Float[Tensor, "d_vocab direction"]:
    """Half the metric for the answer, half against it for the wrong one; other words read what has no name."""
    found = 0.3 * _unnamed(torch.randn(len(VOCABULARY), N_DIRECTIONS, generator=generator, dtype=torch.float64))
    found[VOCABULARY.index(ANSWER)] = 0.5 * combination(c.METRIC)
    found[VOCABULARY.index(WRONG)] = -0.5 * combination(c.METRIC)
    return found


def _random(generator: torch.Generator, *shape: int) -> Float[Tensor, "*batch direction"]:
    """Reads or writes every feature but `one`, by little each."""
    found = torch.randn(*shape, N_DIRECTIONS, generator=generator, dtype=torch.float64) / N_DIRECTIONS**0.5
    found[..., 0] = 0
    return found


def _unnamed(directions: Float[Tensor, "d_vocab direction"]) -> Float[Tensor, "d_vocab direction"]:
    directions[:, : len(c.FEATURES)] = 0
    return directions
