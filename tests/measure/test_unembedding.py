"""The Gram matrix gives what a full SVD of the unembedding gives; planted directions are found where they were planted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_models
import torch
from scipy import stats

from circuits.errors import SiteError, UndefinedError
from circuits.linalg import random_directions
from circuits.measure import unembedding as module
from circuits.measure.unembedding import compare_unembedding
from circuits.model import Model

V = 3 * torch.randn(32, generator=torch.Generator().manual_seed(4))


def _forms(architecture: str) -> list[torch.Tensor]:
    """Rows of W_U as the residual stream meets them, and as stored, by formula."""
    hf = small_models.raw(architecture)
    raw = hf.get_output_embeddings().weight.detach().double()
    inner = hf.base_model
    norm = next(getattr(inner, n) for n in ("norm", "ln_f", "final_layer_norm") if hasattr(inner, n))
    folded = raw * (norm.weight.detach().double() + ("gemma" in architecture))
    if architecture in {"gpt2", "gpt_neox"}:
        folded = folded @ (torch.eye(32).double() - 1 / 32)
    return [folded, raw]


def _with_unembedding(change: Callable[[torch.Tensor], torch.Tensor]) -> Model:
    """A model whose unembedding is another, for what needs no run."""
    model = small_models.model("llama")
    unembed = copy.deepcopy(model.parts.unembed)
    unembed.weight.data = change(unembed.weight.detach().clone())  # type: ignore[union-attr]
    return replace(model, parts=replace(model.parts, unembed=unembed))


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_everything_equals_a_full_svd(architecture: str):
    found = compare_unembedding(small_models.model(architecture), V, null_draws=9, seed=1)
    v = V.double() / V.double().norm()
    random = random_directions(9, 32, seed=1).double()
    for i, rows in enumerate(_forms(architecture)):
        cosine = (rows @ v) / rows.norm(dim=1)
        assert torch.allclose(found.cosine[i].double(), cosine, atol=1e-6, equal_nan=True)
        assert int(cosine.isnan().sum()) == ("gemma" in architecture)  # the row of the padding token, tied and zero
        known = rows[rows.norm(dim=1) > 0]
        largest = ((known / known.norm(dim=1, keepdim=True)) @ random.T).abs().amax(0)
        assert torch.allclose(found.null_cosine[i].double(), largest, atol=1e-6)
        _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
        assert torch.allclose(found.singular_values[i].double(), values.flip(0), atol=2e-6)
        for k in (1, 5, 20, 32):
            subspace = vectors.flip(0)[:k]
            share = (subspace @ v).square().sum()
            assert found.share[i, k - 1].item() == pytest.approx(share.item(), abs=1e-5)


@pytest.mark.parametrize("rows", [1, 7])
def test_chunks_of_the_vocabulary_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch):
    whole = compare_unembedding(small_models.model("gpt2"), V)
    monkeypatch.setattr(module, "_FLOATS_AT_ONCE", 32 * rows)
    taken: list[int] = []
    chunks = module._chunks
    monkeypatch.setattr(module, "_chunks", lambda w: (taken.append(len(c)) or c for c in chunks(w)))
    parts = compare_unembedding(small_models.model("gpt2"), V)
    assert max(taken) == rows
    assert sum(taken) == 84
    for name in ("cosine", "null_cosine", "singular_values", "share"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-6)


def test_a_direction_planted_in_the_null_space_is_found():
    u = V / V.norm()
    model = _with_unembedding(lambda w: w - (w @ u)[:, None] * u)
    table = compare_unembedding(model, V).spectrum_frame().set_index(["form", "k"])
    first = table.loc[("raw", 1)]
    assert first["singular_value"] < 1e-5
    assert table.loc[("raw", 2), "singular_value"] > 0.1
    assert first["share"] == pytest.approx(1, abs=1e-5)
    assert first["p"] < 1e-6
    assert first["gap"] > 0.99
    across = torch.randn(32, generator=torch.Generator().manual_seed(9))
    across = across - (across @ u) * u
    none = compare_unembedding(model, across).spectrum_frame().set_index(["form", "k"])
    assert none.loc[("raw", 1), "share"] < 1e-8
    assert none.loc[("raw", 20), "null_low"] < none.loc[("raw", 20), "share"] < none.loc[("raw", 20), "null_high"]


def test_what_a_layernorm_centres_is_its_null_space():
    found = compare_unembedding(small_models.model("gpt2"), torch.ones(32))
    folded, raw = found.singular_values
    assert folded[0] < 1e-5 * folded[-1]
    assert raw[0] > 1e-2 * raw[-1]
    assert found.share[0, 0].item() == pytest.approx(1, abs=1e-6)
    table = found.spectrum_frame().set_index(["form", "k"])
    assert not table.loc[("folded", 1), "resolved"]
    assert table.loc[("folded", 2), "resolved"]


def test_a_direction_that_is_a_tokens_is_that_tokens():
    model = small_models.model("mistral")
    folded = _forms("mistral")[0]
    found = compare_unembedding(model, folded[17].float(), extremes=3)
    frame = found.to_frame()
    top = frame[(frame["form"] == "folded") & (frame["rank"] == 1)].iloc[0]
    assert (top["id"], top["token"]) == (17, repr(model.tokenizer.convert_ids_to_tokens(17)))
    assert top["cosine"] == pytest.approx(1)
    assert top["p"] == 1 / 201
    ranks = frame.groupby("form")["rank"].apply(tuple).to_dict()
    assert ranks == dict.fromkeys(("folded", "raw"), (1, 2, 3, -3, -2, -1))
    raw = frame[frame["form"] == "raw"].set_index("rank")
    order = found.cosine[1].argsort(descending=True)
    assert raw.loc[[1, 2, 3, -3, -2, -1], "id"].tolist() == [*order[:3].tolist(), *order[-3:].tolist()]
    summary = found.to_summary().set_index("form")
    assert summary.loc["folded", "largest"] == pytest.approx(1)
    assert summary.loc["folded", "null_high"] < 0.9


def test_random_directions_are_as_the_null_says():
    """The exact range of shares is that of sampled directions, and p-values of random directions are uniform."""
    vectors = torch.linalg.svd(_forms("qwen2")[1], full_matrices=False)[2].flip(0)
    sampled = (random_directions(4000, 32, seed=5).double() @ vectors.T).square().cumsum(1).numpy()
    table = compare_unembedding(small_models.model("qwen2"), V).spectrum_frame().query("form == 'raw'").set_index("k")
    for k in (1, 8, 20, 31):
        low, high = np.quantile(sampled[:, k - 1], [0.025, 0.975])
        assert table.loc[k, "null_low"] == pytest.approx(low, abs=0.012)
        assert table.loc[k, "null_high"] == pytest.approx(high, abs=0.012)
        assert table.loc[k, "null_mean"] == pytest.approx(sampled[:, k - 1].mean(), abs=0.01)
    p: list[float] = []
    for v in random_directions(60, 32, seed=6):
        frame = compare_unembedding(small_models.model("qwen2"), v, null_draws=1).spectrum_frame()
        p.append(frame.query("form == 'raw' and k == 8")["p"].item())
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_token_without_a_row_is_undefined_and_counted(says: Callable[..., None], tmp_path: Path):
    def emptied(w: torch.Tensor) -> torch.Tensor:
        w[[3, 8]] = 0
        return w

    found = compare_unembedding(_with_unembedding(emptied), V, extremes=84)
    assert found.cosine.isnan().nonzero().tolist() == [[0, 3], [0, 8], [1, 3], [1, 8]]
    assert found.to_summary()["undefined"].tolist() == [2, 2]
    assert found.null_cosine.isfinite().all()
    frame = found.to_frame()
    assert sorted(frame.loc[frame["form"] == "raw", "id"]) == [i for i in range(84) if i not in {3, 8}]
    says(found.figure(), "llama")
    says(found.spectrum_figure(), "llama")
    says(found.share_figure(), "llama")
    assert found.save(tmp_path).exists()


def test_the_histogram_counts_every_token():
    found = compare_unembedding(small_models.model("llama"), V)
    bars = [trace for trace in found.figure().data if trace.type == "bar"]
    assert [np.nansum(np.array(bar.y, dtype=float)) for bar in bars] == [84, 84]


def test_what_is_no_direction():
    model = small_models.model("llama")
    with pytest.raises(UndefinedError, match="norm 0"):
        compare_unembedding(model, torch.zeros(32))
    with pytest.raises(UndefinedError, match="norm nan"):
        compare_unembedding(model, torch.full((32,), float("nan")))
    with pytest.raises(SiteError, match="32 numbers"):
        compare_unembedding(model, torch.ones(31))
    with pytest.raises(UndefinedError, match="every row"):
        compare_unembedding(_with_unembedding(torch.zeros_like), V)


def test_members_give_the_share_its_jackknife():
    model, members = small_models.model("gemma"), torch.randn(6, 32, generator=torch.Generator().manual_seed(4)) + V
    found = compare_unembedding(model, members.mean(0), members=members)
    assert found.pair_share is not None
    for i in (0, 5):
        rest = compare_unembedding(model, members[torch.arange(6) != i].mean(0))
        assert torch.allclose(found.pair_share[:, i], 6 * found.share - 5 * rest.share, atol=1e-4)
    frame = found.shares_frame()
    row = frame[(frame["pair"] == 5) & (frame["form"] == "raw") & (frame["k"] == 3)]
    assert row["share"].item() == pytest.approx(found.pair_share[1, 5, 2].item())


def test_shares_over_members_need_members_of_which_it_is_the_mean():
    model, members = small_models.model("gemma"), torch.randn(6, 32, generator=torch.Generator().manual_seed(4))
    with pytest.raises(SiteError, match="not the mean of these members"):
        compare_unembedding(model, members[0], members=members)
    alone = compare_unembedding(model, members[0], members=members[:1])
    with pytest.raises(UndefinedError, match="members="):
        alone.shares_frame()
