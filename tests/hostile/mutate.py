"""Damage to bytes: that of `graph.damage` where it bites, and what only bytes, CSV or a terminal know."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from graph import damage

Change = Callable[[str, random.Random], str | None]

_CHARACTERS: Sequence[Change] = (damage.cut, damage.drop, damage.repeat, damage.replace, damage.insert, damage.swap)
_CHANGES: dict[str, Sequence[Change]] = {
    "text": _CHARACTERS,
    "json": (*_CHARACTERS, damage.value, damage.value, damage.value, damage.value),
    "xml": (*_CHARACTERS, damage.element, damage.element, damage.element, damage.element),
}
_PIECES = [
    b"\x00", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80",
    b"\r", b"\n", b"\r\n", b"\x1a", b'"', b'""', b'","', b",,,", b"clean", b"corrupt", b"label", b"\t", b"\x1b[2J",
    b"\x9b31m", b"=1+1", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\xe2\x80\x8b", b"\x0c", b"\x85", b"9" * 400, b"1e400",
    b"-", b"'", b"\\u0000", b"\\ud800", b"model", b"seed = ", b"= [1, 2]", b'= "a"', b"= true", b"alphas", b"[a.b]",
    b"1979-05-27", b"--config", b"--help", b"[", b"{", b"]", b"}", b"x" * 10_000, b"&#0;", b"<![CDATA[",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>",
]  # fmt: skip
_MOST = 20_000
"""Bytes that are put in at once."""


def mutated(data: bytes, kind: str, rng: random.Random) -> bytes:
    """`data` with one to three changes; most of them leave it almost what it was, so that they reach deep."""
    for _ in range(rng.randint(1, 3)):
        if kind != "bytes" and rng.random() < 0.8:
            text = data.decode("utf-8", "surrogateescape")
            changed = rng.choice(_CHANGES[kind])(text, rng)
            # a surrogate that damage put in is written as other programs write it
            data = data if changed is None else changed.encode("utf-8", "surrogatepass")
        else:
            data = _bytes(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    stop = min(stop, start + rng.choice([0, 0, 1, 1, 2, 8, 64]))
    put = rng.choice([
        rng.choice(_PIECES), rng.choice(_PIECES), rng.choice(_PIECES), bytes([rng.randrange(256)]), b"",
        bytes(b ^ (1 << rng.randrange(8)) for b in data[start:stop]), data[start:stop] * 2,
        rng.choice(_PIECES) * rng.choice([2, 50, 3000]),
    ])  # fmt: skip
    return data[:start] + put[:_MOST] + data[stop:]
