"""The fraction recovered, long frames, and their averages with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from circuits.frames import fraction, long_frame, summary, undefined

BASE = np.array([0.0, 10.0, 5.0, -2.0])
SOURCE = np.array([4.0, 2.0, 5.0, -2.0 + 1e-5])
"""The last two pairs' runs agree, exactly and to rounding."""


def test_the_fraction_is_one_at_the_source_and_zero_at_the_base():
    value = np.stack([BASE, SOURCE, (BASE + SOURCE) / 2, 2 * SOURCE - BASE], 1)
    found = fraction(value, BASE, SOURCE)
    assert np.allclose(found[:2], [[0, 1, 0.5, 2]] * 2)


def test_a_pair_whose_runs_agree_has_none():
    assert undefined(BASE, SOURCE).tolist() == [False, False, True, True]
    found = fraction(np.ones((4, 3, 2)), BASE, SOURCE)
    assert np.isfinite(found[:2]).all()
    assert np.isnan(found[2:]).all()


def test_what_agrees_depends_on_the_size_of_the_metric():
    assert undefined(np.array([1000.0, 0.0]), np.array([1000.05, 0.05])).tolist() == [True, False]
    assert undefined(np.array([np.nan]), np.array([1.0])).tolist() == [True]


def test_rows_stand_in_the_order_of_the_axes():
    values = np.arange(6).reshape(2, 3)
    frame = long_frame({"pair": [7, 8], "layer": [0, 1, 2]}, {"value": values, "same": np.ones((1, 3))})
    assert list(frame.columns) == ["pair", "layer", "value", "same"]
    for row in frame.itertuples():
        assert row.value == values[[7, 8].index(row.pair), row.layer]


def _frame(values: np.ndarray) -> pd.DataFrame:
    pairs, cells = values.shape
    return long_frame({"pair": list(range(pairs)), "layer": list(range(cells))}, {"fraction": values})


def test_means_and_intervals_are_those_of_a_plain_bootstrap():
    rng = np.random.default_rng(1)
    values = rng.normal([1.0, -2.0], [0.5, 3.0], size=(60, 2))
    table = summary(_frame(values), ["layer"], "fraction")
    assert np.allclose(table["mean"], values.mean(0))
    assert table["n"].tolist() == [60, 60]
    for cell in range(2):
        plain = stats.bootstrap((values[:, cell],), np.mean, n_resamples=20_000, method="BCa", random_state=2)
        low, high = plain.confidence_interval
        width = high - low
        # ours is wider by about √(60/59) t/z = 3 %
        assert table["low"][cell] == pytest.approx(low, abs=0.06 * width)
        assert table["high"][cell] == pytest.approx(high, abs=0.06 * width)
        assert table["high"][cell] - table["low"][cell] > 0.98 * width


def test_pairs_are_resampled_whole():
    # two cells that differ by a constant have intervals that do, to the bit of the same draws
    values = np.random.default_rng(0).normal(size=(20, 1))
    table = summary(_frame(np.hstack([values, values + 3])), ["layer"], "fraction")
    assert table["low"][1] - table["low"][0] == pytest.approx(3)
    assert table["high"][1] - table["high"][0] == pytest.approx(3)


def test_undefined_pairs_are_counted_and_left_out():
    values = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan], [5.0, np.nan, np.nan]])
    table = summary(_frame(values), ["layer"], "fraction").set_index("layer")
    assert table["n"].to_dict() == {0: 3, 1: 1}
    assert table["mean"].to_dict() == {0: 3.0, 1: 2.0}
    assert table.loc[1, ["low", "high"]].isna().all()
    assert 1 <= table.loc[0, "low"] < 3 < table.loc[0, "high"] <= 5


def test_several_keys_keep_their_names():
    frame = long_frame(
        {"pair": [0, 1], "kind": ["attn_out", "mlp_out"], "layer": [0, 1]}, {"value": np.arange(8).reshape(2, 2, 2)}
    )
    table = summary(frame, ["kind", "layer"], "value")
    found = {(r.kind, r.layer): r.mean for r in table.itertuples()}
    assert found == {("attn_out", 0): 2, ("attn_out", 1): 3, ("mlp_out", 0): 4, ("mlp_out", 1): 5}


def test_the_order_of_pairs_does_not_decide_the_mean():
    values = np.random.default_rng(0).normal(size=(30, 2))
    table, shuffled = (summary(_frame(v), ["layer"], "fraction") for v in (values, values[::-1]))
    assert np.allclose(table["mean"], shuffled["mean"])
