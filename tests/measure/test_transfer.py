"""Heads edited without another prompt: what the oracle gives, and a proxy that stops agreeing is called out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import oracle_modules
import pytest
import small_models
import torch
from torch import Tensor

from circuits.engine import generate
from circuits.engine.head_edits import head_edits
from circuits.engine.read import read
from circuits.errors import CircuitError, SiteError, UndefinedError
from circuits.interventions import Ablate
from circuits.measure import transfer as module
from circuits.measure.transfer import Transfer, transfer
from circuits.metrics import RefusalMetric
from circuits.model.value_path import output_path
from circuits.prompts.instructions import Instruction, InstructionSet
from circuits.sites import Site, head
from circuits.tables import provenance

TOKENS = small_models.uneven()
MODEL, RAW = small_models.model("gemma2"), small_models.raw("gemma2")
METRIC = RefusalMetric(MODEL, "w60")
TOKEN = MODEL.tokenizer.get_vocab()["w60"]
V = torch.randn(32, generator=torch.Generator().manual_seed(4))
SETS = {"two": [head(1, 0), head(2, 3)]}
DIVERSE = InstructionSet(
    (
        Instruction("w1 w2 w3 w4", "harmful"), Instruction("w5 w6", "harmless"), Instruction("w7 w8 w9 w10 w11", "harmful"),
        Instruction("w12 w1 w30", "harmless"), Instruction("w31 w32 w33 w34 w35 w36", "harmless"),
    ),
    "made up",
).tokenize(MODEL)  # fmt: skip


def _z(ids: Tensor, layer: int) -> Tensor:
    return oracle.run(RAW, ids, keep=[("z", layer)])[1]["z", layer][-1]


def _prompts(ids: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[real] for row, real in zip(ids, mask, strict=True)]


def _change(how: str, layer: int, h: int, means: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """What becomes of a head's z."""
    if how == "direction":
        norm = oracle_modules.module(RAW, "attn_out", layer)
        return oracle.ablated(oracle_modules.w_o(RAW, layer)[h] @ (V * (1 + norm.weight)))
    return lambda _: means.get(how, torch.zeros(8))


@pytest.mark.parametrize("how", ["opposite mean", "mean", "zero", "direction"])
def test_metric_and_completions_are_the_oracles(how: Any):
    direction = V if how == "direction" else None
    found = transfer(
        MODEL, TOKENS, DIVERSE, METRIC, sets=SETS, how=how, direction=direction, null_draws=2, max_new_tokens=4
    )
    toy = _prompts(TOKENS.clean, TOKENS.mask) + _prompts(TOKENS.corrupt, TOKENS.mask)
    both = [(toy, [True] * 5 + [False] * 5), (_prompts(DIVERSE.ids, DIVERSE.mask), DIVERSE.harmful.tolist())]
    place = 0
    for prompts, harmful in both:
        zs = {layer: torch.stack([_z(ids, layer) for ids in prompts]) for layer in (1, 2)}
        for i, ids in enumerate(prompts):
            edits = []
            for site in SETS["two"]:
                layer, h = site.layer, site.index or 0
                others = [j for j in range(len(prompts)) if harmful[j] != harmful[i]]
                means = {"mean": zs[layer][:, h].mean(0), "opposite mean": zs[layer][others, h].mean(0)}
                change = oracle.formula([len(ids) - 1], _change(how, layer, h, means), h)
                edits.append(oracle.Edit("z", layer, change))
            plain, edited = (oracle.run(RAW, ids, e)[0][-1] for e in ([], edits))
            assert found.metric[0, place].item() == pytest.approx(oracle.against_mean(plain, TOKEN), abs=2e-5)
            assert found.metric[1, place].item() == pytest.approx(oracle.against_mean(edited, TOKEN), abs=2e-5)
            word = MODEL.tokenizer.decode([int(edited.argmax())], skip_special_tokens=True)
            assert found.completions[1][place].split()[:1] == word.split()
            place += 1
    assert found.labels == ("harmful",) * 5 + ("harmless",) * 5 + tuple(i.label for i in DIVERSE.instructions)
    assert found.origin == ("pairs",) * 10 + ("diverse",) * 5
    assert found.metric.shape == (4, 15)
    assert (found.metric[1] - found.metric[0]).abs().min() > 1e-4


def test_without_what_it_writes_a_head_writes_nothing_along_the_direction():
    tokens = DIVERSE.beside_themselves()
    edit = head_edits(MODEL, tokens, [head(2, 3)], "direction", direction=V)[head(2, 3)]
    assert isinstance(edit, Ablate)
    z = read(MODEL, tokens, (edit,), [Site("z", 2)]).seen[Site("z", 2)][:, -1]
    path = output_path(MODEL, 2)
    post = path.frozen(z)
    written = post.linear(torch.einsum("phe,hed->phd", z.double(), path.w_o)) @ V.double()
    assert written[:, 3].abs().max() < 1e-5
    assert written[:, 2].abs().min() > 1e-4


def test_completions_are_the_engines():
    found = transfer(MODEL, TOKENS, DIVERSE, METRIC, sets=SETS, how="zero", null_draws=0, max_new_tokens=5)
    plain = generate(MODEL, DIVERSE.beside_themselves(), max_new_tokens=5)
    assert list(found.completions[0][10:]) == plain
    frame = found.to_frame()
    assert frame[(frame["cell"] == "baseline") & (frame["origin"] == "diverse")]["completion"].tolist() == plain


def _made(metric: list[float], refused: list[float], n: int = 40) -> Transfer:
    """On the pairs both proxy and refusals follow the edit; on the diverse set as given, as shares of the gap."""
    labels = (["harmful"] * n + ["harmless"] * n) * 2
    rng = np.random.default_rng(0)
    base = np.where(np.array(labels) == "harmful", 20.0, 10.0) + rng.normal(0, 0.2, 4 * n)
    move = np.where(np.array(labels) == "harmful", -10.0, 10.0)
    share = np.repeat([1.0, 1.0, *metric], n)
    before = np.array(labels) == "harmful"
    flips = np.concatenate([np.arange(n) < round(r * n) for r in (1.0, 1.0, *refused)])
    text = tuple("x" for _ in labels)
    return Transfer(
        provenance=provenance(MODEL, TOKENS), metric=torch.tensor(np.stack([base, base + share * move])),
        refused=torch.tensor(np.stack([before, before ^ flips])), completions=(text, text), prompts=text,
        labels=tuple(labels), origin=("pairs",) * 2 * n + ("diverse",) * 2 * n, source=text,
        cells={"baseline": (), "direct": ("L1.H0",)}, null_of={}, how="mean", positions="last",
    )  # fmt: skip


def test_a_proxy_that_stops_agreeing_is_said_to():
    table = _made([0.9, 0.1], [0.0, 0.0]).to_summary()
    rows = table[table["cell"] == "direct"].set_index(["origin", "label"])
    assert rows.loc[("pairs", "harmful"), "verdict"] == "agree: both move"
    assert rows.loc[("diverse", "harmful"), "verdict"] == "disagree: the metric moves, refusals do not"
    assert rows.loc[("diverse", "harmless"), "verdict"] == "agree: neither moves"
    apart = rows.loc[("diverse", "harmful")]
    assert apart["metric_fraction"] == pytest.approx(0.9, abs=0.02)
    assert apart["rate_fraction"] == 0
    assert apart["differ_low"] > 0.8
    assert apart["p"] == 1.0
    assert rows.loc[("pairs", "harmful"), "p_holm"] < 1e-6
    assert rows.loc[("pairs", "harmful"), "differ"] == pytest.approx(0, abs=0.02)


def test_refusals_may_move_alone_and_the_middle_is_undecided():
    rows = _made([0.1, 0.5], [1.0, 0.5]).to_summary()
    rows = rows[(rows["cell"] == "direct") & (rows["origin"] == "diverse")].set_index("label")
    assert rows.loc["harmful", "verdict"] == "disagree: refusals move, the metric does not"
    assert rows.loc["harmless", "verdict"] == "undecided"


def test_agreement_by_hand():
    made = _made([0.9, 0.1], [0.25, 0.0])
    table = made.agreement().set_index(["origin", "cell"])
    assert table.loc[("diverse", "baseline"), "auroc"] == 1.0
    metric, refused = made.metric[1, 80:].numpy(), made.refused[1, 80:].numpy()
    wins = (metric[refused][:, None] > metric[~refused]).mean()
    assert table.loc[("diverse", "direct"), "auroc"] == pytest.approx(wins)
    assert wins < 0.6
    assert np.isnan(table.loc[("diverse", "baseline"), "flips"])
    assert 0 < table.loc[("diverse", "direct"), "flips"] < 1
    assert table.loc[("diverse", "direct"), "rate"] == refused.mean()


def test_labels_that_the_model_treats_alike_have_no_fraction(monkeypatch: pytest.MonkeyPatch, says: Callable[..., None]):
    monkeypatch.setattr(module, "is_refusal", lambda _: False)
    found = transfer(MODEL, TOKENS, DIVERSE, METRIC, sets=SETS, null_draws=2, max_new_tokens=2)
    rows = found.to_summary()
    edited = rows[rows["cell"] == "two"]
    assert edited["rate_fraction"].isna().all()
    assert (edited["verdict"] == "undecided").all()
    assert edited["metric_fraction"].notna().all()
    assert found.agreement()["auroc"].isna().all()
    says(found.figure(), MODEL.name)


def test_what_cannot_be_asked():
    def ask(**given: Any) -> None:
        transfer(MODEL, TOKENS, DIVERSE, METRIC, **({"sets": SETS} | given))

    with pytest.raises(SiteError, match="set none"):
        ask(sets={})
    with pytest.raises(SiteError, match="set x"):
        ask(sets={"x": [Site("mlp_out", 1)]})
    with pytest.raises(CircuitError, match="direction"):
        ask(how="direction")
    with pytest.raises(CircuitError, match="direction"):
        ask(how="zero", direction=V)
    with pytest.raises(UndefinedError, match="both classes"):
        head_edits(MODEL, DIVERSE.beside_themselves(), SETS["two"], "opposite mean")
    one_kind = InstructionSet(tuple(i for i in DIVERSE.instructions if i.label == "harmful"), "harmful").tokenize(MODEL)
    with pytest.raises(CircuitError, match="both harmful and harmless"):
        transfer(MODEL, TOKENS, one_kind, METRIC, sets=SETS)
