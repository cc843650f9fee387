"""What a report is made of: plain values, checked before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import pandas as pd
import plotly.graph_objects as go

from circuits import display
from circuits.errors import OutputError

Ruling = Literal["supported", "contradicted", "undecided"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for itself, with any ending."""


@final
@dataclass(frozen=True)
class Verdict:
    """One hypothesis and what the numbers say about it."""

    hypothesis: str
    verdict: Ruling
    numbers: str
    """The two or three numbers it rests on, with intervals."""
    figure: str = ""
    """Id of the section that shows it."""
    rule: str = ""
    """The rule that turned numbers into verdict, in words, fixed before the numbers were seen."""

    def _repr_html_(self) -> str:
        named = (("verdict", self.verdict), ("numbers", self.numbers), ("rule", self.rule))
        return display.card(self.hypothesis, display.facts((name, text) for name, text in named if text))


@final
@dataclass(frozen=True)
class Section:
    """One step of the argument. Its id is its anchor and the stem of its table."""

    id: str
    title: str
    claim: str
    """One sentence on what the figure shows."""
    figures: Mapping[str, go.Figure] = field(default_factory=dict[str, "go.Figure"])
    """File stem -> figure; stems are unique in a report."""
    how_to_read: str = ""
    contradicted_by: str = ""
    """What would have contradicted the claim."""
    published: str = ""
    """What the published write-up found on its own model; a reference, never a result."""
    table: pd.DataFrame | None = None
    notes: Sequence[str] = ()
    files: Sequence[str] = ()
    """Paths of files beside the page that belong to it, as the page links them: `circuit.html`, `data/graph.json`."""


@final
@dataclass(frozen=True)
class Completion:
    """What a model wrote after one prompt in one setting (baseline, intervened, …)."""

    prompt: str
    kind: str
    setting: str
    text: str
    refused: bool
    mark: str = "refused"
    """What `refused` means for this prompt, where it is not harmful: a word for its mark."""


@final
@dataclass(frozen=True)
class Report:
    """Everything a page shows, and how it came to be."""

    title: str
    question: str
    model: str
    model_note: str
    """What must not be misread about the model; stands beside its name."""
    pairs: str
    metric: str
    certificate: str
    """One line of what was checked while computing."""
    verdicts: Sequence[Verdict]
    sections: Sequence[Section]
    verdict_note: str = ""
    """How the verdicts' numbers are to be read."""
    completions: Sequence[Completion] = ()
    manifest: Mapping[str, str] = field(default_factory=dict[str, str])
    steps: pd.DataFrame | None = None
    """One row per measurement: what it took and what it cost."""
    command: str = ""
    """The command that repeats it."""

    def check(self) -> None:
        """Raise OutputError for names that cannot be files, names used twice, and links that lead nowhere or out."""
        sections = [section.id for section in self.sections]
        figures = [name for section in self.sections for name in section.figures]
        for kind, names in (("section", sections), ("figure", figures)):
            for name in names:
                if not _is_file_name(name):
                    raise OutputError(f"{kind} {name[:80]!r} is no file name; use letters, digits, '-' and '_'")
            folded = [name.lower() for name in names]  # some file systems do not tell case apart
            twice = sorted({name for name in folded if folded.count(name) > 1})
            if twice:
                raise OutputError(f"two of the {kind}s share the name {', '.join(twice)}; rename one")
        out = [
            path for section in self.sections for path in section.files if not all(map(_is_file_name, path.split("/")))
        ]
        if out:
            raise OutputError(f"{out[0][:80]!r} is no file beside the page; use letters, digits, '-', '_' and '/'")
        lost = sorted({v.figure for v in self.verdicts if v.figure and v.figure not in sections})
        if lost:
            there = ", ".join(sections)
            raise OutputError(f"verdicts link to no section: {', '.join(lost)}; sections are {there}")


def _is_file_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and _DEVICES.fullmatch(name) is None
