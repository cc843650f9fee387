"""A report with everything in it, some of it hostile."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from circuits import draw
from circuits.report import Completion, Report, Section, Verdict

HOSTILE = '</script><!--<img src=x onerror=alert(1)> & "quoted" \u2028 {{ 7*7 }}'


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture
def table() -> pd.DataFrame:
    frame = pd.DataFrame({"layer": range(80), "effect": np.linspace(-1, 1, 80), "token": [HOSTILE] * 80})
    frame.loc[2, "effect"] = np.nan
    return frame


@pytest.fixture
def report(table: pd.DataFrame) -> Report:
    frame = pd.DataFrame({"layer": [0, 0, 1, 1], "pos": [-2, -1] * 2, "effect": [1.0, 0.0, -1.0, 2.0]})
    heat = draw.heatmap(
        frame,
        x="pos",
        y="layer",
        value="effect",
        title=HOSTILE,
        x_title="position",
        y_title="layer",
        unit="logits",
        x_labels={-2: HOSTILE},
        caption=HOSTILE,
    )
    named = frame.assign(pos=[HOSTILE, "b", "c", "d"])
    bars = draw.bars(named, x="pos", y="effect", title="t", x_title="x", y_title="y")
    return Report(
        title="Refusal " + HOSTILE,
        question="Who computes it?",
        model="refusal-gemma (bundled)",
        model_note="not Gemma",
        pairs="46 pairs",
        metric="logit['I'] − mean",
        certificate="self-patch 0",
        verdicts=[
            Verdict("early " + HOSTILE, "supported", "0.81 [0.7, 0.9]", "second", "interval above 0.5"),
            Verdict("late", "undecided", "0.5"),
        ],
        sections=[
            Section(
                "second",
                "The second comes first",
                "A claim.",
                {"heat": heat},
                "By colour.",
                "White.",
                "25",
                table,
            ),
            Section("first", HOSTILE, HOSTILE, {"bars": bars}, HOSTILE, HOSTILE, HOSTILE, None, [HOSTILE]),
        ],
        completions=[
            Completion(f"{HOSTILE} {i}", kind, setting, HOSTILE * 9 if i else "", kind == "harmful")
            for i in range(6)
            for kind in ("harmful", "harmless")
            for setting in ("baseline", "intervened")
        ],
        manifest={"date": "2026-01-01", "torch": HOSTILE},
        command="python -m circuits.cases.gemma_refusal",
    )
