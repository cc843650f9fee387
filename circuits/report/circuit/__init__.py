"""The circuit's page: one HTML file that shows a component graph, opened from disk, with no server and no network.

    write_page(graph, "circuit.html")                      # what component_graph returned, or load_graph
    write_page(graph, "circuit.html", curve=frame)         # with how faithful the circuit is at each threshold
    show(graph)                                            # the same page, inside a notebook

`contents` reads the graph into plain values and says how sure each number is, `layout` gives every component its place,
`curve` puts a faithfulness curve beside the slider, `page` fills the template, `inline` frames it for a notebook. The scripts
in `script/` run in the reader's browser on cytoscape.js, which lies in `vendor/` with its licence.
"""

from circuits.report.circuit.inline import Shown, show
from circuits.report.circuit.page import circuit_page, write_page

__all__ = ["Shown", "circuit_page", "show", "write_page"]
