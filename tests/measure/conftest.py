"""What every figure of a measurement has to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def says() -> Callable[..., None]:
    """Checks that a figure draws something, names its model in a caption and, where it has axes, their titles."""

    def check(figure: Any, model: str, *, axes: bool = True) -> None:
        assert figure.data
        assert any(len(v) for trace in figure.data for v in (trace.y, getattr(trace, "z", None)) if v is not None)
        texts = [a.text for a in figure.layout.annotations if a.text]
        texts += [figure.layout.title.text or "", getattr(figure.layout.title.subtitle, "text", "") or ""]
        assert any(model in text for text in texts), texts
        if axes:
            titles = [
                getattr(figure.layout[a].title, "text", None) for a in figure.layout if a.startswith(("xaxis", "yaxis"))
            ]
            said = {t for t in [*titles, *texts] if t}
            assert len({t for t in titles if t}) >= 2, said

    return check
