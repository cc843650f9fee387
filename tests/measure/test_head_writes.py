"""What heads write adds up to attention's output, equals the formula, and a planted head is told from a loud one."""

from __future__ import annotations

import oracle
import oracle_modules
import pytest
import small_models
import torch

from circuits.errors import SiteError, UndefinedError
from circuits.linalg import random_directions
from circuits.measure.head_writes import HeadWrites, head_writes
from circuits.measure.writes import components
from circuits.sites import Site, head
from circuits.tables import provenance

TOKENS = small_models.uneven()
V = 7 * torch.randn(32, generator=torch.Generator().manual_seed(1))
HEADS = [head(1, 2), head(3, 0)]


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_heads_and_bias_sum_to_what_attention_writes(architecture: str):
    model = small_models.model(architecture)
    found = head_writes(model, TOKENS, V, heads=HEADS, null_draws=3)
    whole = components(model, TOKENS, V, null_draws=3).written[:, :, 0].double()
    assert torch.allclose(found.written.sum(-1) + found.bias, whole, atol=2e-5)
    assert found.written.abs().min() > 0
    assert (found.bias.abs().max() > 1e-3) == (architecture in ("gpt2", "gpt_neox"))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "olmo2", "gpt2"])
def test_a_head_is_its_formula(architecture: str):
    raw = small_models.raw(architecture)
    found = head_writes(small_models.model(architecture), TOKENS, V, heads=HEADS, null_draws=3)
    for side, ids in enumerate((TOKENS.clean, TOKENS.corrupt)):
        for i, layer in ((0, 1), (3, 3)):
            _, seen = oracle.run(raw, ids[i][TOKENS.mask[i]], keep=[("z", layer)])
            products = torch.einsum("he,hed->hd", seen["z", layer][-1], oracle_modules.w_o(raw, layer))
            if architecture in ("gemma2", "olmo2"):
                norm = oracle_modules.module(raw, "attn_out", layer)
                gain = norm.weight + (architecture == "gemma2")
                eps = getattr(norm, "eps", None) or norm.variance_epsilon
                products = products * gain * torch.rsqrt(products.sum(0).pow(2).mean() + eps)
            expected = (products @ (V / V.norm())).double()
            assert torch.allclose(found.written[side, i, layer], expected, atol=2e-5)


def test_each_pair_may_have_its_own_direction():
    model = small_models.model("gemma2")
    own = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    together = head_writes(model, TOKENS, own, heads=HEADS, null_draws=3)
    for i in (0, 4):
        alone = head_writes(model, TOKENS, own[i], heads=HEADS, null_draws=3)
        assert torch.allclose(together.written[:, i], alone.written[:, i], atol=1e-6)


def test_the_null_is_the_same_along_random_directions():
    model = small_models.model("llama")
    found = head_writes(model, TOKENS, V, heads=HEADS, null_draws=4, seed=9)
    for n, v in enumerate(random_directions(4, 32, seed=9)):
        along = head_writes(model, TOKENS, v, heads=HEADS, null_draws=3)
        frame = along.to_frame().groupby(["layer", "head"])[["value", "matched"]].mean()
        for name, null in (("value", found.null_value), ("matched", found.null_matched)):
            assert frame[name].tolist() == pytest.approx(null[n].flatten().tolist(), abs=1e-5)
    assert found.to_frame()["matched"].abs().max() <= 1


def _planted(kind: str) -> HeadWrites:
    """Heads L1.H0 and L2.H0 of 6 × 8 write along the direction, or merely write a hundred times as much as others."""
    g = torch.Generator().manual_seed(0)
    d, v = torch.randn(20, 6, 8, 64, generator=g), torch.nn.functional.normalize(torch.randn(64, generator=g), dim=0)
    for layer in (1, 2):
        d[:, layer, 0] = d[:, layer, 0] + 6 * v if kind == "writes" else 100 * d[:1, layer, 0]
    if kind == "loud":
        d[:, 1:3, 0] += 30 * v
    r, size = random_directions(100, 64, seed=1), d.norm(dim=-1)
    along = torch.stack([d @ v, torch.zeros(20, 6, 8)])
    return HeadWrites(
        provenance=provenance(small_models.model("llama"), TOKENS), written=along, bias=torch.zeros(2, 20, 6), length=size,
        null_value=torch.einsum("plhd,nd->nlh", d, r) / 20,
        null_matched=torch.einsum("plhd,nd->nlh", d / size[..., None], r) / 20, chosen=("L1.H0", "L2.H0"), seed=0,
    )  # fmt: skip


def test_a_head_that_writes_the_direction_passes_every_control():
    table = _planted("writes").to_summary()
    assert len(table) == 4
    assert (table["p_holm"] < 0.04).all()  # within two layers of 8 there are but 64 labellings
    assert (table["auroc"] == 1).all()
    assert (table["effect"] > table["random_high"]).all()
    assert (table["p_random"] < 0.02).all()
    assert table[table["measure"] == "value"]["effect"].tolist() == pytest.approx([6, 6], abs=0.5)
    assert table["others"].tolist() == [46, 14, 46, 14]


def test_a_head_that_merely_writes_a_lot_does_not():
    table = _planted("loud").to_summary().set_index(["measure", "against"])
    assert table.loc[("value", "all heads"), "p"] < 0.05, "without the control it would have passed"
    assert table.loc[("value", "all heads"), "p_random"] > 0.05
    assert table.loc[("matched", "all heads"), "p_random"] > 0.05
    assert abs(table.loc[("matched", "all heads"), "effect"]) < 0.15


def test_the_effect_is_the_difference_of_means():
    found = head_writes(small_models.model("gpt2"), TOKENS, V, heads=[head(1, 2), head(1, 0), head(3, 0)], null_draws=5)
    heads, table = found.heads_frame(), found.to_summary().set_index(["measure", "against"])
    means = heads.groupby("chosen")["value"].mean()
    assert table.loc[("value", "all heads"), "effect"] == pytest.approx(means[True] - means[False], abs=1e-6)
    others = heads[~heads["chosen"]].groupby("layer")["matched"].mean()
    mine = heads[heads["chosen"]]
    expected = (mine["matched"] - mine["layer"].map(others)).mean()
    assert table.loc[("matched", "same layers"), "effect"] == pytest.approx(expected, abs=1e-6)


def test_figures():
    model = small_models.model("llama")
    found = head_writes(model, TOKENS, V, heads=HEADS, null_draws=5)
    for figure in (found.figure(), found.matched_figure()):
        assert figure.layout.xaxis.title.text
        assert any(model.name in (a.text or "") for a in figure.layout.annotations)
        assert sum(len(trace.x) for trace in figure.data) == 16


def test_what_cannot_be_asked():
    model = small_models.model("llama")
    with pytest.raises(UndefinedError, match="unit vector"):
        head_writes(model, TOKENS, torch.zeros(32), heads=HEADS)
    for heads in ([], [head(1, 4)], [Site("mlp_out", 1)], [head(layer, h) for layer in range(4) for h in range(4)]):
        with pytest.raises(SiteError, match="some of this model's 4 × 4 heads"):
            head_writes(model, TOKENS, V, heads=heads)
