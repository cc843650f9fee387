"""What every measurement returns: frozen fields with named axes, one long frame, one figure, and where it came from.

The frame is the waist of the package: pictures, graph and report read frames, never tensors, so that everything
after a measurement can be redrawn without a model.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits import display
from circuits.errors import OutputError
from circuits.files import write_whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_PACKAGES = ("torch", "transformers", "transformer-lens", "circuit-patching")


def versions(more: tuple[str, ...] = ()) -> dict[str, str]:
    """Installed versions of what a number depends on, and of `more` packages."""
    found: dict[str, str] = {}
    for name in (*_PACKAGES, *more):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a number was computed from; travels with every result and is printed under every figure."""

    model: str
    """The model's title, which says `not Gemma` where that is so."""
    model_hash: str
    dtype: str
    device: str
    pairs: str
    """How many prompts of which set, with a hash of the token ids."""
    metric: str
    clusters: tuple[int, ...] = ()
    """The template of each pair, for intervals over whole templates; empty where no two pairs share one, or all do."""
    certificate: str = ""
    """One line of what was checked while computing: hooks fired, self-patch = 0, patch-all = source, oracle."""
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def caption(self) -> str:
        """One line for under a figure."""
        return " · ".join(part for part in (self.model, self.pairs, self.metric, self.dtype) if part)


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """A measurement: subclasses are final, frozen, and add tensors whose annotations name their axes."""

    provenance: Provenance

    @property
    def clusters(self) -> tuple[int, ...] | None:
        """The template of each pair, drawn and flipped whole; None where every pair counts as a draw of its own."""
        return self.provenance.clusters or None

    @property
    def name(self) -> str:
        """File stem: the class's name in snake case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """One row per pair and cell, axes as columns."""

    @abstractmethod
    def figure(self) -> go.Figure:
        """The picture that shows this result, drawn from `to_frame()`."""

    def _repr_html_(self) -> str:
        """A table with its certificate, without any script: for pages that draw no figure."""
        table: pd.DataFrame = getattr(self, "to_summary", self.to_frame)()
        said = display.lines(self.provenance.caption, self.provenance.certificate)
        return display.card(type(self).__name__, said, display.frame(table))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """The figure, with the certificate under it."""
        del include, exclude
        of = self.provenance
        said = (f"{type(self).__name__}: {of.caption}", of.certificate)
        return display.bundle(
            display.noted(self.figure(), of.certificate), self._repr_html_, "\n".join(filter(None, said))
        )

    def save(self, folder: str | Path, *, name: str | None = None) -> Path:
        """Write `NAME.csv` (the frame), `NAME.safetensors` (the tensors) and `NAME.json` (the rest) to `folder`.

        Raises OutputError where the folder cannot be written, and for a name that is more than a file's stem.
        """
        from safetensors.torch import save
        from torch import Tensor

        named = name or self.name
        if named != Path(named).name or named == ".." or "\0" in named:
            raise OutputError(f"{named[:80]!r} is no name of a file; give the folder as `folder`, and a bare name")
        stem = Path(folder) / named
        tensors: dict[str, Tensor] = {}
        rest: dict[str, Any] = {"result": type(self).__name__, "provenance": asdict(self.provenance)}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                tensors[f.name] = value.detach().cpu().contiguous().clone()
            elif f.name != "provenance" and isinstance(value, str | int | float | bool | tuple | dict | None):
                rest[f.name] = value
        write_whole(stem.with_suffix(".csv"), self.to_frame().to_csv(index=False))
        write_whole(stem.with_suffix(".safetensors"), save(tensors))
        write_whole(stem.with_suffix(".json"), json.dumps(rest, indent=1, default=str))
        return stem.with_suffix(".csv")
