"""What was measured, as one graph: `component` builds it from frames, `formats` writes it and reads it back."""

from circuits.graph.component import Graph, component_graph
from circuits.graph.formats import export, load_graph

__all__ = ["Graph", "component_graph", "export", "load_graph"]
