"""A histogram has a bar per filled bin, names what is expected by chance, and takes no markup from labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from circuits.draw.histogram import histogram
from circuits.errors import CircuitError

TABLE = pd.DataFrame({
    "left": [0.0, 1.0, 2.0] * 2, "right": [1.0, 2.0, 3.0] * 2, "n": [5, 0, 1, 7, 2, 0], "chance": [4.0, 0.05, 2.0] * 2,
    "form": ["<b>raw</b>"] * 3 + ["folded"] * 3,
})  # fmt: skip
NAMES = {"left": "left", "right": "right", "count": "n", "title": "counts", "x_title": "cosine", "y_title": "tokens"}


def test_bars_chance_and_marks():
    marks = {"folded": {"edge <i>": 2.5, "": 0.5}}
    figure = histogram(TABLE, **NAMES, expected="chance", facet="form", marks=marks, caption="of a model")
    bars = [t for t in figure.data if t.type == "bar"]
    assert [list(np.nan_to_num(np.array(bar.y, dtype=float))) for bar in bars] == [[5, 0, 1], [7, 2, 0]]
    assert [list(bar.x) for bar in bars] == [[0.5, 1.5, 2.5]] * 2
    assert list(bars[0].width) == [1, 1, 1]
    lines = [t for t in figure.data if t.type == "scatter"]
    assert np.isnan(lines[0].y[1]), "where nothing is expected there is no line"
    texts = [a.text for a in figure.layout.annotations]
    assert "&lt;b&gt;raw&lt;/b&gt;" in texts
    assert "edge &lt;i&gt;" in texts
    assert len(texts) == 4, "the panels, one named mark, the caption"
    assert [shape.x0 for shape in figure.layout.shapes] == [2.5, 0.5]
    assert figure.layout.yaxis.type == "log"


def test_a_missing_column_is_named():
    with pytest.raises(CircuitError, match="no column many"):
        histogram(TABLE, **NAMES | {"count": "many"})
