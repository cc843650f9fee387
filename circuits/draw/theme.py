"""Colours and templates: one place for every colour a figure uses, in a light and a dark version.

The palette is Okabe and Ito's, told apart under every common colour blindness; its yellow comes last because
it is faint on white. A figure carries the light template with an opaque page, so it is readable wherever it
is pasted; a page whose reader prefers dark swaps the template and the colour scale (`page_themes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

Scale = Literal["diverging", "sequential"]
Scheme = Literal["light", "dark"]

VERMILION: Final = "#D55E00"
BLUE: Final = "#0072B2"
GREEN: Final = "#009E73"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
PURPLE: Final = "#CC79A7"
YELLOW: Final = "#F0E442"
GREY: Final = "#858B94"
"""Readable on white and on black alike: template tokens, inactive heads, reference lines."""
INK: Final = "#6B7280"
"""A little darker, for thin strokes over coloured bars."""

PALETTE: Final = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY, YELLOW)
POSITIVE: Final = VERMILION
NEGATIVE: Final = BLUE
"""Signs of effects and edges; no class of component has these two colours."""

CLASS_COLOURS: Final[dict[str, str]] = {
    "direct": PURPLE,
    "diagonal": GREEN,
    "bos": GREY,
    "other": SKY,
    "harmful": VERMILION,
    "clean": VERMILION,
    "harmless": BLUE,
    "corrupt": BLUE,
    "baseline": GREEN,
    "intervened": PURPLE,
    "denoise": SKY,
    "denoising": SKY,
    "noise": ORANGE,
    "noising": ORANGE,
    "attention": SKY,
    "attn": SKY,
    "mlp": ORANGE,
    "embed": GREY,
    "metric": GREY,
    "logits": GREY,
    "random": GREY,
    "control": GREY,
    "null": GREY,
}
"""The same thing has the same colour in every figure; names are compared in lower case."""

FONT: Final = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif"

_STOPS: Final[dict[Scheme, dict[Scale, tuple[str, ...]]]] = {
    "light": {
        "diverging": ("#08306B", "#0072B2", "#8FC1E0", "#F7F7F7", "#F6BC94", "#D55E00", "#6B2A00"),
        "sequential": ("#F7F9FC", "#C5DCEE", "#6AAED6", "#0072B2", "#08306B"),
    },
    "dark": {
        "diverging": ("#B5E0FF", "#56B4E9", "#1C567F", "#20242C", "#87430F", "#EE7D22", "#FFDDB8"),
        "sequential": ("#20242C", "#1C4A6B", "#2E87BE", "#7CC7F2", "#F2FAFF"),
    },
}
_INK: Final[dict[Scheme, dict[str, str]]] = {
    "light": {"paper": "#FFFFFF", "plot": "#FFFFFF", "text": "#1B1F24", "grid": "#E6E8EC", "line": "#A9AFB8"},
    "dark": {"paper": "#15181D", "plot": "#15181D", "text": "#E7EAEE", "grid": "#2B3038", "line": "#5B636E"},
}


def scale(kind: Scale, scheme: Scheme = "light") -> list[list[float | str]]:
    """Colour scale as plotly spells it: pairs of fraction and colour."""
    stops = _STOPS[scheme][kind]
    return [[i / (len(stops) - 1), colour] for i, colour in enumerate(stops)]


def colours(names: Sequence[str]) -> dict[str, str]:
    """Colour of each name: its fixed colour if it has one, else the next of the palette that is free."""
    fixed = {name: CLASS_COLOURS[name.lower()] for name in names if name.lower() in CLASS_COLOURS}
    free = [colour for colour in PALETTE if colour not in fixed.values()] or list(PALETTE)
    rest = [name for name in names if name not in fixed]
    return fixed | {name: free[i % len(free)] for i, name in enumerate(rest)}


def template(scheme: Scheme = "light") -> dict[str, Any]:
    """The plotly template of one scheme, as a plain dict."""
    ink = _INK[scheme]
    axis = {
        "gridcolor": ink["grid"],
        "linecolor": ink["line"],
        "tickcolor": ink["line"],
        "zerolinecolor": ink["line"],
        "zerolinewidth": 1,
        "ticks": "outside",
        "ticklen": 4,
        "showline": True,
        "tickfont": {"size": 12},
        "title": {"font": {"size": 13.5}, "standoff": 8},
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": ink["text"]},
            "title": {"font": {"size": 17}},
            "paper_bgcolor": ink["paper"],
            "plot_bgcolor": ink["plot"],
            "colorway": list(PALETTE),
            "autotypenumbers": "strict",  # a layer named "08" stays a name
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"font": {"size": 12.5}, "bgcolor": "rgba(0,0,0,0)"},
            "hoverlabel": {
                "bgcolor": ink["paper"],
                "bordercolor": ink["line"],
                "font": {"family": FONT, "size": 13, "color": ink["text"]},
                "align": "left",
            },
            "polar": {
                "bgcolor": ink["plot"],
                "angularaxis": {"gridcolor": ink["grid"], "linecolor": ink["line"]},
                "radialaxis": {"gridcolor": ink["grid"], "linecolor": ink["line"]},
            },
        }
    }


def page_themes() -> dict[str, Any]:
    """What a page needs to redraw a figure in the reader's scheme: templates and colour scales by scheme."""
    schemes: tuple[Scheme, ...] = ("light", "dark")
    kinds: tuple[Scale, ...] = ("diverging", "sequential")
    return {s: {"template": template(s), "scales": {k: scale(k, s) for k in kinds}} for s in schemes}
