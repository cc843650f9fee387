"""Layers as the command line names them: one range, or groups of them."""

from __future__ import annotations

import argparse

from circuits.errors import SiteError


def layer_groups(args: argparse.Namespace) -> dict[str, list[int]] | None:
    """The groups asked for, by --groups or --layers-…; None for the default thirds.

    Raises SiteError for text that is no range, a group without layers, or only some of the three.
    """
    if args.groups is not None:
        named = [text.partition("=") for text in args.groups]
        unnamed = [name + eq + span for name, eq, span in named if not (name and eq)]
        if unnamed:
            raise SiteError(f"--groups {unnamed[0]}: write NAME=A:B, e.g. early=0:6")
        return {name: layers_of(f"--groups {name}", text) for name, _, text in named}
    given = {g: getattr(args, f"layers_{g}") for g in ("early", "middle", "late")}
    if all(text is None for text in given.values()):
        return None
    missing = [f"--layers-{g}" for g, text in given.items() if text is None]
    if missing:
        raise SiteError(f"{' and '.join(missing)} not given: name all three groups, or none for thirds")
    return {g: layers_of(f"--layers-{g}", text) for g, text in given.items()}


def layers_of(flag: str, text: str) -> list[int]:
    """`A:B` (A to B−1), `A-B` (A to B), or `A,B,C`."""
    try:
        if ":" in text:
            a, b = (int(part) for part in text.split(":"))
            layers = list(range(a, b))
        elif "-" in text:
            a, b = (int(part) for part in text.split("-"))
            layers = list(range(a, b + 1))
        else:
            layers = [int(part) for part in text.split(",")]
    except ValueError:
        raise SiteError(f"{flag}: {text!r} is no range of layers; write A:B (A to B-1), A-B, or A,B,C") from None
    if not layers:
        raise SiteError(f"{flag}: {text!r} holds no layer; A:B means A to B-1")
    return layers
