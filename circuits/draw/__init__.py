"""The chart vocabulary: frames in, plotly figures out, never a tensor.

    heatmap         one number per cell: layer × position, layer × head, layer × layer
    lines, bars     numbers with intervals, along an axis or by group
    waterfall       a sum, term by term
    distribution    every prompt as a point
    attention_grid  many heads' patterns, small, on the same tokens
    network         a circuit, left to right
    polar, scatter  a sweep around a circle; prompts in a plane
    scatter_grid    prompts in a plane of every layer, small

Every figure names its axes with units and carries a caption that says which model its numbers came from.
"""

from circuits.draw.attention import attention_grid
from circuits.draw.bar import bars
from circuits.draw.circuit import network
from circuits.draw.heat import heatmap
from circuits.draw.line import lines
from circuits.draw.points import distribution, scatter
from circuits.draw.rotation import polar
from circuits.draw.scatter_grid import scatter_grid
from circuits.draw.theme import CLASS_COLOURS, PALETTE
from circuits.draw.waterfall import waterfall

__all__ = [
    "CLASS_COLOURS",
    "PALETTE",
    "attention_grid",
    "bars",
    "distribution",
    "heatmap",
    "lines",
    "network",
    "polar",
    "scatter",
    "scatter_grid",
    "waterfall",
]
