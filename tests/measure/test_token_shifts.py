"""Token sets under edits: probabilities of the untouched checkpoint, along the reply as well, and nulls of equal size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import small_models
import torch
from torch import Tensor

from circuits.engine import read, sweep
from circuits.engine.edits import bind
from circuits.errors import CircuitError, SiteError, TokenError
from circuits.interventions import Ablate, Add, Clamp, Columns, Patch, ablate_everywhere
from circuits.measure.token_shifts import TokenShifts, token_shifts
from circuits.measure.token_shifts.nulls import random_cells
from circuits.measure.token_shifts.reply import carried, continued, greedy
from circuits.measure.token_shifts.words import resolve
from circuits.metrics import LogOdds
from circuits.model import load
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.sites import Site, head

MODEL, RAW = small_models.model("gemma2"), small_models.raw("gemma2")
PROMPTS = InstructionSet(
    (
        Instruction("w1 w2 w3 w4", "harmful"), Instruction("w5 w6", "harmless"), Instruction("w7 w8 w9 w10 w11", "harmful"),
        Instruction("w12 w1 w30", "harmless"), Instruction("w31 w32 w33", "harmful"),
    ),
    "made up",
).tokenize(MODEL)  # fmt: skip
PAIRS = PROMPTS.beside_themselves()
V = torch.randn(32, generator=torch.Generator().manual_seed(4))
SETS = {"no": ["w60", "w61"], "yes": ["w62"]}
CELLS: dict[str, Any] = {
    "gone": ablate_everywhere(V, range(4)), "last": (Add(Site("resid_pre", 2), V, "last", 2.0),),
}  # fmt: skip
IDS = {name: [MODEL.tokenizer.get_vocab()[w] for w in words] for name, words in SETS.items()}


def prompt(i: int, reply: Tensor) -> Tensor:
    return torch.cat([PROMPTS.ids[i][PROMPTS.mask[i]], reply])


def edits(name: str, n: int, prompt_length: int) -> list[oracle.Edit]:
    """The cells of CELLS for an unpadded sequence of n tokens, n of which `prompt_length` are the prompt."""
    everywhere = list(range(n))
    if name == "gone":
        sites = [("resid_pre", 0), *((kind, layer) for layer in range(4) for kind in ("attn_out", "mlp_out"))]
        return [oracle.Edit(kind, layer, oracle.formula(everywhere, oracle.ablated(V))) for kind, layer in sites]
    return [oracle.Edit("resid_pre", 2, oracle.formula([prompt_length - 1], lambda x: x + 2 * V))]


@pytest.fixture(scope="module")
def found() -> TokenShifts:
    return token_shifts(MODEL, PROMPTS, CELLS, SETS, positions=3, null_draws=4)


def test_probabilities_are_the_untouched_checkpoints_along_its_own_reply(found: TokenShifts):
    for i in range(5):
        start = prompt(i, torch.zeros(0, dtype=torch.long))
        ids = start
        for p in range(3):
            plain = oracle.run(RAW, ids)[0][-1].double().softmax(-1)
            for c, name in enumerate(("gone", "last"), start=1):
                edited = oracle.run(RAW, ids, edits(name, len(ids), len(start)))[0][-1].double().softmax(-1)
                for s, tokens in enumerate(IDS.values()):
                    assert found.along[0, s, i, p].item() == pytest.approx(plain[tokens].sum().item(), abs=1e-5)
                    assert found.along[c, s, i, p].item() == pytest.approx(edited[tokens].sum().item(), abs=1e-5)
            ids = torch.cat([ids, plain.argmax()[None]])
    assert torch.allclose(found.log_odds.sigmoid(), found.along[..., 0], atol=1e-5)
    assert (found.along[1:3] - found.along[:1]).abs().amax((2, 3)).min() > 1e-4  # the edits do something


def test_the_summary_is_the_means_of_the_frame(found: TokenShifts):
    table = found.to_summary().set_index(["label", "cell", "set", "score"])
    assert len(table) == 2 * 2 * 2 * 3
    harmful = PROMPTS.harmful
    row = table.loc[("harmful", "gone", "no", "total")]
    before, after = (found.along[c, 0, harmful].sum(-1).mean().item() for c in (0, 1))
    assert (row["before"], row["after"], row["change"]) == pytest.approx((before, after, after - before))
    assert row["low"] <= row["change"] <= row["high"]
    nulls = [found.cells.index(f"null of gone #{k}") for k in range(4)]
    moved = (found.log_odds[nulls][:, 1, ~harmful] - found.log_odds[:1, 1, ~harmful]).mean(-1).numpy()
    row = table.loc[("harmless", "gone", "yes", "log_odds")]
    assert (row["null_mean"], row["null_low"], row["null_high"]) == pytest.approx(
        (moved.mean(), moved.min(), moved.max())
    )
    assert row["p_null"] == (1 + (np.abs(moved) >= abs(row["change"])).sum()) / 5
    assert row["least_p"] == 0.2


def test_the_first_position_is_a_sweeps(found: TokenShifts):
    swept = sweep(MODEL, PAIRS, LogOdds(MODEL, "w60", "w61"), list(CELLS.values()), direction="noise")
    assert torch.allclose(found.log_odds[:3, 0].float(), torch.cat([swept.base[None], swept.value]), atol=1e-5)


def test_after_the_end_of_the_reply_nothing_is_counted(monkeypatch: pytest.MonkeyPatch):
    reply, _ = greedy(MODEL, PAIRS, 3)
    monkeypatch.setattr(MODEL.hf.generation_config, "eos_token_id", [int(reply[1, 0]), int(reply[2, 1])])
    again, there = greedy(MODEL, PAIRS, 3)
    assert torch.equal(reply[there], again[there]), "what stands after the end means nothing"
    for i in range(5):
        ends = [p for p in range(3) if int(reply[i, p]) in (int(reply[1, 0]), int(reply[2, 1]))]
        assert there[i].tolist() == [p <= (ends[0] if ends else 3) for p in range(3)]
    assert there[1].tolist() == [True, False, False]
    short = token_shifts(MODEL, PROMPTS, {"last": CELLS["last"]}, SETS, positions=3, null_draws=0)
    frame = short.to_frame()
    one = frame[(frame["prompt"] == 1) & (frame["set"] == "no")]
    assert one["total"].to_numpy() == pytest.approx(one["p"].to_numpy(), abs=1e-5)
    assert one["positions"].unique() == [1]
    assert short.position_frame()["n"].max() == 3
    assert short.to_summary()["p_null"].isna().all()


@pytest.mark.parametrize("where", ["last", -2, [0, -1], Columns((-1, 2))], ids=str)
def test_edits_stay_where_they_were(where: Any):
    reply = torch.tensor([[5, 6]] * 5)
    longer = continued(PAIRS, reply)
    value = torch.randn(5, PAIRS.n_pos, 32, generator=torch.Generator().manual_seed(1))
    for edit in (Add(Site("resid_pre", 1), V, where), Patch(Site("mlp_out", 1), where, value)):
        (old,) = bind(MODEL, PAIRS, (edit,), None)
        (new,) = bind(MODEL, longer, carried(MODEL, PAIRS, (edit,), 2), None)
        assert torch.equal(new.mask[:, :-2], old.mask)
        assert not new.mask[:, -2:].any()
    whole = carried(MODEL, PAIRS, (Patch(Site("mlp_out", 1), "all", value), Add(Site("resid_pre", 1), V)), 2)
    site = Site("resid_pre", 3)
    short = read(MODEL, PAIRS, (Patch(Site("mlp_out", 1), "all", value),), [site]).seen[site]
    assert torch.allclose(
        read(MODEL, longer, whole[:1], [site]).seen[site][:, :-2][PAIRS.mask], short[PAIRS.mask], atol=1e-5
    )
    assert [b.mask[:, -2:].all().item() for b in bind(MODEL, longer, whole, None)] == [True, False]


def test_a_null_changes_activations_as_much_as_the_edit():
    cell = (*CELLS["gone"], Add(Site("resid_pre", 1), 3 * V, "last"))
    site = Site("attn_out", 2)
    activation = read(MODEL, PAIRS, (), [site]).seen[site]
    counted = PROMPTS.mask & (PROMPTS.ids != MODEL.tokenizer.bos_token_id)
    nulls = random_cells(MODEL, PAIRS, cell, 3, seed=0)
    for null in nulls:
        ablations = [i for i in null if isinstance(i, Ablate)]
        assert all(torch.equal(i.direction, ablations[0].direction) for i in ablations)  # one direction, as in the cell
        for own, other in zip(cell, null, strict=True):
            if isinstance(own, Ablate) and own.site == site and isinstance(other, Ablate):
                changed = [
                    torch.as_tensor(e.alpha).expand(5)[:, None] * (activation @ e.direction) for e in (own, other)
                ]
                sizes = [(c * counted).square().sum(1) for c in changed]  # each prompt on its own
                assert torch.allclose(*sizes, rtol=1e-4)
        assert isinstance(null[-1], Add)
        assert null[-1].vector.norm().item() == pytest.approx(3 * V.norm().item(), rel=1e-5)
    assert not torch.allclose(nulls[0][0].direction, nulls[1][0].direction)  # type: ignore[union-attr]


def test_figures_say_which_tokens_were_counted(found: TokenShifts, says: Callable[..., None]):
    for figure in (found.figure(), found.figure(score="total"), found.position_figure()):
        says(figure, MODEL.name)
    said = " ".join(a.text.replace("<br>", " ") for a in found.figure().layout.annotations)
    assert "no: w60 w61; yes: w62" in said
    with pytest.raises(CircuitError, match="no score"):
        found.figure(score="odds")


def test_both_forms_of_a_word_are_looked_at_and_named():
    tokenizer = load(device="cpu").tokenizer
    found = resolve(tokenizer, {"capable": ["Sure", " Sure ", "Title"], "I": ["I"]})
    vocabulary = tokenizer.get_vocab()
    for name in found:
        for token, spelled in zip(found[name].ids, found[name].spelled, strict=True):
            word = spelled.replace("␣", "▁")
            assert vocabulary[word] == token
    assert "Sure" in found["capable"].spelled
    assert len(found["capable"].ids) == len(set(found["capable"].ids))
    forms = sum(len(w.spelled) + len(w.left_out) for w in found.values())
    assert forms == 6  # three words, two forms each
    with pytest.raises(TokenError) as error:
        resolve(tokenizer, {"refusal": ["I", "sorry"], "incapable": ["unabled"]})
    assert "refusal: sorry ‹s|or|ry›, ␣sorry ‹␣s|or|ry›" in str(error.value)
    assert "incapable: unabled ‹un|able|" in str(error.value)
    assert "choose other words" in str(error.value)
    with pytest.raises(TokenError, match="unknown to the tokenizer"):
        resolve(MODEL.tokenizer, {"x": ["sorry"]})
    for empty in ({}, {"x": [" "]}):
        with pytest.raises(TokenError, match="at least one word"):
            resolve(tokenizer, empty)


def test_what_cannot_be_asked_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch):
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(MODEL.hf), "forward", never)
    zeros = torch.zeros(32)
    asked: list[tuple[dict[str, Any], type[CircuitError], str]] = [
        ({"cells": {}}, CircuitError, "0 cells"), ({"cells": {"x": ()}}, CircuitError, "edits in every cell"),
        ({"cells": {"unedited": CELLS["last"]}}, CircuitError, "none called"), ({"positions": 0}, CircuitError, "0 positions"),
        ({"cells": {"x": (Add(Site("resid_pre", 9), V),)}}, SiteError, "resid_pre"),
        ({"cells": {"x": (Add(Site("resid_pre", 1), V, "subject"),)}}, SiteError, "'subject'"),
        ({"cells": {"x": (Patch(head(1, 1)),)}}, SiteError, "give the patch a value"),
        ({"cells": {"x": (Clamp(Site("resid_pre", 1), V, 0.0),)}}, CircuitError, "no random counterpart"),
        ({"cells": {"x": (Patch(Site("mlp_out", 1), value=zeros),)}}, CircuitError, "no random counterpart"),
        ({"cells": {"x": (Patch(Site("pattern", 1, 1), value=torch.zeros(())),)}, "null_draws": 0}, SiteError, "pattern"),
        ({"tokens": {"x": ["sorry"]}}, TokenError, "sorry"),
    ]  # fmt: skip
    for given, kind, said in asked:
        with pytest.raises(kind, match=said):
            token_shifts(MODEL, PROMPTS, **({"cells": CELLS, "tokens": SETS} | given))
