"""The fraction recovered, long frames, and their averages with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from circuits.errors import UndefinedError
from circuits.frames import cells, fraction, long_frame, said_of_dots, summary, sweep_summary, undefined
from circuits.stats import cluster_bootstrap_means, max_t, max_t_test

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


def test_cells_are_the_frame_as_pairs_by_cells():
    values = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan], [5.0, 7.0, np.nan]])
    named, matrix, pairs = cells(_frame(values).sample(frac=1, random_state=0), ["layer"], "fraction")
    assert named["layer"].tolist() == [0, 1]
    assert pairs == [0, 1, 2]
    np.testing.assert_array_equal(matrix, values[:, :2])


def test_only_combinations_that_are_there_are_built():
    # a label per layer and head would otherwise make layers × heads × labels columns
    frame = long_frame({"pair": [0, 1], "layer": [0, 1], "head": [0, 1]}, {"fraction": np.ones((2, 2, 2))})
    frame = frame.assign(label=[f"L{r.layer}.H{r.head}" for r in frame.itertuples()])
    named, matrix, _ = cells(frame, ["layer", "head", "label"], "fraction")
    assert named["label"].tolist() == ["L0.H0", "L0.H1", "L1.H0", "L1.H1"]
    assert matrix.shape == (2, 4)


def test_a_summary_over_clusters_draws_clusters():
    values, of = np.random.default_rng(2).normal(size=(12, 2)), [0, 0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 7]
    values[4, 1] = np.nan
    table = summary(_frame(values), ["layer"], "fraction", clusters=of)
    whole = cluster_bootstrap_means(values[:, :1], of)[0]
    kept = np.isfinite(values[:, 1])
    gaps = cluster_bootstrap_means(values[kept, 1:], np.array(of)[kept])[0]
    assert table["low"].tolist() == pytest.approx([whole.low, gaps.low])
    assert table["mean"].tolist() == pytest.approx([whole.estimate, gaps.estimate])
    with pytest.raises(UndefinedError, match="2 clusters named for 12 pairs"):
        summary(_frame(values), ["layer"], "fraction", clusters=[0, 1])


def test_p_of_a_sweep_counts_all_its_cells():
    rng = np.random.default_rng(3)
    values = rng.normal([0.0, 0.5, 1.5, 0.0], 1, size=(20, 4))
    values[:, 3] = 0.0
    table = sweep_summary(_frame(values), ["layer"])
    assert table["p"].tolist() == pytest.approx(max_t(values))
    assert table["survives"].tolist() == (table["p"] <= 0.05).tolist()
    assert table["survives"][2]
    assert table["note"].tolist() == ["", "", "", "zero in every pair"]
    assert table["p"][3] == 1.0
    assert table["mean"].tolist() == pytest.approx(values.mean(0))
    assert f"all 4 cells (max-T, signs of whole pairs flipped): {int(table['survives'].sum())}" in said_of_dots(table)


def test_undefined_pairs_are_missing_in_the_test_too():
    values = np.random.default_rng(4).normal(0.8, 1, size=(10, 3))
    values[2] = np.nan  # a pair whose runs agree
    values[7:, 1] = np.nan  # prompts too short for the position
    table = sweep_summary(_frame(values), ["layer"])
    defined = np.delete(values, 2, axis=0)
    found = max_t_test(defined, present=np.isfinite(defined))
    assert table["n"].tolist() == [cell.n for cell in found] == [9, 6, 9]
    assert table["p"].tolist() == pytest.approx([cell.p for cell in found], abs=0.01)
    assert table["least_p"].tolist() == [2.0**-8, 2.0**-5, 2.0**-8]


def test_few_pairs_have_no_p_and_say_why():
    table = sweep_summary(_frame(np.random.default_rng(5).normal(3, 0.1, size=(4, 3))), ["layer"])
    assert table["p"].isna().all()
    assert not table["survives"].any()
    assert set(table["least_p"]) == {0.125}
    assert set(table["note"]) == {"cannot reach significance with 4 pairs: p ≥ 0.125"}
    assert said_of_dots(table) == "no dots: 4 pairs cannot reach p ≤ 0.05 (least 0.125)"


def test_rounding_is_not_an_effect():
    values = np.full((12, 2), 0.1)
    values[:, 1] = 3e-7  # of one sign in every pair
    table = sweep_summary(_frame(values), ["layer"])
    assert table["survives"].tolist() == [True, False]
    assert table["note"][1] == "zero in every pair"


def test_clusters_cost_pairs():
    values, of = np.full((12, 1), 0.1), [i // 3 for i in range(12)]
    assert sweep_summary(_frame(values), ["layer"])["p"][0] == 2.0**-11
    clustered = sweep_summary(_frame(values), ["layer"], clusters=of)
    assert clustered["note"][0] == "cannot reach significance with 4 clusters: p ≥ 0.125"
    assert said_of_dots(clustered, of) == "no dots: 4 templates cannot reach p ≤ 0.05 (least 0.125)"
    two = [i // 2 for i in range(12)]
    six = sweep_summary(_frame(values), ["layer"], clusters=two)
    assert said_of_dots(six, two) == "● p ≤ 0.05 over all 1 cells (max-T, signs of whole templates flipped): 1"
