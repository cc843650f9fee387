"""Every kind of cell, on every architecture, in both directions, equals a whole forward pass of the unpadded prompt."""

from __future__ import annotations

from functools import cache
from typing import Any

import oracle
import oracle_modules
import pytest
import small_models
import torch
from oracle import Edit, PairOracle

from circuits.engine import sweep
from circuits.errors import SiteError
from circuits.interventions import Cell, Columns, Patch
from circuits.metrics import LogitDifference, LogOdds, RefusalMetric
from circuits.sites import Site

TOKENS = small_models.uneven()
RESIDUALS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS: dict[Any, int] = {"q": 3, "k": -1, "v": -1, "pattern": 2, "z": 3, "result": 1}
"""A head by itself; of keys and values the last of their own heads."""
MORE: list[tuple[Any, int]] = [("q", 0), ("k", 0), ("v", 0), ("pattern", 0), ("z", 0), ("result", 2), ("post", 47)]
"""And another."""
LAYERS = (0, 2, 3)
TOKEN = "w60"


# --- cells ------------------------------------------------------------------------------------------------------------


def _sites(architecture: str, layer: int) -> list[Site]:
    """Every site of a block: all heads and neurons at once, and one by itself."""
    hf = small_models.raw(architecture)
    heads = [Site(kind, layer, index % oracle_modules.heads(hf, kind)) for kind, index in HEADS.items()]
    return [*(Site(kind, layer) for kind in oracle.kinds(hf) if kind != "embed"), *heads, Site("post", layer, 5)]


def _every_site(architecture: str) -> list[Cell]:
    places: tuple[Any, ...] = ("post_subject", "all")
    singles: tuple[Any, ...] = ("subject", Columns((8,)), "last", 2, -2)
    sites = [site for layer in LAYERS for site in _sites(architecture, layer)]
    cells: list[Cell] = [(Patch(Site("embed"), where),) for where in (*places, *singles)]
    cells += [(Patch(site, where),) for site in sites for where in places]
    sites += [Site(kind, layer, index) for layer in LAYERS for kind, index in MORE]
    # one of the single positions each, another one in each architecture
    begin = small_models.ARCHITECTURES.index(architecture)
    return cells + [(Patch(site, singles[(begin + i) % len(singles)]),) for i, site in enumerate(sites)]


def _pattern_cells() -> list[Cell]:
    """One destination and one source, whole rows, whole columns, and sources after the destination, whose weight is 0."""
    ends: list[tuple[Any, Any]] = [
        ("last", "subject"), ("last", "last"), ("last", 0), (-2, "subject"), ("subject", "subject"), ("last", None),
        ("post_subject", "subject"), ("all", "subject"), ("last", "post_subject"), ("post_subject", "post_subject"),
        (Columns((8,)), Columns((6, 7))), ([1, -1], [0, -2]), ("all", 0), ("subject", "last"),
    ]  # fmt: skip
    sites = [Site("pattern", layer, head) for layer, head in ((0, 1), (1, 2), (2, 0), (3, 3))]
    sites += [Site("pattern", layer) for layer in (0, 3)]
    chosen = [(site, *end) for i, site in enumerate(sites) for end in (ends[0], *ends[1 + i % 5 :: 5])]
    return [(Patch(site, where, keys=keys),) for site, where, keys in chosen]


def _each_column(architecture: str) -> list[Cell]:
    """Single positions of the residual stream's sites, a part of them in each architecture."""
    cells: list[Cell] = [
        (Patch(Site(kind, layer), Columns((p,))),)
        for kind in RESIDUALS
        for layer in range(4)
        for p in range(TOKENS.n_pos)
        if kind in oracle.kinds(small_models.raw(architecture))
    ]
    return cells[small_models.ARCHITECTURES.index(architecture) % 5 :: 5]


def _groups(architecture: str) -> list[Cell]:
    groups: list[Cell] = [
        tuple(Patch(Site("attn_out", layer), "last") for layer in (1, 2)),
        tuple(Patch(Site("mlp_out", layer), "subject") for layer in range(4)),
        tuple(Patch(Site(kind, layer), "all") for kind in ("attn_out", "mlp_out") for layer in (2, 3)),
        (Patch(Site("mlp_out", 3), "last"), Patch(Site("resid_pre", 1), "subject"), Patch(Site("z", 2, 3), "all")),
        (Patch(Site("z", 0, 1)), Patch(Site("z", 2, 0), "last"), Patch(Site("z", 2, 3), "subject"), Patch(Site("z", 3, 2))),
        (Patch(Site("resid_post", 3), "last"), Patch(Site("resid_post", 0), "post_subject")),
        (Patch(Site("resid_pre", 0), "subject"), Patch(Site("resid_pre", 0), "last"), Patch(Site("attn_out", 3), -2)),
        tuple(Patch(Site(kind, layer), "all") for layer in (1, 3) for kind in ("q", "k")),
        (Patch(Site("v", 3, 0), "subject"), Patch(Site("pattern", 3), "last")),
        (Patch(Site("k", 0, 0), "subject"), Patch(Site("v", 2, 0), "post_subject"), Patch(Site("q", 3, 2), "last")),
        (Patch(Site("post", 1, 7), "subject"), Patch(Site("post", 1, 8), -2), Patch(Site("post", 3, 7), "last")),
        (Patch(Site("embed"), "subject"), Patch(Site("result", 3, 1), "last")),
        # the same block's sites, one after the other
        (Patch(Site("z", 2, 1)), Patch(Site("result", 2, 2)), Patch(Site("mlp_out", 2), "last"), Patch(Site("q", 2, 0))),
        (Patch(Site("v", 3)), Patch(Site("z", 3, 1), "subject"), Patch(Site("post", 3), "last"), Patch(Site("k", 3), -2)),
    ]  # fmt: skip
    if architecture not in small_models.PARALLEL:
        mid: Cell = (Patch(Site("attn_out", 1), "last"), Patch(Site("resid_mid", 1), -2), Patch(Site("resid_mid", 3)))
        groups.append(mid)
    return groups


# --- what a whole forward pass of each unpadded prompt gives ------------------------------------------------------------


@cache
def _pairs(architecture: str, direction: str) -> list[PairOracle]:
    return [PairOracle(small_models.raw(architecture), TOKENS, i, direction) for i in range(TOKENS.n_pairs)]


def _expected(architecture: str, cells: list[Cell], direction: str) -> dict[str, torch.Tensor]:
    """The three metrics of every cell and pair, float64."""
    vocab = dict(small_models.model(architecture).tokenizer.get_vocab())
    columns: dict[str, list[list[float]]] = {"refusal": [], "log-odds": [], "difference": []}
    for pair, said in zip(_pairs(architecture, direction), small_models.UNEVEN, strict=True):
        logits, (answer, wrong) = pair.all_logits(cells), (vocab[token] for token in said[2:])
        columns["refusal"].append([oracle.against_mean(row, vocab[TOKEN]) for row in logits])
        columns["log-odds"].append([oracle.log_odds(row, [vocab[TOKEN], vocab["w61"]]) for row in logits])
        columns["difference"].append([oracle.difference(row, answer, wrong) for row in logits])
    return {name: torch.tensor(values, dtype=torch.float64).T for name, values in columns.items()}


def _metric(architecture: str, name: str) -> Any:
    model = small_models.model(architecture)
    match name:
        case "refusal":
            return RefusalMetric(model, TOKEN)
        case "log-odds":
            return LogOdds(model, TOKEN, "w61")
        case _:
            return LogitDifference(model)


def _said(cell: Cell) -> str:
    return " + ".join(f"{i.site.label} at {i.positions}, keys {getattr(i, 'keys', None)}" for i in cell)


def _agree(cells: list[Cell], found: torch.Tensor, expected: torch.Tensor) -> None:
    gap = (found.double() - expected).abs()
    wrong = (gap.amax(1) > 1e-5 * max(1.0, expected.abs().max().item())).nonzero().flatten().tolist()
    worst = sorted(wrong, key=lambda c: -gap[c].max().item())
    report = [f"{_said(cells[c])}: off by {gap[c].max():.1e} on pair {int(gap[c].argmax())}" for c in worst[:20]]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(cells)} cells", *report])


# --- tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_patches_equal_the_oracle(architecture: str, direction: Any):
    cells = [*_every_site(architecture), *_pattern_cells(), *_each_column(architecture)]
    name = "difference" if direction == "noise" else "log-odds"
    expected = _expected(architecture, cells, direction)[name]
    model, metric = small_models.model(architecture), _metric(architecture, name)
    swept = sweep(model, TOKENS, metric, cells, direction=direction, audited=False)
    _agree(cells, swept.value, expected)
    # the set is one on which patching does something, so that agreement is no accident
    effect = (expected - swept.base).abs().amax(1)
    for kind in oracle.kinds(small_models.raw(architecture)):
        here = [c for c, cell in enumerate(cells) if cell[0].site.kind == kind]
        assert (effect[here] > 1e-3).sum() > len(here) / 3, kind


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_patches_together_equal_the_oracle_in_every_metric(architecture: str, direction: Any):
    cells = _groups(architecture)
    model, expected = small_models.model(architecture), _expected(architecture, cells, direction)
    for name, values in expected.items():
        metric, audited = _metric(architecture, name), name == "difference"
        swept = sweep(model, TOKENS, metric, cells, direction=direction, audited=audited)
        _agree(cells, swept.value, values)
        assert (swept.value - swept.base).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("architecture", small_models.PARALLEL)
def test_parallel_blocks_have_no_residual_between_attention_and_mlp(architecture: str):
    model = small_models.model(architecture)
    with pytest.raises(SiteError, match="L1.resid_mid.*parallel"):
        sweep(model, TOKENS, RefusalMetric(model, TOKEN), [(Patch(Site("resid_mid", 1), "last"),)])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
def test_base_and_source_are_the_runs_that_the_direction_names(architecture: str, direction: Any):
    model, cells = small_models.model(architecture), [(Patch(Site("mlp_out", 0), "last"),)]
    swept = sweep(model, TOKENS, RefusalMetric(model, TOKEN), cells, direction=direction)
    token = model.tokenizer.get_vocab()[TOKEN]
    for i, pair in enumerate(_pairs(architecture, direction)):
        assert swept.base[i].item() == pytest.approx(oracle.against_mean(pair.logits(), token), abs=1e-5)
        source = oracle.against_mean(pair.logits(of=pair.source), token)
        assert swept.source[i].item() == pytest.approx(source, abs=1e-5)
        assert abs(swept.base[i].item() - source) > 1e-3


# --- the oracle itself, against what Hugging Face gives without hooks -----------------------------------------------------


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_the_oracle_reads_what_hugging_face_gives(architecture: str):
    hf, ids = small_models.raw(architecture), TOKENS.clean[2]
    logits, seen = oracle.run(hf, ids, keep=oracle.keys(hf))
    with torch.no_grad():
        given = hf(input_ids=ids[None], use_cache=False, output_hidden_states=True, output_attentions=True)
        assert torch.equal(seen["embed", 0], hf.get_input_embeddings()(ids))
        for layer in range(4):
            pre, q, k, v, pattern, z, result, attn_out, post, mlp_out, resid_post = (
                seen[kind, layer] for kind in oracle_modules.KINDS if kind not in ("embed", "resid_mid")
            )
            assert torch.equal(pre, given.hidden_states[layer][0])
            assert torch.equal(pattern, given.attentions[layer][0].transpose(0, 1))
            assert (pre + attn_out + mlp_out - resid_post).abs().max() <= 1e-5
            if architecture not in small_models.PARALLEL:
                assert torch.allclose(seen["resid_mid", layer], pre + attn_out, atol=1e-5)
            mixed = torch.einsum("qhk,khd->qhd", pattern, v.repeat_interleave(z.shape[1] // v.shape[1], 1))
            assert torch.allclose(z, mixed, atol=1e-5)
            project, down, *ends = (
                oracle_modules.module(hf, kind, layer) for kind in ("z", "post", "attn_out", "mlp_out")
            )
            norm_attn, norm_mlp = (end if "Norm" in type(end).__name__ else torch.nn.Identity() for end in ends)
            bias = 0 if project.bias is None else project.bias
            assert torch.allclose(norm_attn(result.sum(1) + bias), attn_out, atol=1e-5)
            assert torch.allclose(norm_mlp(down(post)), mlp_out, atol=1e-5)
            assert q.shape == z.shape
            assert k.shape == v.shape
    assert torch.equal(logits, given.logits[0])


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_the_oracles_copies_of_a_prompt_do_not_see_each_other(architecture: str):
    pair, cells = _pairs(architecture, "denoise")[2], _groups(architecture)
    together = pair.all_logits([*cells, ()])
    alone = torch.stack([pair.logits(pair.edits(cell)) for cell in [*cells, ()]])
    assert torch.allclose(together, alone, atol=1e-5)
    assert (together[:-1] - together[-1]).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_the_oracle_edits_queries_and_keys_of_the_heads_it_says(architecture: str):
    hf, ids, layer = small_models.raw(architecture), TOKENS.clean[2], 2
    keep = [(kind, layer) for kind in ("q", "k", "pattern")]
    _, before = oracle.run(hf, ids, keep=keep)
    allowed = before["pattern", layer][:, 0] > 0
    uniform = (allowed / allowed.sum(1, keepdim=True))[:, None]
    for kind, index in (("q", 2), ("k", 0)):
        whole = before[kind, layer]
        nothing = Edit(kind, layer, oracle.patch(range(len(ids)), torch.zeros_like(whole), index))
        _, after = oracle.run(hf, ids, [nothing], keep)
        # without queries or keys every key weighs the same
        group = range(4 // whole.shape[1]) if kind == "k" else [index]
        others = [h for h in range(4) if h not in group]
        assert torch.allclose(after["pattern", layer][:, list(group)], uniform.expand(-1, len(group), -1), atol=1e-6)
        assert torch.equal(after["pattern", layer][:, others], before["pattern", layer][:, others])
    if getattr(hf.config, "attn_logit_softcapping", None) is None:
        # they are what is multiplied: after their norm, where there is one
        double = Edit("q", layer, oracle.formula(range(len(ids)), lambda a: 2 * a))
        _, after = oracle.run(hf, ids, [double], keep)
        weights = before["pattern", layer] ** 2
        assert torch.allclose(after["pattern", layer], weights / weights.sum(-1, keepdim=True), atol=1e-5)
