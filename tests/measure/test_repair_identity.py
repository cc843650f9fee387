"""The terms add up to the change in every architecture; each is what its formula gives on plain runs; a planted backup."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import oracle
import oracle_modules
import pytest
import small_models
import tiny
import torch
from oracle import Edit, PairOracle
from torch import Tensor

from circuits.engine import mean_activations, sweep
from circuits.errors import AuditError, SiteError, UndefinedError
from circuits.interventions import Patch
from circuits.linalg import FrozenNorm, freeze_norm
from circuits.measure.repair_identity import RepairIdentity, decompose_repair, terms
from circuits.metrics import LogitDifference, LogOdds, Metric, RefusalMetric
from circuits.model import Model, load
from circuits.prompts import PairSet
from circuits.sites import Site, head

TOKENS = small_models.uneven()
V = torch.randn(32, generator=torch.Generator().manual_seed(3))
COMPONENTS = (head(1, 2), Site("attn_out", 1), Site("mlp_out", 1))
ABLATIONS: tuple[Any, ...] = ("zero", "mean", "patch", V)
POST_NORMED = ("gemma2", "gemma3", "olmo2")


def _explained(found: RepairIdentity) -> Tensor:
    """The terms of the frame added up: what a reader would do."""
    return torch.tensor(found.to_frame().groupby("pair")["value"].sum().tolist())


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda site: site.label)
@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_the_terms_add_up_to_the_change(architecture: str, component: Site):
    model = small_models.model(architecture)
    metrics: list[Metric] = [RefusalMetric(model, "w60"), LogitDifference(model), LogOdds(model, "w60", "w3")]
    plans = [*itertools.product(ABLATIONS, ("last", "all")), ("zero", "subject"), (V, -2)]
    for i, (ablation, positions) in enumerate(plans):
        found = decompose_repair(
            model, TOKENS, metrics[i % 3], component, ablation=ablation, positions=positions, null_draws=0,
            on="clean" if i % 2 else "corrupt",
        )  # fmt: skip
        size = torch.stack([found.intact.abs(), found.ablated.abs()]).amax(0).clamp(min=1)
        assert (found.residual.abs() / size).max() < 1e-5
        assert ((_explained(found) - found.total).abs() / size).max() < 1e-5
        assert found.total.abs().max() > 1e-4, "nothing was ablated"
        assert found.linear == (i % 3 < 2 and architecture != "gemma2")


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_the_change_is_the_sweeps(architecture: str):
    model = small_models.model(architecture)
    metric = RefusalMetric(model, "w60")
    for component in COMPONENTS:
        means = mean_activations(model, TOKENS, [component])
        cells = [
            (Patch(component, "last", torch.zeros(())),), (Patch(component, "last", means[component]),),
            (Patch(component, "last"),),
        ]  # fmt: skip
        swept = sweep(model, TOKENS, metric, cells, direction="noise", audited=False)
        for i, ablation in enumerate(ABLATIONS[:3]):
            found = decompose_repair(model, TOKENS, metric, component, ablation=ablation, null_draws=0)
            assert torch.allclose(found.ablated, swept.value[i], atol=2e-5)
            assert torch.allclose(found.intact, swept.base, atol=2e-5)


# --- every term by its formula, from whole forward passes with plain hooks ------------------------------------------------

_FINAL = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}


def _formula(hf: Any, module: Any, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The scale of a norm at x, and what it is up to that scale, as the papers write it."""
    eps = next(getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name))
    weight = module.weight.detach()
    weight = weight + 1 if "Gemma" in type(hf).__name__ else weight
    centred = isinstance(module, torch.nn.LayerNorm)
    y = x - x.mean() if centred else x
    return 1 / torch.sqrt((y * y).mean() + eps), lambda a: weight * (a - a.mean() if centred else a)


def _tangent(hf: Any, logits: Tensor, token: int) -> Tensor:
    """Slope of logit[token] − mean(others) in the uncapped logits: the cap multiplies by 1 − (capped/cap)²."""
    n = len(logits)
    slope = torch.full((n,), -1 / (n - 1))
    slope[token] = 1.0
    cap = getattr(hf.config, "final_logit_softcapping", None)
    return slope if cap is None else slope * (1 - (logits / cap) ** 2)


@cache
def _expected(architecture: str, pair: int) -> dict[str, float]:
    """Terms of head 1.2 zeroed at the last position of a clean prompt."""
    hf = small_models.raw(architecture)
    one = PairOracle(hf, TOKENS, pair, "noise")
    keys = [("resid_post", 3), *((k, layer) for k in ("result", "attn_out", "mlp_out") for layer in range(4))]
    zero = Edit("z", 1, oracle.patch([one.length - 1], torch.zeros_like(one.of_source["z", 1]), 2))
    (logits, before), (after_logits, after) = (oracle.run(hf, one.base, e, keep=keys) for e in ([], [zero]))
    logits, after_logits = logits[-1], after_logits[-1]
    last = {key: (before[key][-1], after[key][-1]) for key in keys}
    token = tiny.tokenizer().get_vocab()["w60"]
    norm = hf.get_submodule(_FINAL.get(architecture, "model.norm"))
    x, edited = last["resid_post", 3]
    s, scaled = _formula(hf, norm, x)
    t, _ = _formula(hf, norm, edited)
    u = _tangent(hf, logits, token) @ hf.get_output_embeddings().weight.detach()

    def reads(a: Tensor) -> float:
        return float(s * (scaled(a) @ u))

    found = {
        "direct": 0.0, "final norm": float((t - s) * (scaled(edited) @ u)),
        **{f"L{layer}.MLP": reads(last["mlp_out", layer][1] - last["mlp_out", layer][0]) for layer in range(4)},
    }  # fmt: skip
    for layer in range(1, 4):
        result, edited_result = last["result", layer]
        if architecture in POST_NORMED:
            post = oracle_modules.module(hf, "attn_out", layer)
            p, through = _formula(hf, post, result.sum(0))
            q, _ = _formula(hf, post, edited_result.sum(0))
            found[f"L{layer} post-norm"] = reads((q - p) * through(result.sum(0)))
        else:
            q, through = torch.tensor(1.0), lambda a: a
        for h in range(4):
            found[f"L{layer}.H{h}"] = reads(q * through(edited_result[h] - result[h]))
    found["direct"] = found.pop("L1.H2")
    total = oracle.against_mean(after_logits, token) - oracle.against_mean(logits, token)
    cap = getattr(hf.config, "final_logit_softcapping", None)
    if cap is not None:
        uncapped = [torch.atanh(given.double() / cap) * cap for given in (logits, after_logits)]
        found["nonlinear"] = total - float(_tangent(hf, logits.double(), token).double() @ (uncapped[1] - uncapped[0]))
    return found | {"total": total}


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "olmo2", "gpt2", "gpt_neox", "llama", "gemma"])
def test_every_term_is_its_formula(architecture: str):
    model = small_models.model(architecture)
    found = decompose_repair(model, TOKENS, RefusalMetric(model, "w60"), head(1, 2), ablation="zero", null_draws=0)
    frame = found.to_frame()
    for pair in (0, 3):
        mine = frame[frame["pair"] == pair].set_index("term")["value"].to_dict()
        expected = _expected(architecture, pair)
        for term, value in mine.items():
            assert value == pytest.approx(expected[term], abs=2e-5), (pair, term)
        left = set(expected) - set(mine) - {"total"}
        # what is no term of this ablation does not change: other heads of the same layer, what comes before
        assert all(abs(expected[term]) < 1e-6 for term in left), left
        assert float(found.total[pair]) == pytest.approx(expected["total"], abs=2e-5)
    assert set(frame["kind"]) == {
        "direct", "final norm", "head", "mlp", *(["post-norm", "own post-norm"] if architecture in POST_NORMED else []),
        *(["nonlinear"] if architecture == "gemma2" else []),
    }  # fmt: skip


def test_in_a_parallel_block_the_mlp_beside_is_not_later():
    for architecture, first in (("gpt_neox", 2), ("llama", 1)):
        model = small_models.model(architecture)
        found = decompose_repair(model, TOKENS, RefusalMetric(model, "w60"), head(1, 0), null_draws=0)
        frame = found.to_frame()
        assert frame.loc[frame["kind"] == "mlp", "layer"].min() == first
        assert frame.loc[frame["kind"] == "head", "layer"].min() == 2


# --- a backup head whose share is known by construction -------------------------------------------------------------------

SIZE = 2.0
"""What the main head writes along the answer's direction."""


def _planted(share: float) -> Model:
    """A Llama in which L1.H3 writes −share × what it sees along one axis, of which L0.H1 is the only writer.

    The embedding holds −SIZE/2 along the axis and the main head adds SIZE: with and without it the residual is as long,
    every norm has one scale, and all is linear. Attention is uniform and each token holds the same, so that a
    head writes the same wherever the positions are.
    """
    model = load(str(small_models.folder("llama")), device="cpu", tokenizer=tiny.tokenizer())
    hf: Any = model.hf
    generator = torch.Generator().manual_seed(0)
    axis, constant, answer = 0, 1, tiny.tokenizer().get_vocab()["w60"]
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.zero_()
        own = torch.randn(hf.config.vocab_size, 32, generator=generator)
        own[:, [axis, constant]] = 0.0
        own /= own.norm(dim=1, keepdim=True)
        own[:, axis], own[:, constant] = -SIZE / 2, 3.0
        hf.model.embed_tokens.weight.copy_(own)
        length = (own[0] * own[0]).sum()
        scale = 1 / torch.sqrt(length / 32 + hf.config.rms_norm_eps)
        # key-value head 0 serves heads 0 and 1, head 1 serves 2 and 3; eight numbers each
        main, backup = hf.model.layers[0].self_attn, hf.model.layers[1].self_attn
        main.v_proj.weight[0, constant] = 1.0
        main.o_proj.weight[axis, 8] = SIZE / (3.0 * scale)
        backup.v_proj.weight[8, axis] = 1.0
        backup.o_proj.weight[axis, 24] = -share / scale
        hf.lm_head.weight[answer, axis] = 1.0
    return model


@pytest.mark.parametrize("share", [1.0, 0.6, 0.0, -0.5])
def test_the_share_of_a_planted_backup_head_is_found(share: float):
    model = _planted(share)
    metric = LogitDifference(model, "w60", "w61")
    tokens = PairSet.from_pairs(small_models.UNEVEN, name="uneven").tokenize(model)
    found = decompose_repair(model, tokens, metric, head(0, 1), ablation="zero", positions="all", null_draws=0)
    frame = found.to_frame().set_index(["pair", "term"])
    for pair in range(tokens.n_pairs):
        assert frame.loc[(pair, "direct"), "value"] < -1.0
        assert frame.loc[(pair, "L1.H3"), "share"] == pytest.approx(share, abs=1e-5)
        others = frame.loc[pair].drop(["direct", "L1.H3", "final norm"])
        assert others["value"].abs().max() < 1e-6
    summary = found.to_summary().set_index(["kind", "term"])
    assert summary.loc[("sum", "later"), "ratio"] == pytest.approx(share, abs=1e-5)
    assert summary.loc[("sum", "later"), "share"] == pytest.approx(share, abs=1e-5)
    # with the backup the residual along the axis only changes sign: the final norm has nothing to add
    assert frame.xs("final norm", level="term")["value"].abs().max() < 1e-5
    assert found.total.numpy() == pytest.approx((found.direct * (1 - share)).numpy(), abs=1e-5)


def test_a_planted_backup_is_no_repair_of_the_last_position_alone():
    """The main head writes everywhere and the backup reads everywhere: of one position it only sees its share."""
    model = _planted(1.0)
    tokens = PairSet.from_pairs(small_models.UNEVEN, name="uneven").tokenize(model)
    metric = LogitDifference(model, "w60", "w61")
    found = decompose_repair(model, tokens, metric, head(0, 1), ablation="zero", null_draws=0)
    shares = found.to_frame().set_index(["term", "pair"])["share"].loc["L1.H3"]
    assert shares.to_numpy() == pytest.approx((1 / tokens.lengths).numpy(), abs=1e-5)
    elsewhere = decompose_repair(model, tokens, metric, head(0, 1), ablation="zero", positions="subject", null_draws=0)
    assert elsewhere.direct.abs().max() == 0
    assert elsewhere.to_frame()["share"].isna().all()
    assert elsewhere.later.numpy() == pytest.approx((-found.direct / tokens.lengths).numpy(), abs=1e-5)


# --- shares, null, frames, figure -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repair() -> RepairIdentity:
    model = small_models.model("gemma3")
    return decompose_repair(model, TOKENS, RefusalMetric(model, "w60"), head(1, 2), ablation="patch", null_draws=2, seed=1)


def test_the_null_is_the_same_ablation_of_others(repair: RepairIdentity):
    model = small_models.model("gemma3")
    metric = RefusalMetric(model, "w60")
    assert len(set(repair.null_components)) == 2
    assert "L1.H2" not in repair.null_components
    for n, label in enumerate(repair.null_components):
        assert label.startswith("L1.H")
        other = decompose_repair(model, TOKENS, metric, head(1, int(label[-1])), ablation="patch", null_draws=0)
        assert torch.allclose(repair.null_direct[n], other.direct, atol=1e-6)
        assert torch.allclose(repair.null_later[n], other.later, atol=1e-6)
        assert torch.allclose(repair.null_final_norm[n], other.final_norm, atol=1e-6)
        assert torch.allclose(repair.null_total[n], other.total, atol=1e-6)
    blocks = decompose_repair(model, TOKENS, metric, Site("mlp_out", 1), null_draws=10)
    assert sorted(blocks.null_components) == ["L0.MLP", "L2.MLP"], "after the last MLP comes nothing that could repair"


def test_ratios_and_shares(repair: RepairIdentity):
    table = repair.to_summary().set_index(["kind", "term"])
    frame = repair.to_frame()
    for row in frame.sample(12, random_state=0).itertuples():
        assert row.share == pytest.approx(row.value / -repair.direct[row.pair].item(), rel=1e-5)
    later = frame[frame["kind"].isin(["head", "mlp", "post-norm"])].groupby("pair")["value"].sum()
    assert later.to_numpy() == pytest.approx(repair.later.numpy(), abs=1e-6)
    assert table.loc[("sum", "later"), "mean"] == pytest.approx(later.mean(), abs=1e-6)
    shares = frame.groupby("term")["share"].mean()
    assert table.loc[("mlp", "L2.MLP"), "share"] == pytest.approx(shares["L2.MLP"], rel=1e-5)


def test_a_ratio_of_a_direct_effect_of_unknown_sign_is_none():
    from circuits.measure.repair_identity.result import _ratios

    values = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 0.5], [4.0, 1.0], [2.0, 2.0]])
    found = _ratios(values, -values[:, 0])
    assert found["ratio"] == pytest.approx([1.0, 6.5 / 12])
    assert found["ratio_low"] == pytest.approx([1.0, found["ratio_low"][1]])
    assert found["ratio_low"][1] < 6.5 / 12 < found["ratio_high"][1]
    assert np.isnan(_ratios(values, np.array([1.0, -1.0, 2.0, -2.0, 0.1]))["ratio"]).all()


def test_the_waterfall_adds_up(repair: RepairIdentity, says: Callable[..., None]):
    figure = repair.figure()
    says(figure, small_models.model("gemma3").name)
    heights = dict.fromkeys(("raises", "lowers", "total"), 0.0)
    for trace in figure.data:
        if trace.name in heights:
            heights[trace.name] = float(np.sum(trace.y))
    assert heights["raises"] + heights["lowers"] == pytest.approx(heights["total"], abs=1e-5)
    assert heights["total"] == pytest.approx(repair.total.mean().item(), abs=1e-5)


def test_it_is_saved(repair: RepairIdentity, tmp_path: Any):
    path = repair.save(tmp_path)
    assert path.read_text().count("\n") == len(repair.to_frame()) + 1
    assert '"ablation": "patch ablation"' in path.with_suffix(".json").read_text()


# --- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", [Site("z", 1), Site("resid_pre", 1), Site("result", 1, 0), head(9, 0), head(1, 9)])
def test_what_is_no_component(component: Site):
    model = small_models.model("llama")
    with pytest.raises(SiteError):
        decompose_repair(model, TOKENS, RefusalMetric(model, "w60"), component)


def test_no_direction():
    model = small_models.model("llama")
    with pytest.raises(UndefinedError, match="norm"):
        decompose_repair(model, TOKENS, RefusalMetric(model, "w60"), head(1, 0), ablation=torch.zeros(32))
    with pytest.raises(SiteError, match="direction has shape"):
        decompose_repair(model, TOKENS, RefusalMetric(model, "w60"), head(1, 0), ablation=torch.ones(8))


def test_terms_that_do_not_add_up_are_an_error(monkeypatch: pytest.MonkeyPatch):
    """A final norm whose scales are misread by one in a thousand."""

    def misread(norm: Any, at: Tensor) -> FrozenNorm:
        frozen = freeze_norm(norm, at)
        return replace(frozen, scale=frozen.scale * 1.001)

    model = small_models.model("llama")
    monkeypatch.setattr(terms, "freeze_norm", misread)
    with pytest.raises(AuditError, match="miss the measured change"):
        decompose_repair(model, TOKENS, RefusalMetric(model, "w60"), Site("mlp_out", 0), ablation="zero", null_draws=0)
