"""Attention drawn on text: the untouched checkpoint's own weights, every token in one role, masses that sum to one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import small_models
import torch

from circuits.errors import AuditError, SiteError
from circuits.measure import attention_text as module
from circuits.measure.attention_text import attention_on_tokens
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.sites import Site, head

PROMPTS = InstructionSet(
    (
        Instruction("w1 w2 w3 w4", "harmful"), Instruction("w5 w6", "harmless"), Instruction("w7 w8 w9 w10 w11", "harmful"),
        Instruction("w12 w1 w30", "incapable"), Instruction("w31 w32 w33 w34 w35 w36", "harmless"),
    ),
    "made up",
).tokenize(small_models.model("gemma2"))  # fmt: skip
HEADS = [head(1, 2), head(3, 0), head(0, 3)]


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2", "qwen3"])
@pytest.mark.parametrize("query", [-1, -2])
def test_weights_are_those_of_hugging_face_one_prompt_at_a_time(architecture: str, query: int):
    model, raw = small_models.model(architecture), small_models.raw(architecture)
    found = attention_on_tokens(model, PROMPTS, HEADS, query=query)
    for i, (row, real) in enumerate(zip(PROMPTS.ids, PROMPTS.mask, strict=True)):
        with torch.no_grad():
            theirs = raw(input_ids=row[real][None], output_attentions=True).attentions
        n = int(real.sum())
        for h, site in enumerate(HEADS):
            assert torch.allclose(found.weights[i, h, -n:], theirs[site.layer][0, site.index, query], atol=1e-5)
        assert found.weights[i, :, :-n].abs().max() == 0 if n < row.shape[0] else True
    frame = found.to_frame()
    assert frame.groupby(["prompt", "head"])["weight"].sum().to_numpy() == pytest.approx(np.ones(15), abs=1e-5)
    assert frame["pos"].max() == query


def test_every_token_has_one_role():
    frame = attention_on_tokens(small_models.model("gemma2"), PROMPTS, HEADS[:1]).to_frame()
    one = frame[frame["prompt"] == 2]
    assert one["token"].tolist() == ["<bos>", "w7", "w8", "w9", "w10", "w11"]
    assert one["role"].tolist() == ["bos", *["instruction"] * 4, "query"]
    earlier = attention_on_tokens(small_models.model("gemma2"), PROMPTS, HEADS[:1], query=-3).to_frame()
    assert earlier[earlier["prompt"] == 2]["token"].tolist() == ["<bos>", "w7", "w8", "w9"]
    assert earlier[earlier["prompt"] == 1]["role"].tolist() == ["query"]  # of three tokens, the first


def test_masses_sum_to_one_and_even_is_the_share_of_tokens(says: Callable[..., None]):
    model = small_models.model("gemma2")
    found = attention_on_tokens(model, PROMPTS, HEADS)
    mass = found.mass_frame()
    assert mass.groupby(["prompt", "head"])[["mass", "even"]].sum().to_numpy() == pytest.approx(
        np.ones((15, 2)), abs=1e-5
    )
    frame = found.to_frame()
    row = mass[(mass["prompt"] == 4) & (mass["head"] == "L3.H0") & (mass["role"] == "instruction")].iloc[0]
    own = frame[(frame["prompt"] == 4) & (frame["head"] == "L3.H0")]
    assert row["mass"] == pytest.approx(own[own["role"] == "instruction"]["weight"].sum())
    assert row["even"] == pytest.approx(5 / 7)
    table = found.to_summary().set_index(["head", "label", "role"])
    harmful = mass[(mass["label"] == "harmful") & (mass["head"] == "L1.H2") & (mass["role"] == "bos")]["mass"]
    assert table.loc[("L1.H2", "harmful", "bos"), "mean"] == pytest.approx(harmful.mean())
    assert table.loc[("L1.H2", "harmful", "bos"), "n"] == 2
    assert np.isnan(table.loc[("L1.H2", "incapable", "bos"), "low"])  # one prompt has no interval
    says(found.mass_figure(), model.name)


def test_the_figure_writes_every_token_in_its_cell(says: Callable[..., None]):
    model = small_models.model("gemma2")
    found = attention_on_tokens(model, PROMPTS, HEADS)
    figure = found.figure(prompts=[0, 4], heads=["L3.H0"])
    says(figure, model.name)
    (cells,) = figure.data
    text = [[str(t).split(">")[-2].split("<")[0] if "span" in str(t) else str(t) for t in line] for line in cells.text]
    assert text[1][1:7] == ["w31", "w32", "w33", "w34", "w35", "w36"]
    assert text[0][5:] == [""] * 7  # a shorter prompt ends
    assert np.nanmax(np.abs(np.array(cells.z[1][:7]) - found.weights[4, 1].numpy())) < 1e-7
    assert "2 more heads are not drawn" in " ".join(a.text for a in figure.layout.annotations).replace("<br>", " ")
    assert len(found.figure().data) == 3


def test_long_prompts_go_on_in_the_next_line():
    long = InstructionSet((Instruction(" ".join(f"w{i}" for i in range(20)), "harmful"),), "long")
    found = attention_on_tokens(small_models.model("gpt2"), long.tokenize(small_models.model("gpt2")), [head(0, 0)])
    (cells,) = found.figure().data
    assert np.isfinite(cells.z).sum(axis=1).tolist() == [12, 9]
    assert np.nansum(cells.z) == pytest.approx(1)


def test_what_cannot_be_asked():
    model = small_models.model("gemma2")
    for heads, said in (([], "give heads"), ([Site("mlp_out", 1)], "give heads"), ([head(1, 9)], "heads 0 to 3"),
                        ([head(7, 0)], "out of range")):  # fmt: skip
        with pytest.raises(SiteError, match=said):
            attention_on_tokens(model, PROMPTS, heads)
    for query in (0, 3, -4):
        with pytest.raises(SiteError, match="-3 to -1"):
            attention_on_tokens(model, PROMPTS, HEADS, query=query)
    found = attention_on_tokens(model, PROMPTS, HEADS)
    with pytest.raises(SiteError, match="no prompt"):
        found.figure(prompts=[7])
    with pytest.raises(SiteError, match="L9.H9"):
        found.figure(heads=["L9.H9"])
    weights = found.weights.clone()
    weights[3, 0] *= 0.9
    with pytest.raises(AuditError, match="L1.H2 on prompt 3 sums to 0.9"):
        module._require_rows(model, weights, found.mask, HEADS)
