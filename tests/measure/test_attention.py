"""Scores of heads are those of each prompt's own pattern, padded or not."""

from __future__ import annotations

from collections.abc import Callable

import oracle
import pytest
import small_models
import torch

from circuits.errors import SiteError
from circuits.measure.attention import classify_heads

TOKENS = small_models.uneven()


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_scores_equal_those_of_unpadded_prompts(architecture: str):
    found = classify_heads(small_models.model(architecture), TOKENS, layers=[1, 3])
    for i in range(TOKENS.n_pairs):
        ids = TOKENS.clean[i][TOKENS.mask[i]]
        subject = int((ids != TOKENS.corrupt[i][TOKENS.mask[i]]).nonzero())
        patterns = oracle.patterns(small_models.raw(architecture), ids)
        for at, layer in enumerate((1, 3)):
            for h in range(4):
                pattern = patterns[layer][h]
                diagonal = sum(float(pattern[q, q - 1]) for q in range(1, len(ids))) / (len(ids) - 1)
                first = sum(float(pattern[q, 0]) for q in range(1, len(ids))) / (len(ids) - 1)
                assert found.direct[i, at, h].item() == pytest.approx(float(pattern[-1, subject]), abs=1e-5)
                assert found.diagonal[i, at, h].item() == pytest.approx(diagonal, abs=1e-5)
                assert found.bos[i, at, h].item() == pytest.approx(first, abs=1e-5)


def test_scores_do_not_depend_on_the_other_prompts():
    model = small_models.model("gemma2")
    together = classify_heads(model, TOKENS)
    for i in range(TOKENS.n_pairs):
        alone = classify_heads(model, TOKENS.select([i]))
        for score in ("direct", "diagonal", "bos"):
            assert torch.allclose(getattr(alone, score)[0], getattr(together, score)[i], atol=1e-5)


def test_the_mean_pattern_is_over_pairs_that_have_the_positions():
    model = small_models.model("llama")
    found = classify_heads(model, TOKENS)
    assert found.pattern.shape == (4, 4, 10, 10)
    longest = oracle.patterns(small_models.raw("llama"), TOKENS.clean[2])
    assert TOKENS.mask[2].all()
    # the first column is there in one pair alone
    assert torch.allclose(found.pattern[:, :, :2, 0], torch.stack(longest)[:, :, :2, 0], atol=1e-5)
    last = [oracle.patterns(small_models.raw("llama"), TOKENS.clean[i][TOKENS.mask[i]])[2][1][-1, -2] for i in range(5)]
    assert found.pattern[2, 1, -1, -2].item() == pytest.approx(float(torch.stack(last).mean()), abs=1e-5)


def test_classes_follow_the_scores(says: Callable[..., None]):
    model = small_models.model("gemma")
    found = classify_heads(model, TOKENS, threshold=0.25)
    table = found.to_summary()
    assert len(table) == 16
    for row in table.itertuples():
        assert row.direct == pytest.approx(found.direct[:, row.layer, row.head].mean().item(), abs=1e-6)
        best = max(row.direct, row.diagonal)
        if best >= 0.25:
            assert row.klass == ("direct" if row.direct >= row.diagonal else "diagonal")
        else:
            assert row.klass == ("BOS" if row.BOS >= 0.5 else "other")
    assert len(set(table["klass"])) > 1
    sets = found.sets()
    assert all(sets.values())
    by_class = {name: {r.label for r in table.itertuples() if r.klass == name} for name in set(table["klass"])}
    assert {h.label for h in sets["direct"]} == by_class["direct"]
    assert {h.label for h in sets["all others"]} == by_class.get("other", set()) | by_class.get("BOS", set())
    says(found.figure(), model.name, axes=False)


def test_a_lower_threshold_finds_no_fewer():
    model = small_models.model("gemma")
    counts = []
    for threshold in (0.6, 0.3, 0.1, 0.0):
        table = classify_heads(model, TOKENS, threshold=threshold).to_summary()
        counts.append(int(table["klass"].isin(["direct", "diagonal"]).sum()))
    assert counts == sorted(counts)
    assert counts[-1] == 16


def test_layers_that_are_not_there():
    with pytest.raises(SiteError, match="layer 7 out of range"):
        classify_heads(small_models.model("gemma"), TOKENS, layers=[0, 7])
