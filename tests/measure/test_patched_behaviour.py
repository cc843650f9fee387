"""Completions under patches are those of the engine, each beside its baseline; changes are counted per prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_models
from scipy import stats as scipy_stats

from circuits.engine import generate, sweep
from circuits.errors import SiteError
from circuits.interventions import Cell, Patch
from circuits.measure import patched_behaviour as module
from circuits.measure.patched_behaviour import PatchedBehaviour, patched_behaviour
from circuits.metrics import RefusalMetric
from circuits.sites import Site, head, parse

TOKENS = small_models.uneven()
MODEL = small_models.model("qwen2")
METRIC = RefusalMetric(MODEL, "w60")
CELLS: dict[str, Cell] = {
    "heads": tuple(Patch(head(layer, h), "last") for layer, h in ((1, 0), (2, 3), (2, 1))),
    "early": (Patch(Site("resid_pre", 1), "all"),),
}


def _refuses(text: str) -> bool:
    return "w2" in text


@pytest.fixture(scope="module", params=["noise", "denoise"])
def found(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "is_refusal", _refuses)
        yield patched_behaviour(
            MODEL, TOKENS, METRIC, cells=CELLS, direction=request.param, null_draws=4, max_new_tokens=6
        )


def test_every_row_is_of_its_cell_and_prompt(found: PatchedBehaviour):
    base, other = ("clean", "corrupt") if found.direction == "noise" else ("corrupt", "clean")
    frame = found.to_frame()
    assert len(frame) == (2 + 2 + 4) * 5
    for name, (cell, on) in {"baseline": ((), base), "source": ((), other), **{n: (c, base) for n, c in CELLS.items()}}.items():
        rows = frame[frame["cell"] == name]
        assert rows["completion"].tolist() == generate(MODEL, TOKENS, cell, on=on, max_new_tokens=6)
        assert rows["refused"].tolist() == [_refuses(text) for text in rows["completion"]]
        assert rows["prompt"].tolist() == [getattr(pair, base) for pair in TOKENS.pairs]
    swept = sweep(MODEL, TOKENS, METRIC, list(CELLS.values()), direction=found.direction)
    by_cell = frame.set_index(["cell", "pair"])["metric"]
    assert by_cell["heads"].tolist() == pytest.approx(swept.value[0].tolist(), abs=1e-5)
    assert by_cell["source"].tolist() == pytest.approx(swept.source.tolist(), abs=1e-5)


def test_patching_the_whole_residual_says_what_the_source_says(found: PatchedBehaviour):
    """The first token is the source's; later ones may differ, because keys of layer 0 are the base prompt's."""
    frame = found.to_frame().set_index(["cell", "pair"])["completion"]
    first = [[frame[cell, i].split()[:1] for i in range(5)] for cell in ("early", "source", "baseline")]
    assert first[0] == first[1]
    assert first[1] != first[2]


def test_the_summary_counts_pairs(found: PatchedBehaviour):
    frame, table = found.to_frame(), found.to_summary().set_index("cell")
    assert list(table.index) == ["baseline", "source", *CELLS]
    before = frame[frame["cell"] == "baseline"]["refused"].to_numpy()
    for name in ("source", *CELLS):
        after = frame[frame["cell"] == name]["refused"].to_numpy()
        row = table.loc[name]
        assert row["refusal_rate"] == after.mean()
        assert row["change"] == pytest.approx(after.mean() - before.mean())
        started, stopped = int((after & ~before).sum()), int((before & ~after).sum())
        assert (row["started"], row["stopped"]) == (started, stopped)
        n = started + stopped
        assert row["p"] == pytest.approx(scipy_stats.binomtest(started, n).pvalue if n else 1.0)
        assert row["change_low"] <= row["change"] <= row["change_high"]
        assert (frame[frame["cell"] == name]["changed"].to_numpy() == (before != after)).all()
    assert np.isnan(table.loc["baseline", "change"])
    assert before.any(), "no completion is labelled a refusal: nothing is tested"


def test_the_null_is_as_many_other_heads_of_the_same_layers(found: PatchedBehaviour):
    null = [name for name, of in found.null_of.items() if of == "heads"]
    assert len(null) == 4
    assert set(found.null_of.values()) == {"heads"}, "a residual patch has no random heads to stand for it"
    own = {i.site for i in CELLS["heads"]}
    for name in null:
        drawn = [parse(label) for label in found.cells[name]]
        assert len(set(drawn)) == 3
        assert not set(drawn) & own
        assert {site.layer for site in drawn} <= {1, 2}
        cell = tuple(Patch(site, "last") for site in drawn)
        expected = sweep(MODEL, TOKENS, METRIC, [cell], direction=found.direction).value[0]
        measured = found.metric[list(found.cells).index(name)]
        assert measured.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    table = found.to_summary().set_index("cell")
    rates = found.to_frame().groupby("cell")["refused"].mean()
    changes = rates[null] - rates["baseline"]
    assert table.loc["heads", "null_mean"] == pytest.approx(changes.mean())
    assert table.loc["heads", "null_max"] == pytest.approx(changes.max())
    assert np.isnan(table.loc["early", "p_null"])


def test_its_figure(found: PatchedBehaviour, says: Callable[..., None]):
    says(found.figure(), MODEL.name)


def test_cells_that_mean_nothing():
    with pytest.raises(SiteError, match="no cells"):
        patched_behaviour(MODEL, TOKENS, METRIC, cells={})
    with pytest.raises(SiteError, match="'baseline' is empty"):
        patched_behaviour(MODEL, TOKENS, METRIC, cells={"baseline": CELLS["early"]})
    with pytest.raises(SiteError, match="heads 0 to 3"):
        patched_behaviour(MODEL, TOKENS, METRIC, cells={"x": (Patch(head(1, 9)),)})
