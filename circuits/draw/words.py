"""Words on a figure: other people's text made harmless, tokens made visible, numbers made short.

Plotly reads a few HTML tags inside labels. Prompts, tokens and completions pass through `plain` or `token`,
after which a tag is shown as the characters it is made of.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from circuits.draw import theme

CHAR = 6.9
"""Mean width of a character at tick size, a little generous."""
_MARKS = {"\n": "⏎", "\r": "⏎", "\t": "⇥", "\u00a0": "·"}


def plain(text: object) -> str:
    """Any text, with what plotly would read as markup shown as characters and control characters dropped."""
    kept = "".join(c for c in str(text).replace("\n", " ") if c.isprintable())
    return kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def wrapped(text: object, width: int) -> str:
    """`plain`, broken into lines of at most `width` characters."""
    return "<br>".join(plain(line) for line in textwrap.wrap(str(text), width) or [""])


def visible(text: object, limit: int = 22) -> str:
    """Token text with its white space made visible (· ⏎ ⇥) and its middle left out where it is long."""
    raw = str(text)
    body = raw.strip(" ")
    lead = "·" * (len(raw) - len(raw.lstrip(" ")))
    tail = "·" * (len(raw) - len(raw.rstrip(" "))) if body else ""
    shown = lead + "".join(_MARKS.get(c, c) for c in body) + tail
    return shown if len(shown) <= limit else f"{shown[: limit - 6]}…{shown[-5:]}"


def token(text: object, *, muted: bool = False, limit: int = 22) -> str:
    """A tick label for a token; `muted` greys it (template tokens)."""
    shown = plain(visible(text, limit))
    return f'<span style="color:{theme.GREY}">{shown}</span>' if muted else shown


def number(value: object) -> str:
    """Four significant digits, whole numbers in full; an undefined number is a dash."""
    if isinstance(value, bool | str | int):
        return plain(value).replace("-", "−") if isinstance(value, int) else plain(value)
    if not hasattr(value, "__float__"):
        return "–"
    x = float(value)  # pyright: ignore[reportArgumentType]
    return "–" if not math.isfinite(x) else f"{x:.4g}".replace("-", "−")


def spread(low: object, high: object) -> str:
    """An interval as it is read: `[0.1, 0.3]`."""
    return f" [{number(low)}, {number(high)}]"


def tilt(labels: Sequence[str], pixels: float) -> tuple[int, float]:
    """Angle and height in pixels of tick labels that have `pixels` of width each."""
    longest = max((len(label) for label in labels), default=1) * CHAR
    if longest + 6 <= pixels:
        return 0, 18
    return (-45, 14 + longest * 0.71) if pixels >= 17 else (-90, 10 + longest)
