"""What was measured, as one graph: `component` builds it from frames, `formats` writes it and reads it back.

Reading order: scalars, attributes, names, receivers · assemble · component · formats.
"""

from circuits.graph.assemble import Graph
from circuits.graph.component import component_graph
from circuits.graph.formats import export, load_graph

__all__ = ["Graph", "component_graph", "export", "load_graph"]
